"""Whether requests may be merged: what MLmodel says, what the input example shows, what is decided."""

from __future__ import annotations

import re
from typing import Any, Literal

import pytest

from mlflow_restaurant.control.batching import decide, disagreement, facts_of, needs_comparison
from mlflow_restaurant.entities import BatchFacts

SKLEARN = {"python_function": {"loader_module": "mlflow.sklearn"}, "sklearn": {}}
NUMBERS: list[dict[str, Any]] = [
    {"type": "double", "name": "a", "required": True},
    {"type": "string", "name": "b"},
]


def facts(**changes: Any) -> BatchFacts:
    return facts_of(SKLEARN, NUMBERS).model_copy(update=changes)


def tensor(shape: list[int], **more: Any) -> dict[str, Any]:
    return {"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": shape}, **more}


class TestFacts:
    @pytest.mark.parametrize("library", ["sklearn", "xgboost", "lightgbm", "catboost"])
    def test_flavors_that_are_row_wise_by_contract(self, library: str) -> None:
        found = facts_of({"python_function": {"loader_module": f"mlflow.{library}"}}, NUMBERS)

        assert found.row_wise
        assert "predict each row by itself" in found.reason
        assert found.library

    def test_any_other_pyfunc(self) -> None:
        found = facts_of({"python_function": {"loader_module": "mlflow.pyfunc.model"}}, NUMBERS)

        assert not found.row_wise
        assert not found.library
        assert "batching=on merges all the same" in found.reason

    @pytest.mark.parametrize(("saved", "expected"), [(True, True), (False, False), (None, False)])
    def test_a_bundle_says_it_itself(self, saved: bool | None, expected: bool) -> None:
        pyfunc = {"loader_module": "restaurant_bundle_12345678.loader"}
        conf = {"row_wise": saved, "row_wise_reason": "given"}

        found = facts_of({"python_function": pyfunc, "restaurant": conf}, NUMBERS)

        assert found.row_wise is expected
        assert not found.library
        assert ("(given)" in found.reason) is not expected

    def test_columns(self) -> None:
        found = facts()

        assert (found.columns, found.tensor, found.obstacle) == ({"a": "double", "b": "string"}, None, "")

    def test_a_tensor_of_fixed_rows(self) -> None:
        found = facts_of(SKLEARN, [tensor([-1, 28, 28])])

        assert (found.columns, found.tensor, found.obstacle) == (None, ("float32", (28, 28)), "")

    @pytest.mark.parametrize(
        ("inputs", "obstacle"),
        [
            (None, "no signature"),
            ([], "no signature"),
            ([{"type": "double"}], "have no names"),
            ([{"type": "datetime", "name": "at"}], "'at' has the type datetime"),
            ([{"type": "array", "items": {"type": "double"}, "name": "v"}], "'v' has the type array"),
            ([tensor([-1, -1])], r"shape \(-1, -1\)"),
            ([tensor([-1])], r"shape \(-1,\)"),
            ([tensor([4, 4])], r"shape \(4, 4\)"),
            ([tensor([-1, 4], name="x")], "named tensors"),
            ([tensor([-1, 4], name="x"), tensor([-1, 4], name="y")], "named tensors"),
        ],
    )
    def test_input_that_is_not_merged(self, inputs: Any, obstacle: str) -> None:
        found = facts_of(SKLEARN, inputs)

        assert (found.columns, found.tensor) == (None, None)
        assert re.search(obstacle, found.obstacle)


class TestDisagreement:
    def test_none(self) -> None:
        assert disagreement([b"1.0", b'"a"', b"3"], [[b"1.0000000000001"], [b'"a"']]) == ""

    @pytest.mark.parametrize(
        ("together", "alone", "text"),
        [
            (None, [[b"1"]], "no list"),
            ([b"1"], [None], "no list"),
            ([b"1", b"2"], [[b"1"], []], "row 2 of its input example alone does not give one"),
            ([b"1", b"2"], [[b"1", b"2"]], "row 1 of its input example alone does not give one"),
            ([b"1"], [[b"1"], [b"2"]], "row 2 of its input example alone does not give one"),
            ([b"1.0"], [[b"1"]], "row 1 .* is 1, not 1.0"),
            ([b"1.0", b"2.0"], [[b"1.0"], [b"2.00001"]], "row 2 .* is 2.00001, not 2.0"),
            ([b"NaN"], [[b"0.5"]], "row 1 .* is 0.5, not nan"),
            ([b'{"a": 1}'], [[b'{"b": 1}']], "row 1 .* has the columns"),
        ],
    )
    def test_found(self, together: Any, alone: Any, text: str) -> None:
        found = disagreement(together, alone)

        assert re.search(text, found)


Setting = Literal["auto", "on", "off"]


class TestDecision:
    @pytest.mark.parametrize(
        ("setting", "known", "disagrees", "chosen", "reason"),
        [
            ("auto", facts(), "", "on", "and the rows of the input example score the same"),
            ("auto", facts(), None, "off", "there is no input example to see it by; batching=on"),
            ("auto", facts(), "row 1 differs", "off", "row 1 differs"),
            ("auto", facts(row_wise=False, reason="it is odd"), None, "off", "it is odd"),
            ("auto", facts(obstacle="no signature"), "", "off", "no signature"),
            ("auto", None, None, "off", "fetched by a version that merged nothing"),
            ("on", facts(row_wise=False), None, "on", "as asked for"),
            ("on", facts(obstacle="no signature"), None, "off", "no signature"),
            ("off", facts(), "", "off", "as asked for"),
        ],
    )
    def test_table(
        self, setting: Setting, known: BatchFacts | None, disagrees: str | None, chosen: str, reason: str
    ) -> None:
        decision = decide(setting, known, disagrees)

        assert decision.chosen == chosen
        assert reason in decision.reason

    def test_a_step_that_is_not_the_librarys_own(self) -> None:
        decision = decide("auto", facts(), "", "its step 'fill' (FunctionTransformer)")

        assert decision.chosen == "off"
        assert decision.reason == (
            "its step 'fill' (FunctionTransformer) may look at several rows at once; batching=on merges all the same"
        )
        assert decide("on", facts(), "", "its step 'fill' (FunctionTransformer)").chosen == "on"

    @pytest.mark.parametrize(
        ("known", "own_step", "own_code"),
        [
            (facts(), "", False),
            (facts(), "its step 'fill' (Fill)", True),
            (facts(), None, True),  # of a replica that was adopted
            (facts(library=False), "", True),
            (None, "", True),
        ],
    )
    def test_whether_functions_of_the_author_may_predict(
        self, known: BatchFacts | None, own_step: str | None, own_code: bool
    ) -> None:
        assert decide("on", known, "", own_step).own_code is own_code

    def test_rows_are_compared_only_where_that_decides(self) -> None:
        assert needs_comparison("auto", facts())
        assert not needs_comparison("on", facts())
        assert not needs_comparison("off", facts())
        assert not needs_comparison("auto", None)
        assert not needs_comparison("auto", facts(row_wise=False))
        assert not needs_comparison("auto", facts(obstacle="x"))
