"""No line that is shown holds a value of the cluster's Secrets.

What an application logs, and what Kubernetes quotes, is written by others: a panic shows the whole
database URL, password included.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote

Hide = Callable[[str], str]

# Shorter ones (a port, "true") are no secrets, and without them no line would be readable.
SHORTEST: Final = 6
MASK: Final = "[secret]"

_LOGIN: Final = re.compile(r"(?P<before>\b[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+(?=@)")
_BEARER: Final = re.compile(r"(?P<before>\b(?:Bearer|Basic) )[A-Za-z0-9._~+/=-]{8,}")


def hiding(values: Iterable[str]) -> Hide:
    """Masks each of `values`, and what looks like a login in a URL or a header."""
    forms = sorted({form for value in values for form in _forms(value)}, key=len, reverse=True)
    known = re.compile("|".join(map(re.escape, forms))) if forms else None

    def hide(text: str) -> str:
        if known is not None:
            text = known.sub(MASK, text)
        return _BEARER.sub(rf"\g<before>{MASK}", _LOGIN.sub(rf"\g<before>{MASK}", text))

    return hide


def values_of(secrets: Iterable[Any]) -> Iterator[str]:
    """The values of Secrets as the API server lists them (base64). What is no text is no line."""
    for secret in secrets:
        data = secret.get("data") if isinstance(secret, dict) else None
        for value in (data or {}).values():
            try:
                yield base64.b64decode(value, validate=True).decode()
            except (binascii.Error, ValueError, TypeError):
                continue


def _forms(value: str) -> Iterator[str]:
    """As it may stand in a line: itself, each of its lines, quoted, in base64, within JSON. Of a
    document (the pull secret) the strings in it."""
    if len(value.strip()) < SHORTEST:
        return
    bare = value.strip()
    yield from {
        value,
        bare,
        quote(bare, safe=""),
        base64.b64encode(value.encode()).decode(),
        json.dumps(bare)[1:-1],
    }
    lines = bare.splitlines()
    if len(lines) > 1:
        # The first and last line of a PEM are everybody's.
        yield from (line for line in lines if len(line) >= 16 and not line.startswith("-----"))
    if bare.startswith("{"):
        try:
            yield from (form for text in _strings(json.loads(bare)) for form in _forms(text))
        except ValueError:
            return


def _strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            # Names are none (`username` of the pull secret is half of `admin/honeydue-api`).
            for key, item in value.items():
                if key != "username":
                    yield from _strings(item)
        case list():
            for item in value:
                yield from _strings(item)
