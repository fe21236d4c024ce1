"""The e-mails of the demo, and two spam filters trained on them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from mlflow_restaurant.bundle import Bundle
from mlflow_restaurant.errors import InvalidRequest

LABELS = ("ham", "spam")
TEXT_COLUMNS = ["subject", "body"]
SEED = 42
FEWEST_ROWS_PER_LABEL = 10
SAMPLES_PER_LABEL = 2


class DemoDataError(InvalidRequest, ValueError):
    """The e-mails cannot be used for training; the message says why."""


@dataclass(frozen=True)
class TrainedVersion:
    """One version of the model.

    Attributes:
        bundle: takes a DataFrame with the columns ``subject`` and ``body``, gives ``spam`` or ``ham`` a row.
        description: what was done, for people.
        accuracy: share of right answers on the fifth of the e-mails that was kept apart, 0 to 1.
    """

    bundle: Bundle
    description: str
    accuracy: float


def load_emails(path: Path | None = None) -> pd.DataFrame:
    """Read and check the e-mails.

    Returns:
        DataFrame of shape (e-mails, 3) with the columns ``label``, ``subject``, ``body``, all of them strings.

    Raises:
        DemoDataError: the file cannot be read, is empty, lacks a column, or has too few e-mails of a label.
    """
    with ExitStack() as stack:
        file = path or stack.enter_context(
            resources.as_file(resources.files("mlflow_restaurant") / "data" / "emails.csv")
        )
        frame = _read_csv(file)
    missing = [name for name in ("label", *TEXT_COLUMNS) if name not in frame.columns]
    if missing:
        raise DemoDataError(
            f"{file} has no column {' and no column '.join(missing)}: the columns label, subject and body are needed."
        )
    if frame.empty:
        raise DemoDataError(
            f"{file} holds no e-mails: a header and at least {FEWEST_ROWS_PER_LABEL} of each label."
        )
    emails: pd.DataFrame = frame[["label", *TEXT_COLUMNS]].copy()
    emails["label"] = emails["label"].str.strip().str.lower()
    _check_labels(emails["label"], file)
    return emails


def _read_csv(file: Path) -> pd.DataFrame:
    try:
        frame: pd.DataFrame = pd.read_csv(file, dtype=str, keep_default_na=False)
        return frame
    except pd.errors.EmptyDataError:
        raise DemoDataError(
            f"{file} is empty: a CSV file with the columns label, subject, body is needed."
        ) from None
    except OSError as error:
        raise DemoDataError(f"{file} cannot be read: {error.strerror or error}.") from None
    except (ValueError, EOFError) as error:  # not a table, not UTF-8
        raise DemoDataError(f"{file} cannot be read as a CSV file: {str(error).strip()}.") from None


def _check_labels(labels: pd.Series[str], file: Path) -> None:
    counts = labels.value_counts()
    odd = sorted(set(counts.index) - set(LABELS))
    if odd:
        raise DemoDataError(f"{file} has labels other than spam and ham: {', '.join(map(repr, odd[:3]))}.")
    for label in LABELS:
        count = int(counts.get(label, 0))
        if count < FEWEST_ROWS_PER_LABEL:
            raise DemoDataError(
                f"{file} has {count} e-mails labelled {label}: at least {FEWEST_ROWS_PER_LABEL} of each label are needed."
            )


def train_versions(emails: pd.DataFrame) -> list[TrainedVersion]:
    """Train two versions on four fifths of the e-mails, and measure both on the fifth kept apart.

    Args:
        emails: as `load_emails` returns them.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    train, test = _split(emails)
    words = TfidfVectorizer(sublinear_tf=True, max_features=5_000)
    pairs = TfidfVectorizer(sublinear_tf=True, max_features=15_000, ngram_range=(1, 2), min_df=2)
    return [
        _train(train, test, words, 10.0, "single words"),
        _train(train, test, pairs, 30.0, "words and pairs of words"),
    ]


def join_text(emails: pd.DataFrame) -> pd.Series[str]:
    """Subject and body as one lower-case text a row; links, amounts of money and numbers become words."""
    text = (emails["subject"].fillna("") + " \n " + emails["body"].fillna("")).str.lower()
    for pattern, word in (
        (r"https?://\S+|www\.\S+", " weblink "),
        (r"[$€£]\s?\d[\d,.]*", " moneyamount "),
        (r"!{2,}", " manyexclamations "),
        (r"\d+", " number "),
    ):
        text = text.str.replace(pattern, word, regex=True)
    return text


def _split(emails: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(emails, test_size=0.2, stratify=emails["label"], random_state=SEED)
    return train, test


def _train(
    train: pd.DataFrame, test: pd.DataFrame, vectorizer: Any, regularization: float, description: str
) -> TrainedVersion:
    from sklearn.linear_model import LogisticRegression

    features = vectorizer.fit_transform(join_text(train))
    # skops writes each NumPy integer as a file of its own, and a plain one as a number.
    vectorizer.vocabulary_ = {term: int(column) for term, column in vectorizer.vocabulary_.items()}
    model = LogisticRegression(C=regularization, max_iter=1_000).fit(features, train["label"])
    bundle = Bundle(preprocess=[join_text, vectorizer], model=model)
    accuracy = float((bundle.predict(test[TEXT_COLUMNS]) == test["label"]).mean())
    return TrainedVersion(bundle, description, accuracy)


def samples(emails: pd.DataFrame) -> pd.DataFrame:
    """A few e-mails of each label that no version was trained on."""
    _, test = _split(emails)
    samples: pd.DataFrame = pd.concat(
        [test[test["label"] == label].sort_index().head(SAMPLES_PER_LABEL) for label in reversed(LABELS)]
    )
    return samples
