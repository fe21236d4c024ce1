"""The demo's e-mails and training; the server's part is tested end to end."""

from __future__ import annotations

import json
import logging
import os
import shlex
import warnings
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pytest

from mlflow_restaurant import demo
from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.emails import DemoDataError, join_text, load_emails, train_versions

REAL_EMAILS = Path(__file__).parents[3] / "shared" / "data" / "spamassassin.csv.gz"


def csv_file(folder: Path, text: str) -> Path:
    path = folder / "mails.csv"
    path.write_text(text)
    return path


def rows(label: str, count: int) -> str:
    return "".join(f"{label},subject {n},body {n}\n" for n in range(count))


class TestEmails:
    def test_shipped(self) -> None:
        emails = load_emails()

        counts = emails["label"].value_counts()
        assert list(emails.columns) == ["label", "subject", "body"]
        assert min(counts["spam"], counts["ham"]) >= 100
        assert not emails["body"].duplicated().any()

    def test_labels_are_normalized(self, tmp_path: Path) -> None:
        path = csv_file(tmp_path, "subject,label,body\n" + "a, SPAM,b\n" * 10 + "a,Ham ,b\n" * 10)

        assert set(load_emails(path)["label"]) == {"spam", "ham"}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is empty: a CSV file with the columns label, subject, body is needed"),
            ("label,subject,body\n", "holds no e-mails"),
            ("label,subject\nspam,x\n", "has no column body: the columns label, subject and body are needed"),
            ("a,b\n1,2\n", "has no column label and no column subject and no column body"),
            ("label,subject,body\n" + rows("spam", 20), "has 0 e-mails labelled ham: at least 10"),
            ("label,subject,body\n" + rows("spam", 20) + rows("ham", 3), "has 3 e-mails labelled ham"),
            ("label,subject,body\n" + rows("junk", 20), "has labels other than spam and ham: 'junk'"),
            ('label,subject,body\nspam,"x,y\n', "cannot be read as a CSV file"),
        ],
    )
    def test_refused(self, text: str, message: str, tmp_path: Path) -> None:
        with pytest.raises(DemoDataError, match=message):
            load_emails(csv_file(tmp_path, text))

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DemoDataError, match="cannot be read: No such file"):
            load_emails(tmp_path / "none.csv")

    def test_not_text(self, tmp_path: Path) -> None:
        (tmp_path / "mails.csv").write_bytes(b"\xff\xfe\x00\x01")

        with pytest.raises(DemoDataError, match="cannot be read as a CSV file"):
            load_emails(tmp_path / "mails.csv")

    def test_is_a_value_error(self) -> None:
        assert issubclass(DemoDataError, ValueError)


def test_join_text() -> None:
    frame = pd.DataFrame(
        {"subject": ["WIN $1,000", None], "body": ["See https://x.example/a NOW!!!", "room 12"]}
    )

    texts = [" ".join(text.split()) for text in join_text(frame)]

    assert texts == ["win moneyamount see weblink now manyexclamations", "room number"]


class TestHome:
    def test_a_temporary_home_takes_any_port_and_goes_away(self) -> None:
        with ExitStack() as cleanup:
            home = demo._prepare_home(None, False, cleanup)
            assert ControlClient(home).is_running()
            kept_apart = demo._store_folder(cleanup)
            assert not kept_apart.is_relative_to(home)

        assert not home.exists()
        assert not kept_apart.exists()

    def test_what_is_kept_lies_in_the_default_home(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_RESTAURANT_HOME", str(tmp_path))

        with ExitStack() as cleanup:
            home = demo._prepare_home(None, True, cleanup)
            assert not ControlClient(home).is_running()

        assert home == tmp_path

    def test_the_curl_command_can_be_pasted(self) -> None:
        words = shlex.split(demo._curl_command("http://127.0.0.1:5001/deployments/spam"))

        assert words[:2] == ["curl", "http://127.0.0.1:5001/deployments/spam/invocations"]
        assert json.loads(words[-1])["dataframe_split"]["columns"] == ["subject", "body"]

    def test_mlflow_is_silenced_only_for_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", raising=False)
        before = logging.getLogger("mlflow").level

        with demo._quiet():
            assert logging.getLogger("mlflow").level == logging.ERROR
            warnings.warn("not shown", stacklevel=1)

        assert logging.getLogger("mlflow").level == before
        assert "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR" not in os.environ


class TestTraining:
    def test_shipped_emails(self) -> None:
        versions = train_versions(load_emails())

        assert len(versions) == 2
        assert all(version.accuracy >= 0.9 for version in versions)
        scam = pd.DataFrame({"subject": ["You won!!!"], "body": ["Claim your free prize, click here now!"]})
        for version in versions:
            assert list(version.bundle.predict(scam)) == ["spam"]

    def test_is_repeatable(self) -> None:
        emails = load_emails()

        first, second = (train_versions(emails)[0].bundle.predict(emails) for _ in range(2))

        assert list(first) == list(second)

    @pytest.mark.skipif(not REAL_EMAILS.is_file(), reason="the SpamAssassin corpus is not on this machine")
    def test_real_emails(self) -> None:
        versions = train_versions(load_emails(REAL_EMAILS))

        assert all(version.accuracy >= 0.96 for version in versions)
