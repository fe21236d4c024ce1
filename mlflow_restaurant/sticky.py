"""By what a caller stays with one side of a split: ``client`` (its address), ``header:NAME``, or nothing."""

from __future__ import annotations

import re

from mlflow_restaurant.errors import InvalidRequest, quoted

CLIENT, HEADER, OFF = "client", "header:", "off"
HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}\Z")


def parse_sticky(value: object) -> str:
    """Read by what a caller stays with a deployment: ``client``, ``header:NAME``, or ``off``, which is nothing.

    Raises:
        InvalidRequest: it is none of these.
    """
    text = value.strip().lower() if isinstance(value, str) else ""
    if text == OFF:
        return ""
    is_header = text.startswith(HEADER) and HEADER_NAME.match(text[len(HEADER) :])
    if text != CLIENT and not is_header:
        raise InvalidRequest(
            f"Write sticky as client, header:NAME (such as header:x-user-id) or off, not {quoted(value)}."
        )
    return text
