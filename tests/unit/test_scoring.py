"""What may be merged, how it is merged and split; rows of requests and items of answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_restaurant.entities import BatchRoute
from mlflow_restaurant.gateway import layout, scoring, values
from mlflow_restaurant.gateway.scoring import Part, Reader, has_missing, merge, predictions_of, rows_of, split


def body(payload: object) -> bytes:
    return json.dumps(payload).encode()


class TestRows:
    @pytest.mark.parametrize(
        ("payload", "rows"),
        [
            (
                {"dataframe_split": {"columns": ["a", "b"], "data": [[1, "x"], [2.0, None]]}},
                [
                    {"dataframe_split": {"columns": ["a", "b"], "data": [[1, "x"]]}},
                    {"dataframe_split": {"columns": ["a", "b"], "data": [[2.0, None]]}},
                ],
            ),
            (
                {"dataframe_split": {"index": [7, 9], "columns": ["a"], "data": [[1], [2]]}},
                [
                    {"dataframe_split": {"index": [7], "columns": ["a"], "data": [[1]]}},
                    {"dataframe_split": {"index": [9], "columns": ["a"], "data": [[2]]}},
                ],
            ),
            ({"dataframe_split": {"data": [[1]]}}, [{"dataframe_split": {"data": [[1]]}}]),
            (
                {"dataframe_records": [{"a": 1}, {"a": 2}], "params": {"p": 0.5}},
                [
                    {"dataframe_records": [{"a": 1}], "params": {"p": 0.5}},
                    {"dataframe_records": [{"a": 2}], "params": {"p": 0.5}},
                ],
            ),
            ({"instances": [[1, 2], [3, 4]]}, [{"instances": [[1, 2]]}, {"instances": [[3, 4]]}]),
            ({"inputs": ["x", "y"]}, [{"inputs": ["x"]}, {"inputs": ["y"]}]),
            (
                {"inputs": {"a": [1, 2], "b": ["x", "y"]}},
                [{"inputs": {"a": [1], "b": ["x"]}}, {"inputs": {"a": [2], "b": ["y"]}}],
            ),
            ({"inputs": {"a": 1, "b": "x"}}, [{"inputs": {"a": 1, "b": "x"}}]),
            ({"instances": []}, []),
        ],
    )
    def test_one_request_a_row(self, payload: object, rows: list[object]) -> None:
        found = rows_of(body(payload))

        assert found is not None
        assert [json.loads(row) for row in found] == rows

    @pytest.mark.parametrize(
        "payload",
        [
            [],
            {},
            {"params": {}},
            {"instances": [1], "inputs": [1]},
            {"instances": [1], "odd": 1},
            {"instances": 1},
            {"instances": {"a": [1]}},
            {"inputs": "x"},
            {"inputs": {}},
            {"inputs": {"a": [1], "b": 1}},
            {"inputs": {"a": [1], "b": [1, 2]}},
            {"dataframe_split": [[1]]},
            {"dataframe_split": {"columns": ["a"]}},
            {"dataframe_split": {"data": {"a": 1}}},
            {"dataframe_split": {"index": [1], "data": [[1], [2]]}},
            {"dataframe_split": {"index": 1, "data": [[1]]}},
            {"dataframe_records": {"a": 1}},
        ],
    )
    def test_what_has_no_rows_to_tell_apart(self, payload: object) -> None:
        assert rows_of(body(payload)) is None

    @pytest.mark.parametrize("garbage", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
    def test_what_is_no_json(self, garbage: bytes) -> None:
        assert rows_of(garbage) is None

    def test_missing_numbers_stay(self) -> None:
        assert rows_of(b'{"instances": [NaN, 1e400]}') == [
            b'{"instances": [NaN]}',
            b'{"instances": [Infinity]}',
        ]


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
predictions = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)


class TestPredictions:
    @given(st.lists(predictions, max_size=6))
    def test_items_are_those_that_were_written(self, items: list[Any]) -> None:
        assert predictions_of(body({"predictions": items})) == [body(item) for item in items]

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"{}",
            b'{"predictions": 1}',
            b'{"predictions": {"a": [1]}}',
            b'{"predictions":[1]}',
            b'{"predictions": [1], "metadata": [1]}',
            b'{"predictions": [1,2, "x"]}',
            b'{"predictions": ["x" , "y"]}',
            b'{"predictions": ["x", ]}',
            b'{"predictions": ["x]}',
            b'{"predictions": ["\xff"]}',
            b'{"predictions": ' + b"[" * 100_000 + b"]}",
            b'{"error_code": "BAD_REQUEST"}',
        ],
    )
    def test_whatever_else_has_none(self, answer: bytes) -> None:
        assert predictions_of(answer) is None

    def test_numbers_stay_as_they_were_written(self) -> None:
        answer = b'{"predictions": [1, 1.0, 1e22, NaN, -Infinity, -0.0, 0.1000000000000000055, null, true]}'

        found = predictions_of(answer)

        assert found == [
            b"1",
            b"1.0",
            b"1e22",
            b"NaN",
            b"-Infinity",
            b"-0.0",
            b"0.1000000000000000055",
            b"null",
            b"true",
        ]


COLUMNS = {"a": "double", "b": "long", "c": "string"}


def reader(**columns: str) -> Reader:
    return Reader(BatchRoute(max_rows=100, wait_ms=0, columns=columns or COLUMNS))


def tensor(kind: str, *shape: int) -> Reader:
    return Reader(BatchRoute(max_rows=100, wait_ms=0, tensor=(kind, shape)))


def framed(
    rows: str, before: str = '{"dataframe_split": {"columns": ["a", "b", "c"], "data": ', after: str = "}}"
) -> bytes:
    return (before + rows + after).encode()


def one(value: str, kind: str) -> Part | None:
    """Parse a request with one value in one column of a type."""
    return reader(x=kind).parse(framed(f"[[{value}]]", '{"dataframe_split": {"columns": ["x"], "data": '))


def merged(read: Reader, *bodies: bytes) -> object:
    parts = [read.parse(b) for b in bodies]
    found = [part for part in parts if part is not None]
    assert len(found) == len(bodies)
    assert len({part.kind for part in found}) == 1
    return json.loads(merge(found))


PLAIN = '[[1.5, 2, "x"]]'


class TestMerging:
    def test_rows_are_put_together_as_they_were_written(self) -> None:
        read = reader()
        parts = [
            read.parse(framed(rows)) for rows in ('[[1.50, 2, "x"]]', '[[1e0,2,"\\u00e9"],[-0.0,-0,"é"]]')
        ]

        assert [part.count for part in parts if part] == [1, 2]
        assert merge([part for part in parts if part]) == framed(
            '[[1.50, 2, "x"],[1e0,2,"\\u00e9"],[-0.0,-0,"é"]]'
        )

    @pytest.mark.parametrize(
        ("first", "second", "together"),
        [
            (
                {"dataframe_records": [{"a": 1.0, "b": 2, "c": "x"}]},
                {"dataframe_records": [{"a": 3.0, "b": 4, "c": "y"}]},
                {"dataframe_records": [{"a": 1.0, "b": 2, "c": "x"}, {"a": 3.0, "b": 4, "c": "y"}]},
            ),
            (
                {"instances": [{"a": 1.0, "b": 2, "c": None}]},
                {"instances": [{"a": 3.0, "b": 4, "c": None}]},
                {"instances": [{"a": 1.0, "b": 2, "c": None}, {"a": 3.0, "b": 4, "c": None}]},
            ),
            (
                {"inputs": {"a": [1.0], "b": [2], "c": ["x"]}},
                {"inputs": {"a": [3.0, 5.0], "b": [4, 6], "c": ["y", "z"]}},
                {"inputs": {"a": [1.0, 3.0, 5.0], "b": [2, 4, 6], "c": ["x", "y", "z"]}},
            ),
            (
                {
                    "dataframe_split": {"data": [[1.0, 2, "x"]], "columns": ["a", "b", "c"]},
                    "params": {"p": 1},
                },
                {
                    "dataframe_split": {"data": [[3.0, 4, "y"]], "columns": ["a", "b", "c"]},
                    "params": {"p": 1},
                },
                {
                    "dataframe_split": {"data": [[1.0, 2, "x"], [3.0, 4, "y"]], "columns": ["a", "b", "c"]},
                    "params": {"p": 1},
                },
            ),
        ],
    )
    def test_every_format(self, first: object, second: object, together: object) -> None:
        assert merged(reader(), body(first), body(second)) == together

    def test_a_list_of_values_for_the_only_column(self) -> None:
        assert merged(reader(t="string"), b'{"inputs": ["a]", "b"]}', b'{"inputs": ["}]c"]}') == {
            "inputs": ["a]", "b", "}]c"]
        }

    def test_a_null_is_merged_with_floats_in_a_column_of_floats(self) -> None:
        rows = merged(
            reader(), *map(framed, ('[[1.5, 2, "x"]]', '[[null, 2, "x"]]', '[[2.5, 2, "x"], [null, 2, "x"]]'))
        )

        assert rows == {
            "dataframe_split": {
                "columns": ["a", "b", "c"],
                "data": [[1.5, 2, "x"], [None, 2, "x"], [2.5, 2, "x"], [None, 2, "x"]],
            }
        }

    @pytest.mark.parametrize(
        "rows", ['[[1e300, 2, "x"], [null, 2, "x"]]', '[[1.5, 2, "x"], [null, null, "x"]]']
    )
    def test_it_makes_no_other_value_fit(self, rows: str) -> None:
        assert reader().parse(framed(rows)) is None

    def test_tensors(self) -> None:
        read = tensor("float32", 2)

        assert merged(read, b'{"inputs": [[1.0, 2.0]]}', b'{"inputs": [[3.0, 4.0], [5.0, 6.0]]}') == {
            "inputs": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
        }
        assert merged(tensor("int64"), b'{"instances": [1, 2]}', b'{"instances": [3]}') == {
            "instances": [1, 2, 3]
        }

    def test_the_same_request_written_otherwise_is_merged_too(self) -> None:
        indented = json.dumps(json.loads(framed(PLAIN)), indent=2).encode()
        compact = json.dumps(json.loads(framed(PLAIN)), separators=(",", ":")).encode()

        rows = merged(reader(), framed(PLAIN), indented, compact)

        assert rows == {"dataframe_split": {"columns": ["a", "b", "c"], "data": [[1.5, 2, "x"]] * 3}}

    @pytest.mark.parametrize(
        "other",
        [
            framed('[[1, 2, "x"]]'),
            framed("[[1.5, 2, null]]"),
            framed(PLAIN, after='}, "params": {}}'),
            framed(PLAIN, after='}, "params": {"p": 1}}'),
            framed('[["x", 1.5, 2]]', '{"dataframe_split": {"columns": ["c", "a", "b"], "data": '),
            b'{"dataframe_records": [{"a": 1.5, "b": 2, "c": "x"}]}',
            b'{"dataframe_records": [{"b": 2, "a": 1.5, "c": "x"}]}',
            b'{"instances": [{"a": 1.5, "b": 2, "c": "x"}]}',
            b'{"inputs": [{"a": 1.5, "b": 2, "c": "x"}]}',
            b'{"inputs": {"a": [1.5], "b": [2], "c": ["x"]}}',
        ],
    )
    def test_what_is_merged_only_with_its_own_kind(self, other: bytes) -> None:
        read = reader()
        first, second, again = (read.parse(b) for b in (framed(PLAIN), other, other))

        assert first is not None
        assert second is not None
        assert again is not None
        assert first.kind is not second.kind
        assert second.kind is again.kind

    def test_one_params_value_is_another_as_a_float(self) -> None:
        read = reader()
        kinds = {
            part.kind
            for value in ("1", "1.0", "true", '"1"')
            if (part := read.parse(framed(PLAIN, after=f'}}, "params": {{"p": {value}}}}}'))) is not None
        }

        assert len(kinds) == 4


class TestAlone:
    @pytest.mark.parametrize(
        "odd",
        [
            b"",
            b"[]",
            b"null",
            b"\xff",
            b"\xef\xbb\xbf" + framed(PLAIN),
            framed(PLAIN).decode().encode("utf-16"),
            framed("[]"),
            framed("[[]]"),
            framed("[[1.5, 2]]"),
            framed('[[1.5, 2, "x", 4]]'),
            framed('[[1.5, 2, "x"], [1, 2, "x"]]'),
            framed('[[1.5, 2, "x"], []]'),
            framed('[[1.5, 2, "x"], {"a": 1.5, "b": 2, "c": "x"}]'),
            framed('[[1.5, 2, "x"]'),
            framed('[[1.5, 2, "x"]]]'),
            framed('[[1.5, 2, ["x"]]]'),
            framed('[[1.5, 2, {"x": 1}]]'),
            framed('[[NaN, 2, "x"]]'),
            framed('[[Infinity, 2, "x"]]'),
            framed('[[1e400, 2, "x"]]'),
            framed('[[1.5, 2, "\\ud800"]]'),
            framed(PLAIN, '{"dataframe_split": {"index": [0], "columns": ["a", "b", "c"], "data": '),
            framed(PLAIN, '{"dataframe_split": {"columns": ["a", "b"], "data": '),
            framed(PLAIN, '{"dataframe_split": {"columns": ["a", "b", "b"], "data": '),
            framed(PLAIN, '{"dataframe_split": {"columns": ["a", "b", "d"], "data": '),
            framed(PLAIN, '{"dataframe_split": {"columns": ["a", "b", 3], "data": '),
            framed(PLAIN, '{"dataframe_split": {"columns": "abc", "data": '),
            framed(PLAIN, '{"dataframe_split": {"data": '),
            framed(PLAIN, '{"dataframe_split": {"data": [], "columns": ["a", "b", "c"], "data": '),
            framed(PLAIN, '{"x": 1, "dataframe_split": {"columns": ["a", "b", "c"], "data": '),
            framed(PLAIN, '{"instances": 1, "dataframe_split": {"columns": ["a", "b", "c"], "data": '),
            framed(PLAIN, '{"dataframe_split": 1, "dataframe_split": {"columns": ["a", "b", "c"], "data": '),
            framed(PLAIN, after='}, "params": null}'),
            framed(PLAIN, after='}, "params": [1]}'),
            framed(PLAIN, after='}, "params": {"p": [1]}}'),
            framed(PLAIN, after='}, "params": {"p": {}}}'),
            framed(PLAIN, after='}, "params": {"p": NaN}}'),
            framed(PLAIN, after='}, "params": {"p": 1, "p": 2}}'),
            framed(PLAIN, after='}, "messages": []}'),
            framed(PLAIN, after="}} x"),
            framed(
                PLAIN, '{"dataframe_split": {"columns": ["' + "a" * layout.MAX_TEXT + '", "b", "c"], "data": '
            ),
            b'{"dataframe_split": {"columns": ["[[1]]"], "data": []}}',
            b'{"dataframe_records": []}',
            b'{"dataframe_records": [{}]}',
            b'{"dataframe_records": {"a": [1.5], "b": [2], "c": ["x"]}}',
            b'{"dataframe_records": [{"a": 1.5, "b": 2}]}',
            b'{"dataframe_records": [{"a": 1.5, "b": 2, "c": "x", "d": 1}]}',
            b'{"dataframe_records": [{"a": 1.5, "b": 2, "c": "x", "c": "x"}]}',
            b'{"dataframe_records": [{"a": 1.5, "b": 2, "c": "x", "\\u0063": "x"}]}',
            b'{"dataframe_records": [{"a": 1.5, "b": 2, "c": "x"}, {"b": 2, "a": 1.5, "c": "x"}]}',
            b'{"dataframe_records": [{"a": 1.5, "b": 2, "c": "x"}, [1.5, 2, "x"]]}',
            b'{"dataframe_records": [[1.5, 2, "x"]]}',
            b'{"instances": [[1.5, 2, "x"]]}',
            b'{"instances": [1.5]}',
            b'{"instances": {"a": [1.5], "b": [2], "c": ["x"]}}',
            b'{"inputs": {"a": 1.5, "b": 2, "c": "x"}}',
            b'{"inputs": {"a": [], "b": [], "c": []}}',
            b'{"inputs": {"a": [1.5], "b": [2, 3], "c": ["x"]}}',
            b'{"inputs": {"a": [1.5], "b": [2], "c": ["x"], "c": ["y"]}}',
            b'{"inputs": {"a": [1.5], "b": [2], "c": "x"}}',
            b'{"inputs": {"a": [1.5], "b": [2]}}',
            b'{"inputs": "x"}',
        ],
    )
    def test_what_goes_alone(self, odd: bytes) -> None:
        assert reader().parse(odd) is None

    @pytest.mark.parametrize("kind", values.COLUMN_KINDS)
    @pytest.mark.parametrize(
        ("value", "where"),
        [
            ("1.5", {"double", "float"}),
            ("-0.0", {"double", "float"}),
            ("1e300", set()),
            ("1e18", {"double", "float"}),
            ("1e19", set()),
            ("0", {"double", "float", "long", "integer"}),
            ("-0", {"double", "float", "long", "integer"}),
            ("2147483647", {"double", "float", "long", "integer"}),
            ("2147483648", {"double", "float", "long"}),
            ("9223372036854775807", {"double", "float", "long"}),
            ("-9223372036854775808", {"double", "float", "long"}),
            ("9223372036854775808", set()),
            ("18446744073709551616", set()),
            ("-9223372036854775809", set()),
            ("1" + "0" * 400, set()),
            ("true", {"boolean"}),
            ("null", {"double", "float", "string"}),
            ('"1"', {"string"}),
            ('""', {"string"}),
            ("[1]", set()),
            ("{}", set()),
        ],
    )
    def test_which_values_suit_which_column(self, kind: str, value: str, where: set[str]) -> None:
        assert (one(value, kind) is not None) == (kind in where)

    @pytest.mark.parametrize("kind", ["datetime", "binary", "any", "Array(double)"])
    def test_a_column_of_another_type_keeps_all_requests_alone(self, kind: str) -> None:
        read = reader(a="double", b=kind)

        assert read.parse(b'{"dataframe_split": {"columns": ["a", "b"], "data": [[1.5, 1.5]]}}') is None
        assert read.parse(b'{"dataframe_split": {"columns": ["a"], "data": [[1.5]]}}') is None

    def test_without_a_known_signature_everything_goes_alone(self) -> None:
        assert Reader(BatchRoute(max_rows=9, wait_ms=0)).parse(framed(PLAIN)) is None

    @pytest.mark.parametrize(
        ("read", "odd"),
        [
            (tensor("float32", 2), b'{"inputs": [[1.0, 2.0, 3.0]]}'),
            (tensor("float32", 2), b'{"inputs": [[1.0, 2]]}'),
            (tensor("float32", 2), b'{"inputs": [[1.0, null]]}'),
            (tensor("float32", 2), b'{"inputs": [1.0, 2.0]}'),
            (tensor("float32", 2), b'{"inputs": [[[1.0], [2.0]]]}'),
            (tensor("float32", 2), b'{"inputs": {"x": [[1.0, 2.0]]}}'),
            (tensor("float32", 2), b'{"inputs": []}'),
            (tensor("float32", 2), b'{"dataframe_split": {"columns": ["a", "b"], "data": [[1.0, 2.0]]}}'),
            (tensor("float32", -1), b'{"inputs": [[1.0, 2.0]]}'),
            (tensor("uint8", 1), b'{"inputs": [[256]]}'),
            (tensor("uint8", 1), b'{"inputs": [[-1]]}'),
            (tensor("int8", 1), b'{"inputs": [[1.0]]}'),
            (tensor("object", 1), b'{"inputs": [["x"]]}'),
            (tensor("bool"), b'{"inputs": [1]}'),
        ],
    )
    def test_which_tensors_go_alone(self, read: Reader, odd: bytes) -> None:
        assert read.parse(odd) is None

    def test_large_bodies_are_not_read(self) -> None:
        rows = ", ".join(['[1.5, 2, "x"]'] * 5000)

        assert len(framed(f"[{rows}]")) > scoring.MAX_BODY
        assert reader().parse(framed(f"[{rows}]")) is None

    def test_callers_with_ever_new_texts_fill_no_memory(self) -> None:
        read = reader()
        for number in range(3 * layout.KEPT_TEXTS):
            assert read.parse(framed(PLAIN, after=f'}}, "params": {{"p": {number}}}}}')) is not None

        assert len(read.layouts.texts) <= layout.KEPT_TEXTS
        assert len(read.kinds) <= scoring.KEPT_KINDS

    def test_ever_new_kinds_of_rows_fill_no_memory(self) -> None:
        columns = {f"c{i}": "double" for i in range(12)}
        read, texts = reader(**columns), ("1", "1.5", "null")
        for number in range(3**7):
            row = {name: texts[number // 3**i % 3] for i, name in enumerate(columns)}
            assert read.parse(
                ('{"instances": [{' + ", ".join(f'"{n}": {v}' for n, v in row.items()) + "}]}").encode()
            )

        assert len(read.kinds) <= scoring.KEPT_KINDS

    @given(st.binary(max_size=80) | st.binary(max_size=30).map(lambda garbage: framed(PLAIN)[:50] + garbage))
    def test_whatever_comes_is_no_trouble(self, garbage: bytes) -> None:
        assert reader().parse(garbage) is None

    @given(st.integers(0, 200), st.binary(max_size=3))
    def test_a_changed_byte_means_the_same_or_alone(self, at: int, new: bytes) -> None:
        spoiled = framed(PLAIN)[:at] + new + framed(PLAIN)[at + 1 :]
        part = reader().parse(spoiled)

        if part is not None:
            payload = layout.strictly(spoiled)
            assert set(payload) == {"dataframe_split"}
            assert payload["dataframe_split"]["columns"] == ["a", "b", "c"]
            assert json.loads(merge([part])) == payload


class TestNames:
    @given(
        st.lists(st.text(alphabet='ab,:"\\[{é', max_size=3), min_size=1, max_size=3, unique=True), st.data()
    )
    def test_a_key_that_is_there_twice_is_seen_whatever_the_names(
        self, names: list[str], data: st.DataObject
    ) -> None:
        read = reader(**dict.fromkeys(names, "string"))
        items = [(name, data.draw(st.text(alphabet='ab,:"\\[{é', max_size=3))) for name in names]
        twice = data.draw(st.booleans())
        written = [*items, items[data.draw(st.integers(0, len(items) - 1))]] if twice else items
        text = ", ".join(f"{json.dumps(n)}: {json.dumps(v, ensure_ascii=False)}" for n, v in written)

        part = read.parse(f'{{"dataframe_records": [{{{text}}}]}}'.encode())

        assert (part is None) == twice


class TestSplitting:
    def test_one_row_each(self) -> None:
        assert split(b'{"predictions": [1, NaN, [2, {"a": "x, y"}]]}', [1, 1, 1]) == [
            b'{"predictions": [1]}',
            b'{"predictions": [NaN]}',
            b'{"predictions": [[2, {"a": "x, y"}]]}',
        ]

    def test_several_rows_each(self) -> None:
        assert split(b'{"predictions": [1, 2.50, 3]}', [2, 1]) == [
            b'{"predictions": [1, 2.50]}',
            b'{"predictions": [3]}',
        ]

    @pytest.mark.parametrize(
        "answer", [b'{"predictions": [1]}', b'{"predictions": [1, 2, 3]}', b"[1, 2]", b""]
    )
    def test_not_one_prediction_for_each_row(self, answer: bytes) -> None:
        assert split(answer, [1, 1]) is None

    @given(st.lists(st.lists(predictions, min_size=1, max_size=3), min_size=1, max_size=5))
    def test_everyone_gets_what_is_theirs(self, answers: list[list[Any]]) -> None:
        together = body({"predictions": [item for answer in answers for item in answer]})

        assert split(together, [len(answer) for answer in answers]) == [
            body({"predictions": answer}) for answer in answers
        ]


class TestMissing:
    @pytest.mark.parametrize(
        "answer",
        [
            b"[1.0, NaN]",
            b"[null]",
            b'["a", null]',
            b'[{"null": 1, "b": null}]',
            b'["NaN", [1, NaN]]',
            b'["\\\\", null, "x"]',
        ],
    )
    def test_is_seen(self, answer: bytes) -> None:
        assert has_missing(b'{"predictions": %b}' % answer)

    @pytest.mark.parametrize("answer", [b"[1.0, 2]", b'["null"]', b'["a \\" NaN"]', b'[{"null": 1}]', b"[]"])
    def test_text_is_none(self, answer: bytes) -> None:
        assert not has_missing(b'{"predictions": %b}' % answer)

    @given(st.lists(predictions, max_size=4))
    def test_as_a_parser_sees_it(self, answer: list[Any]) -> None:
        def is_missing(value: Any) -> bool:
            if isinstance(value, dict):
                return any(map(is_missing, value.values()))
            if isinstance(value, list):
                return any(map(is_missing, value))
            return value is None or value != value

        assert has_missing(body({"predictions": answer})) == is_missing(answer)
