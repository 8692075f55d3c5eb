"""Names that change when, and only when, the content does (docs/adr/0004)."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Final

DIGITS: Final = 10  # 40 bits: among a few hundred configurations two meet in one of 10⁷ stacks


def content_hash(data: Mapping[str, str]) -> str:
    """Ten hex digits of the SHA-256 over the canonical JSON of `data`, whatever its keys' order."""
    return hashlib.sha256(_canonical(data)).hexdigest()[:DIGITS]


def keyed_hash(data: Mapping[str, str], key: str) -> str:
    """Like `content_hash`, but HMAC-SHA256 with a key that only the stack's secrets hold.

    A Secret's name is readable by everyone who may list pods. A plain hash in it would let them
    test guesses of a weak password offline; without the key this one says only "changed".
    """
    if not key:
        raise ValueError("keyed_hash without a key would be a plain hash of secrets")
    return hmac.new(key.encode(), _canonical(data), hashlib.sha256).hexdigest()[:DIGITS]


def _canonical(data: Mapping[str, str]) -> bytes:
    return json.dumps(
        dict(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()
