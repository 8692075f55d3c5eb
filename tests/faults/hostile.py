"""Stack files that nobody should be able to hang, crash or confuse the program with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import yaml

MEMORY: Final = 600 * 2**20
"""Bytes of resident memory that a refusal may take: the SDK and the vendors' types need 200 MB."""
SECONDS: Final = 10.0
"""Of processor time, so that a busy machine fails no test. Each takes about one here, and what is
not refused takes minutes, or for ever."""


@dataclass(frozen=True)
class Hostile:
    """`make` turns the good stack file into a bad one; `says` is what the error must name."""

    name: str
    make: Callable[[str], bytes]
    says: tuple[str, ...]


def _set(path: str, value: object) -> Callable[[str], bytes]:
    def make(good: str) -> bytes:
        stack = yaml.safe_load(good)
        *parents, last = path.split(".")
        place = stack["config"]
        for parent in parents:
            place = place[parent]
        place[last] = value
        return yaml.safe_dump(stack, sort_keys=False, allow_unicode=False, width=10**9).encode()

    return make


def _and(text: str) -> Callable[[str], bytes]:
    return lambda good: (good + "\n" + text).encode()


def _laughs(_good: str) -> bytes:
    lines = ['a0: &a0 ["lol"]']
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    return ("config:\n" + "".join(f"  {line}\n" for line in lines)).encode()


def _one(word: str, instead: str) -> Callable[[str], bytes]:
    def make(good: str) -> bytes:
        assert word in good
        return good.replace(word, instead, 1).encode()

    return make


FILE: Final = "Pulumi.rehearsal.yaml"
HOSTILE: Final = (
    Hostile("a value of a million characters", _set("honeydue:dns.api", "a" * 10**6), ("dns.api",)),
    Hostile(
        "control characters in a name", _set("honeydue:dns.api", "api\x07\x1b[2J.test"),
        ("dns.api",),
    ),
    Hostile("NUL in a name", _set("honeydue:dns.admin", "ad\0min.honeydue.test"), ("dns.admin",)),
    Hostile(
        "a look-alike letter", _set("honeydue:dns.api", "\u0430pi.honeydue.test"), ("dns.api",)
    ),
    Hostile(
        "text that turns direction", _set("honeydue:registry.username", "ad\u202enim"),
        ("registry.username",),
    ),
    Hostile("an emoji as label", _set("honeydue:cluster.name", "\U0001f41d"), ("cluster.name",)),
    Hostile("billion laughs", _laughs, (FILE, "anchors expand")),
    Hostile("an anchor on itself", _and("loop: &loop [*loop]"), (FILE,)),
    Hostile("ten thousand nested lists", _and("deep: " + "[" * 10**4), (FILE, "nested")),
    Hostile("ten thousand nested maps", _and("deep: " + "{a: " * 10**4), (FILE, "nested")),
    Hostile(
        "the same key twice",
        _one("  honeydue:dns:", '  honeydue:protect: "true"\n  honeydue:dns:'),
        (FILE, "honeydue:protect", "twice"),
    ),
    Hostile(
        "the same key twice, deep inside",
        _one("    ssl: flexible", "    ssl: flexible\n    ssl: strict"),
        (FILE, "ssl", "twice"),
    ),
    Hostile("tabs for indentation", _one("    zoneId:", "\tzoneId:"), (FILE, "line 37")),
    Hostile("a NUL byte in the file", lambda good: good.encode() + b"\0", (FILE,)),
    Hostile("bytes that are no text", lambda good: good.encode() + b"\xff\xfe\xfa", (FILE,)),
    Hostile("a file of 10 MB", lambda good: good.encode() + b"# " + b"x" * 10**7, (FILE, "MB")),
    Hostile("a list instead of a map", lambda _good: b"- config\n", (FILE,)),
    Hostile("a Python object", _and("x: !!python/object/apply:os.system [ls]"), (FILE, "python")),
)  # fmt: skip
HARMLESS: Final = {
    "a byte order mark": lambda good: b"\xef\xbb\xbf" + good.encode(),
    "Windows' line ends": lambda good: good.replace("\n", "\r\n").encode(),
}
