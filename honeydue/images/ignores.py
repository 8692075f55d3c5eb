"""deploy/trivyignore.yaml: the vulnerabilities that the operator accepts, each until a day.

In Trivy's own format (its configuration/filtering.md, .trivyignore.yaml), but stricter: each entry
must say why (`statement`) and until when (`expired_at`: from the beginning of that day, UTC, it
does not count any more, which is Trivy's own rule, pkg/result/ignore.go).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Final, cast

import yaml

FILE: Final = Path("deploy/trivyignore.yaml")
_LARGEST: Final = 256 << 10  # bytes


def plain(text: str, most: int = 120) -> str:
    """Text from elsewhere, fit for a terminal: no control characters, and not endless."""
    return "".join(c if c.isprintable() else "?" for c in text[:most])


@dataclass(frozen=True)
class Ignore:
    """One accepted vulnerability. `until`: the first day on which it stops a deploy again."""

    id: str
    until: date
    statement: str
    paths: tuple[str, ...] = ()
    purls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ignores:
    """The ignore file on one day."""

    active: tuple[Ignore, ...] = ()
    expired: tuple[Ignore, ...] = ()

    def render(self) -> str:
        """What Trivy is given: exactly what was checked, without the expired entries."""
        entries = [
            {
                "id": entry.id,
                "statement": entry.statement,
                "expired_at": entry.until,
                **({"paths": list(entry.paths)} if entry.paths else {}),
                **({"purls": list(entry.purls)} if entry.purls else {}),
            }
            for entry in self.active
        ]
        return yaml.safe_dump({"vulnerabilities": entries}, sort_keys=False)


class IgnoresError(Exception):
    """The ignore file is wrong: one (place, what is wrong, what to write) for each mistake."""

    def __init__(self, problems: Sequence[tuple[str, str, str]]) -> None:
        super().__init__(problems)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(
            f"  {place}\n    wrong  {wrong}\n    mend   {mend}"
            for place, wrong, mend in self.problems
        )


_EXAMPLE: Final = """\
{id: CVE-2026-12345, expired_at: 2026-12-31, statement: "not reachable: we never parse XML"}"""
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{2,79}")


def read_ignores(text: str, today: date) -> Ignores:
    """The text of deploy/trivyignore.yaml on a day (UTC). IgnoresError names every mistake."""
    if len(text) > _LARGEST:
        why = f"has {len(text)} characters; that is no list of exceptions any more"
        raise IgnoresError([("the file", why, "take out what is mended by now")])
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}" if mark else "the file"
        raise IgnoresError([(place, "is not YAML", f"- {_EXAMPLE}")]) from None
    except (ValueError, RecursionError):  # 2026-02-30 is read as a date, and is none
        raise IgnoresError(
            [("the file", "holds a date that does not exist", "expired_at: <YYYY-MM-DD>")]
        ) from None
    if content is None:
        return Ignores()
    if not isinstance(content, dict) or not isinstance(content.get("vulnerabilities") or [], list):
        raise IgnoresError(
            [("the file", "has no list `vulnerabilities`", f"vulnerabilities: [{_EXAMPLE}]")]
        )
    problems: list[tuple[str, str, str]] = [
        (f"{key}", "is no part of this file: only vulnerabilities are scanned for", "take it out")
        for key in content
        if key != "vulnerabilities"
    ]
    entries = []
    for number, raw in enumerate(content.get("vulnerabilities") or [], 1):
        entry = _entry(number, raw, problems)
        if entry:
            entries.append(entry)
    if problems:
        raise IgnoresError(problems)
    return Ignores(
        active=tuple(entry for entry in entries if entry.until > today),
        expired=tuple(entry for entry in entries if entry.until <= today),
    )


def _entry(number: int, raw: object, problems: list[tuple[str, str, str]]) -> Ignore | None:
    place = f"vulnerabilities[{number}]"
    if not isinstance(raw, dict):
        problems.append((place, "is no entry", f"- {_EXAMPLE}"))
        return None
    before = len(problems)

    def refuse(wrong: str, mend: str) -> None:
        problems.append((place, wrong, mend))

    name, until, statement = raw.get("id"), raw.get("expired_at"), raw.get("statement")
    if isinstance(name, str) and _ID.fullmatch(name):
        place = f"{place} ({name})"
    else:
        refuse("has no id of a vulnerability", "id: CVE-2026-12345")
    if isinstance(until, datetime):  # a date with a time; Trivy's documentation has both
        until = until.date()
    if until is None:
        refuse("never expires, so nobody would look at it again", "expired_at: <YYYY-MM-DD>")
    elif not isinstance(until, date):
        refuse("has an expired_at that is no date", "expired_at: <YYYY-MM-DD>")
    if not isinstance(statement, str) or not statement.strip():
        refuse("does not say why it is accepted", 'statement: "<why>"')
    for key in ("paths", "purls"):
        value = raw.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
            refuse(f"has {key} that are no list of texts", f'{key}: ["<one>"]')
    for key in raw.keys() - {"id", "expired_at", "statement", "paths", "purls"}:
        refuse(f"has a key that Trivy does not know: {plain(str(key))}", "take it out")
    if len(problems) > before:
        return None
    return Ignore(
        id=str(name),
        until=cast(date, until),
        statement=" ".join(str(statement).split()),
        paths=tuple(raw.get("paths", ())),
        purls=tuple(raw.get("purls", ())),
    )


def load_ignores(path: Path, today: date) -> Ignores:
    """The same of a file, which need not exist. IgnoresError, its places beginning with `path`."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return Ignores()
    except (OSError, UnicodeDecodeError):
        wrong = "cannot be read as text in UTF-8"
        raise IgnoresError([(str(path), wrong, f"chmod u+r {path}, or write it anew")]) from None
    try:
        return read_ignores(text, today)
    except IgnoresError as error:
        told = [(f"{path}: {at}", wrong, mend) for at, wrong, mend in error.problems]
        raise IgnoresError(told) from None
