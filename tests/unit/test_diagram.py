"""The diagram of a bundle: what is in it, that it fits a terminal, and that nothing in it is read as markup."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mlflow_restaurant import Bundle
from mlflow_restaurant.bundle.diagram import (
    WIDTH,
    Part,
    Stage,
    as_html,
    as_text,
    listed,
    plain,
    public_module,
    stages_of,
)

FRAME = pd.DataFrame({"age": [30.0, None, 50.0, 20.0], "city": ["Oslo", "Rome", None, "Oslo"]})


def lower(frame: Any) -> Any:
    return frame


def to_names(labels: Any) -> Any:
    return labels


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = ColumnTransformer([("numbers", numbers, ["age"]), ("names", OneHotEncoder(), ["city"])])
    model = LogisticRegression().fit(columns.fit_transform(FRAME), [0, 1, 0, 1])
    return Bundle([lower, columns], model, to_names)


class TestText:
    def test_of_a_bundle(self, bundle: Bundle) -> None:
        lines = str(bundle).splitlines()

        assert (lines[0], lines[-1]) == ("raw data", "predictions")
        assert [line.split()[1] for line in lines if line.startswith("┌")] == [
            "preprocess",
            "model",
            "postprocess",
        ]
        for expected in (
            "│ 1  lower                ",
            "2  ColumnTransformer    sklearn.compose",
            "     age: SimpleImputer → StandardScaler (numbers)",
            "     city: OneHotEncoder (names)",
            "│ LogisticRegression      sklearn.linear_model",
            "│ to_names                ",
        ):
            assert expected in str(bundle)
        assert repr(bundle).startswith("Bundle(preprocess=[lower, ColumnTransformer]")

    def test_boxes_are_straight_and_fit_a_terminal(self, bundle: Bundle) -> None:
        boxes = [line for line in str(bundle).splitlines() if line[0] in "┌│└"]

        assert len({len(line) for line in boxes}) == 1
        assert len(boxes[0]) <= WIDTH

    def test_long_lines_are_cut(self) -> None:
        text = as_text([Stage("model", (Part("n" * 100, "m" * 100, ("d" * 200,)),))], width=40)

        assert {len(line) for line in text.splitlines()[2:-2]} == {40}
        assert "…" in text

    def test_wide_characters_are_counted_as_two(self) -> None:
        text = as_text([Stage("model", (Part("日本", "m"), Part("ab́", "m")))])

        first, second = text.splitlines()[3:5]
        assert first.index("m") + 2 == second.index("m") - 1

    def test_nothing_moves_the_cursor(self) -> None:
        text = as_text([Stage("model", (Part("a\x1b[31m\nb", "\r", ("c\td",)),))])

        assert "\x1b" not in text
        assert "\r" not in text
        assert "a\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}b" in text

    def test_no_stages(self) -> None:
        assert as_text([]).splitlines() == ["raw data", "   │", "predictions"]

    def test_one_model(self, bundle: Bundle) -> None:
        assert [stage.role for stage in stages_of(Bundle(model=bundle.model))] == ["model"]

    def test_how_the_model_is_called(self, bundle: Bundle) -> None:
        step = SimpleNamespace(role="model", name="LogisticRegression", target=bundle.model, kwargs={"n": 1})
        called = SimpleNamespace(
            steps=[step],
            predict_method="predict_proba",
            labels={0: "ham", 1: "spam"},
            params={"threshold": 0.5, "predict_method": "predict_proba"},
        )

        (stage,) = stages_of(called)

        assert stage.parts[0].details == (
            "n=1",
            "method predict_proba",
            "labels ham, spam",
            "params threshold=0.5",
        )

    def test_a_pipeline(self) -> None:
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit([[0.0], [1.0]], [0, 1])

        (stage,) = stages_of(Bundle(model=model))

        assert (stage.parts[0].name, stage.parts[0].origin) == ("Pipeline", "sklearn.pipeline")
        assert stage.parts[0].details[0] == "StandardScaler → LogisticRegression"

    def test_many_columns(self) -> None:
        columns = ColumnTransformer([(f"t{n}", StandardScaler(), [n]) for n in range(12)]).fit(
            [[0.0] * 12] * 2
        )

        (stage,) = stages_of(
            SimpleNamespace(steps=[SimpleNamespace(role="preprocess", name="c", target=columns, kwargs={})])
        )

        assert len(stage.parts[0].details) == 9
        assert stage.parts[0].details[-1] == "and 4 more"

    def test_columns_that_are_no_list(self) -> None:
        columns = ColumnTransformer([("a", "passthrough", slice(0, 1)), ("b", "drop", [1])]).fit(
            [[1, 2], [3, 4]]
        )

        (stage, _) = stages_of(Bundle(columns, LogisticRegression().fit([[0.0], [1.0]], [0, 1])))

        assert stage.parts[0].details[0].startswith("slice(0, 1, None): ")
        assert stage.parts[0].details[1] == "1: drop (b)"


class TestHtml:
    def test_of_a_bundle(self, bundle: Bundle) -> None:
        html = bundle._repr_html_()

        assert html.count("<small>preprocess</small>") == 1
        assert "<b>ColumnTransformer</b>" in html
        assert "age: SimpleImputer → StandardScaler (numbers)" in html
        assert "<script" not in html

    def test_all_text_is_escaped(self) -> None:
        html = as_html([Stage("<r>", (Part("<n>", "<o>", ('"<d>"',)),))])

        assert not any(mark in html for mark in ("<r>", "<n>", "<o>", "<d>", '"<'))
        assert "&lt;n&gt;" in html


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("sklearn.svm._classes", "sklearn.svm"),
        ("__main__", "__main__"),
        ("pandas", "pandas"),
        ("a._b.c", "a"),
    ],
)
def test_public_modules(module: str, expected: str) -> None:
    assert public_module(module) == expected


def test_lists_are_short() -> None:
    assert listed("ab") == "a, b"
    assert listed(range(10)) == "0, 1, 2, 3 and 6 more"
    assert plain("a b\té") == "a b\N{REPLACEMENT CHARACTER}é"
