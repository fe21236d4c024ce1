"""What hostile callers send: each a function of a random generator, so that it can be sent again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

NAME = "siege"
PATH = f"/deployments/{NAME}/invocations".encode()


class Ending(Enum):
    """How an attacker leaves."""

    ANSWERED = auto()
    """After an answer, or when the server closes the connection."""
    HALF_CLOSED = auto()
    """The same, but having ended its own side first."""
    QUIET = auto()
    """Soon; with what came until then."""
    DEAF = auto()
    """Soon, without ever reading."""


@dataclass(frozen=True)
class Attack:
    """What one connection sends, and how it ends."""

    sent: bytes
    ending: Ending = Ending.ANSWERED


def rows(number: float, count: int = 1) -> bytes:
    return json.dumps({"dataframe_split": {"columns": ["a", "b"], "data": [[number, 1.0]] * count}}).encode()


def request(body: bytes, *headers: bytes, path: bytes = PATH, length: bool = True) -> bytes:
    lines = [b"POST %b HTTP/1.1" % path, b"Host: x", b"Content-Type: application/json", *headers]
    return b"\r\n".join([*lines, *([b"Content-Length: %d" % len(body)] if length else []), b"", body])


def get(path: bytes, *headers: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([b"%b %b %b" % (method, path, version), b"Host: x", *headers, b"", b""])


def random_bytes(draw: random.Random) -> Attack:
    return Attack(draw.randbytes(draw.randrange(1, 2000)), Ending.QUIET)


def random_body(draw: random.Random) -> Attack:
    return Attack(request(draw.randbytes(draw.randrange(1, 2000))))


def truncated_json(draw: random.Random) -> Attack:
    body = rows(draw.random(), 3)
    return Attack(request(body[: draw.randrange(len(body))]))


def deep_nesting(draw: random.Random) -> Attack:
    opening = draw.choice([b"[", b'{"a":', b'{"dataframe_split":', b'{"inputs":['])
    depth = draw.choice([50, 1000, 10_000, 100_000])
    before = draw.choice([b"", b'{"dataframe_split": {"columns": ["a", "b"], "data": '])
    return Attack(request(before + opening * depth))


def odd_values(draw: random.Random) -> Attack:
    values = [
        b"1" * draw.choice([30, 5000]),
        b"1e999",
        b"-" + b"9" * 400,
        b"1e-9999",
        b"NaN",
        b'"%b"' % (b"x" * draw.choice([1, 100_000])),
        b'"\\u0000"',
        b'"\\ud800"',
        b"null",
        b"{}",
        b"[[[1]]]",
        b'"\x00"',
        b'"\xff\xfe"',
    ]
    row = b"[%b, %b]" % (draw.choice(values), draw.choice(values))
    return Attack(request(b'{"dataframe_split": {"columns": ["a", "b"], "data": [%b]}}' % row))


def odd_text(draw: random.Random) -> Attack:
    texts = [
        rows(1.0).replace(b'"a"', b'"\x00"'),
        rows(1.0).replace(b'"a"', b'"\xc3\x28"'),
        rows(1.0).replace(b'"a"', b'"a", "a"'),
        rows(1.0)[:-1] + b', "dataframe_split": {"columns": [], "data": []}}',
        b'{"dataframe_split": {"columns": ["a"], "columns": ["b"], "data": [[1]]}}',
        b"\xef\xbb\xbf" + rows(1.0),
        rows(1.0).decode().encode("utf-16"),
        b'{"inputs": {"a": [1], "b": [1, 2]}, "params": {"x": [1]}}',
        b"[]",
        b"null",
        b"",
    ]
    return Attack(request(draw.choice(texts)))


def wrong_length(draw: random.Random) -> Attack:
    body = rows(draw.random())
    lengths = [
        [b"Content-Length: %d" % (len(body) + 50)],
        [b"Content-Length: 99999999999999999999999"],
        [b"Content-Length: 5"],
    ]
    return Attack(request(body, *draw.choice(lengths), length=False), Ending.QUIET)


def impossible_length(draw: random.Random) -> Attack:
    body = rows(draw.random())
    lengths = [
        [b"Content-Length: -1"],
        [b"Content-Length: 0x10"],
        [b"Content-Length: 10", b"Content-Length: 11"],
        [b"Content-Length: 10", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked, gzip"],
        [b"Content-Length: %d" % (1 << 40)],
    ]
    return Attack(request(body, *draw.choice(lengths), length=False))


def broken_chunks(draw: random.Random) -> Attack:
    body = rows(draw.random())
    chunks = [
        b"xyz\r\n",
        b"-1\r\n" + body,
        b"ffffffffffffffffff\r\n" + body,
        b"%x\r\n%bzz" % (len(body), body),
        b"%x;%b\r\n" % (len(body), b"a" * 200_000),
    ]
    return Attack(request(draw.choice(chunks), b"Transfer-Encoding: chunked", length=False))


def endless_headers(draw: random.Random) -> Attack:
    lines = [b"x: y\r\n" * 40_000, b"x: " + b"y" * 200_000, b"x" * 200_000, b" folded\r\n" * 20_000]
    return Attack(request(b"", draw.choice(lines)))


def giant_url(draw: random.Random) -> Attack:
    size = draw.choice([1000, 60_000, 300_000])
    return Attack(get(draw.choice([b"/", PATH + b"?", b"/deployments/"]) + b"a" * size))


def odd_method(draw: random.Random) -> Attack:
    methods = [b"BREW", b"TRACE", b"OPTIONS", b"DELETE", b"PUT", b"PATCH", b"get", b"CONNECT", b"\x00"]
    return Attack(get(draw.choice([PATH, b"/ping", b"*", b"x:80"]), method=draw.choice(methods)))


def upgrade(draw: random.Random) -> Attack:
    asked = draw.choice([b"websocket", b"h2c", b"HTTP/2.0", b"x" * 1000])
    return Attack(get(b"/ping", b"Connection: Upgrade", b"Upgrade: " + asked) + draw.randbytes(100))


def other_version(draw: random.Random) -> Attack:
    texts = [
        b"GET /ping\r\n\r\n",
        get(b"/ping", version=b"HTTP/1.0"),
        get(b"/ping", version=b"HTTP/9.9"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + draw.randbytes(50),
        b"\x16\x03\x01" + draw.randbytes(200),
    ]
    return Attack(draw.choice(texts), Ending.QUIET)


def flood(draw: random.Random) -> Attack:
    one = draw.choice([get(b"/ping"), request(rows(1.0)), request(b"{")])
    return Attack(one * draw.randrange(2, 50))


def long_flood(draw: random.Random) -> Attack:
    return Attack(get(b"/ping") * 20_000, Ending.DEAF)


def half_closed(draw: random.Random) -> Attack:
    whole = request(rows(draw.random()))
    return Attack(whole[: draw.randrange(1, len(whole) + 1)], Ending.HALF_CLOSED)


def broken_off(draw: random.Random) -> Attack:
    whole = request(rows(draw.random(), draw.choice([1, 100])))
    return Attack(whole[: draw.randrange(1, len(whole) + 1)], Ending.DEAF)


def deaf(draw: random.Random) -> Attack:
    return Attack(request(rows(1.0, 500)) * 10, Ending.DEAF)


def odd_path(draw: random.Random) -> Attack:
    paths = [
        b"/deployments/nobody/invocations",
        b"/deployments/%s/invocations" % (b"%zz" * 5),
        b"/deployments/%00/invocations",
        b"/deployments/%ff%fe/invocations",
        b"/deployments/../../etc/passwd",
        b"/endpoints/%2e%2e%2f/invocations",
        b"/deployments//invocations",
        b"/deployments/" + NAME.encode() + b"/%0d%0aX:%20y",
        b"/deployments/" + NAME.encode() + b"/../x",
        b"/\xff\xfe",
        b"http://elsewhere/ping",
        b"",
    ]
    path = draw.choice(paths)
    return Attack(draw.choice([get(path), request(rows(1.0), path=path)]))


def huge_batch(draw: random.Random) -> Attack:
    return Attack(request(rows(1.0, draw.choice([5000, 20_000]))))


def odd_header(draw: random.Random) -> Attack:
    lines = [
        b"x-request-id: " + b"a" * 5000,
        b"x-request-id: \x01",
        b"x: \xff\xfe",
        b": nameless",
        b"x y: z",
        b"Content-Type: " + draw.randbytes(20).replace(b"\r", b"").replace(b"\n", b""),
        b"Content-Type: text/csv",
        b"Content-Encoding: gzip",
        b"Expect: 200-maybe",
        b"Connection: close, keep-alive, x",
    ]
    return Attack(request(rows(draw.random()), draw.choice(lines)))


Weapon = Callable[[random.Random], Attack]
COMMON: list[Weapon] = [
    random_bytes,
    random_body,
    truncated_json,
    odd_values,
    odd_text,
    wrong_length,
    impossible_length,
    broken_chunks,
    odd_method,
    upgrade,
    other_version,
    half_closed,
    broken_off,
    odd_path,
    odd_header,
]
COSTLY: list[Weapon] = [deep_nesting, endless_headers, giant_url, flood, long_flood, deaf, huge_batch]
COSTLY_SHARE = 0.02
