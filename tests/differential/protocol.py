"""What is wrong, or rare, before any model sees it: JSON, content types, routes, CSV and Parquet files."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .formats import CSV, JSON, PARQUET, Headers, Request, parquet
from .models import FLOWER

if TYPE_CHECKING:
    from collections.abc import Iterator


def malformed_json(good: str) -> Iterator[Request]:
    bodies: dict[str, bytes] = {
        "empty": b"",
        "white_space": b" \n\t",
        "truncated": good[: len(good) // 2].encode(),
        "last_brace_missing": good[:-1].encode(),
        "brace_too_many": good.encode() + b"}",
        "twice": good.encode() * 2,
        "two_lines": good.encode() + b"\n" + good.encode(),
        "nul_after": good.encode() + b"\x00",
        "nul_before": b"\x00" + good.encode(),
        "white_space_around": b" \r\n\t" + good.encode() + b"\r\n ",
        "form_feed_around": b"\x0c" + good.encode(),
        "random_bytes": bytes(np.random.default_rng(3).integers(0, 256, 64, dtype=np.uint8)),
        "not_utf8": good.encode()[:-1] + b', "\xff\xfe": 1}',
        "not_utf8_value": b'{"inputs": "\xe9t\xe9"}',
        "overlong_utf8": b'{"inputs": "\xc0\x80"}',
        "utf8_surrogate": b'{"inputs": "\xed\xa0\x80"}',
        "bom": b"\xef\xbb\xbf" + good.encode(),
        "utf16": good.encode("utf-16"),
        "utf16_no_bom": good.encode("utf-16-le"),
        "utf32": good.encode("utf-32"),
        "latin1": '{"inputs": "é"}'.encode("latin-1"),
        "list": b"[1, 2]",
        "list_empty": b"[]",
        "list_of_objects": f"[{good}]".encode(),
        "number": b"1",
        "float": b"1.5",
        "nan": b"NaN",
        "text": b'"abc"',
        "true": b"true",
        "null": b"null",
        "word": b"hello",
        "trailing_comma": good[:-1].encode() + b",}",
        "trailing_comma_list": b'{"inputs": [1, 2,]}',
        "single_quotes": good.replace('"', "'").encode(),
        "no_quotes": b"{inputs: [1]}",
        "number_key": b'{1: "a"}',
        "comment": b"/* a */ " + good.encode(),
        "hexadecimal": b'{"inputs": [0x10]}',
        "leading_zero": b'{"inputs": [01]}',
        "leading_plus": b'{"inputs": [+1]}',
        "leading_point": b'{"inputs": [.5]}',
        "trailing_point": b'{"inputs": [1.]}',
        "nan_lower_case": b'{"inputs": [nan]}',
        "infinity_short": b'{"inputs": [inf]}',
        "undefined": b'{"inputs": undefined}',
        "true_capital": b'{"inputs": True}',
        "control_character": b'{"inputs": "a\nb"}',
        "tab_in_text": b'{"inputs": "a\tb"}',
        "bad_escape": rb'{"inputs": "\x41"}',
        "short_escape": rb'{"inputs": "\u12"}',
        "deep_list": b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "deep_object": b'{"inputs": ' + b'{"a": ' * 100_000 + b"1" + b"}" * 100_001,
        "deep_unclosed": b"[" * 100_000,
        "nested_300": b'{"inputs": ' + b"[" * 300 + b"1" + b"]" * 300 + b"}",
        "number_of_5000_digits": b'{"inputs": [' + b"9" * 5000 + b"]}",
        "form": b"inputs=1&params=2",
        "xml": b"<inputs>1</inputs>",
    }
    for name, body in bodies.items():
        yield Request(f"json-{name}", body)


def content_types(good: str) -> Iterator[Request]:
    types: dict[str, Headers] = {
        "missing": (),
        "empty": (("Content-Type", ""),),
        "space": (("Content-Type", " "),),
        "charset": (("Content-Type", "application/json; charset=utf-8"),),
        "charset_no_space": (("Content-Type", "application/json;charset=utf-8"),),
        "charset_upper_case": (("Content-Type", "application/json; charset=UTF-8"),),
        "charset_name_upper_case": (("Content-Type", "application/json; Charset=utf-8"),),
        "charset_quoted": (("Content-Type", 'application/json; charset="utf-8"'),),
        "charset_utf8": (("Content-Type", "application/json; charset=utf8"),),
        "charset_utf16": (("Content-Type", "application/json; charset=utf-16"),),
        "charset_latin1": (("Content-Type", "application/json; charset=iso-8859-1"),),
        "charset_empty": (("Content-Type", "application/json; charset="),),
        "charset_twice": (("Content-Type", "application/json; charset=utf-16; charset=utf-8"),),
        "charset_spaced": (("Content-Type", "application/json ; charset = utf-8"),),
        "parameter": (("Content-Type", "application/json; format=pandas-split"),),
        "parameters": (("Content-Type", "application/json; format=pandas-split; b=1; charset=utf-8"),),
        "parameter_alone": (("Content-Type", "application/json; pandas"),),
        "semicolon": (("Content-Type", "application/json;"),),
        "upper_case": (("Content-Type", "Application/JSON"),),
        "header_upper_case": (("CONTENT-TYPE", "application/json"),),
        "spaces": (("Content-Type", "  application/json  "),),
        "text_plain": (("Content-Type", "text/plain"),),
        "text_json": (("Content-Type", "text/json"),),
        "octets": (("Content-Type", "application/octet-stream"),),
        "form": (("Content-Type", "application/x-www-form-urlencoded"),),
        "vendor_json": (("Content-Type", "application/vnd.api+json"),),
        "numpy_split": (("Content-Type", "application/json-numpy-split"),),
        "x_parquet": (("Content-Type", "application/x-parquet"),),
        "any": (("Content-Type", "*/*"),),
        "two": (("Content-Type", "application/json, text/csv"),),
        "header_twice": (("Content-Type", "application/json"), ("Content-Type", "text/plain")),
        "header_twice_turned": (("Content-Type", "text/plain"), ("Content-Type", "application/json")),
        "latin1": (("Content-Type", "application/json\xe9"),),
        "accept_csv": (("Content-Type", "application/json"), ("Accept", "text/csv")),
        "gzip_said_not_done": (("Content-Type", "application/json"), ("Content-Encoding", "gzip")),
        "chunked": (*JSON, ("Transfer-Encoding", "chunked")),
        "connection_close": (*JSON, ("Connection", "close")),
        "accept_gzip": (*JSON, ("Accept-Encoding", "gzip, deflate, br")),
        "accept_nothing": (*JSON, ("Accept", "application/xml")),
        "csv_but_json": CSV,
        "csv_charset": (("Content-Type", "text/csv; charset=utf-8"),),
        "csv_header": (("Content-Type", "text/csv; header=present"),),
        "csv_charset_latin1": (("Content-Type", "text/csv; charset=latin-1"),),
        "parquet_but_json": PARQUET,
    }
    for name, headers in types.items():
        yield Request(f"type-{name}", good.encode(), headers)


def routes(good: str) -> Iterator[Request]:
    targets = [
        *itertools.product(["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"], ["/invocations"]),
        *itertools.product(["GET", "HEAD", "POST", "OPTIONS"], ["/ping", "/health", "/version"]),
        *itertools.product(["GET", "POST"], ["/unknown", "/invocations/more", "/Invocations", "/ping/more"]),
        ("POST", "/invocations/"),
        ("GET", "/ping/"),
        ("GET", "/health/"),
        ("GET", "/version/"),
        ("POST", "/%69nvocations"),
        ("POST", "/invocations?verbose=1"),
        ("GET", "/ping?a=b"),
    ]
    for method, path in targets:
        name = (
            f"route-{method}-{path.strip('/').replace('/', '_') + ('_slash' if path.endswith('/') else '')}"
        )
        yield Request(name, good.encode() if method in ("POST", "PUT", "PATCH") else b"", JSON, method, path)


def protocol(good: str) -> Iterator[Request]:
    yield from malformed_json(good)
    yield from content_types(good)
    yield from routes(good)
    yield from bad_csv()
    yield from bad_parquet()


def bad_csv() -> Iterator[Request]:
    bodies: dict[str, bytes] = {
        "empty": b"",
        "new_line": b"\n",
        "header_only": ",".join(FLOWER).encode() + b"\n",
        "uneven": b"a,b\n1\n1,2,3\n1,2,3,4\n",
        "open_quote": b'a,b\n"1,2\n',
        "not_utf8": b"a,b\n\xff,2\n",
        "bom": b"\xef\xbb\xbf" + ",".join(FLOWER).encode() + b"\n1,2,3,4\n",
        "nul": b"a,b\n\x00,2\n",
        "windows": (",".join(FLOWER) + "\r\n1,2,3,4\r\n").encode(),
        "semicolons": (";".join(FLOWER) + "\n1;2;3;4\n").encode(),
        "missing_values": (",".join(FLOWER) + "\n1,,NA,nan\n").encode(),
        "words": (",".join(FLOWER) + "\n1,2,3,word\n").encode(),
        "quoted_numbers": (",".join(FLOWER) + '\n"1","2","3","4"\n').encode(),
        "name_twice": (",".join([FLOWER[0], *FLOWER]) + "\n1,2,3,4,5\n").encode(),
        "with_index": ("," + ",".join(FLOWER) + "\n0,1,2,3,4\n").encode(),
        "blank_lines": ("\n\n" + ",".join(FLOWER) + "\n\n1,2,3,4\n\n").encode(),
        "no_last_new_line": (",".join(FLOWER) + "\n1,2,3,4").encode(),
    }
    for name, body in bodies.items():
        yield Request(f"csv-{name}", body, CSV)


def bad_parquet() -> Iterator[Request]:
    whole = parquet(pd.DataFrame([[1.0, 2.0, 3.0, 4.0]], columns=FLOWER))
    bodies: dict[str, bytes] = {
        "empty": b"",
        "random": b"PAR1" + bytes(range(64)) + b"PAR1",
        "truncated": whole[: len(whole) // 2],
        "whole": whole,
        "with_index": parquet(pd.DataFrame([[1.0, 2.0, 3.0, 4.0]], columns=FLOWER, index=[7])),
        "no_rows": parquet(pd.DataFrame(columns=FLOWER, dtype="float64")),
        "float32": parquet(pd.DataFrame([[1.0, 2.0, 3.0, 4.0]], columns=FLOWER, dtype="float32")),
        "ints": parquet(pd.DataFrame([[1, 2, 3, 4]], columns=FLOWER)),
        "nullable": parquet(pd.DataFrame([[1, 2, 3, None]], columns=FLOWER, dtype="Int64")),
    }
    for name, body in bodies.items():
        yield Request(f"parquet-{name}", body, PARQUET)
