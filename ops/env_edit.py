"""Edits the text of an env file: the lines that change change, every other byte stays."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence


def with_values(text: str, values: Mapping[str, str], order: Sequence[str]) -> str:
    """`values` take the place of what their keys had. A new key goes behind the last one that
    stands before it in `order`, so that it comes to lie among its own; else to the end."""
    lines = text.splitlines(keepends=True)
    for key, value in values.items():
        where = _places(lines)
        if key in where:
            lines[where[key]] = f"{key}={value}\n"
            continue
        before = order[: order.index(key)] if key in order else ()
        after = next((where[known] for known in reversed(before) if known in where), None)
        at = len(lines) if after is None else after + 1
        if at and not lines[at - 1].endswith("\n"):
            lines[at - 1] += "\n"
        lines.insert(at, f"{key}={value}\n")
    return "".join(lines)


def without(text: str, keys: Collection[str]) -> str:
    """Takes the keys' lines out. A comment above them stays: it may speak of more than one."""
    lines = text.splitlines(keepends=True)
    gone = {line for key, line in _places(lines).items() if key in keys}
    return "".join(line for number, line in enumerate(lines) if number not in gone)


def _places(lines: Sequence[str]) -> dict[str, int]:
    """Key → its line's index. Comments and what is no KEY=value have none."""
    return {
        line.partition("=")[0]: number
        for number, line in enumerate(lines)
        if "=" in line and not line.startswith("#")
    }
