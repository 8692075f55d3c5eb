"""`ops history`: who did what to the stack and when, as the engine's own records have it.

For an audit it can be exported whole (`--json`, `--csv`). Of the settings that a run had, only the
keys are told, and of its environment nothing but the commit: values are, or may be, secrets.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final, Literal

from rich.console import Console
from rich.text import Text

from ops.engine import Engine, Run
from ops.message import Message
from ops.releases import who
from ops.table import cells, plain, table

# How the engine calls what it did to a resource (pkg/resource/deploy: StepOp), and its signs.
CHANGES: Final[Mapping[str, tuple[str, ...]]] = {
    "+": ("create", "import"),
    "~": ("update",),
    "-": ("delete", "discard"),
    "+-": ("replace",),  # its parts, create-replacement and delete-replaced, are not counted too
}
_VERBS: Final[Mapping[str, str]] = {"update": "up"}
_COLUMNS: Final = (
    *("number", "kind", "result", "startedAt", "endedAt", "seconds", "by"),
    *("created", "updated", "deleted", "replaced", "unchanged", "commit", "dirty", "message"),
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One run. `changes`: the engine's word → how many resources. `took`: seconds, None while it
    is under way."""

    number: int
    kind: str
    result: str
    started: datetime
    ended: datetime | None
    by: str
    message: Message
    text: str
    changes: Mapping[str, int]
    commit: str
    dirty: bool | None
    config_keys: Sequence[str]

    @property
    def took(self) -> float | None:
        return None if self.ended is None else (self.ended - self.started).total_seconds()

    def count(self, *words: str) -> int:
        return sum(self.changes.get(word, 0) for word in words)


def entry(run: Run) -> Entry:
    message = Message.parse(run.message)
    dirty = run.environment.get("git.dirty")
    return Entry(
        number=run.number,
        kind=run.kind,
        result=run.result,
        started=run.started,
        ended=None if run.result == "in-progress" else run.ended,
        by=who(run, message),
        message=message,
        text=run.message,
        changes=dict(run.changes),
        commit=run.environment.get("git.head", ""),
        dirty=None if dirty is None else dirty == "true",
        config_keys=sorted(run.config),
    )


def show(
    engine: Engine,
    console: Console,
    *,
    limit: int | None,
    form: Literal["table", "json", "csv"],
) -> None:
    """Newest first. `limit`: None for all of it. Raises Refused when a record cannot be read."""
    found = [entry(run) for run in islice(engine.runs(), limit)]
    if form == "json":
        print(json.dumps({"stack": engine.stack, "runs": list(map(document, found))}, indent=2))
    elif form == "csv":
        export(found)
    elif not found:
        console.print(f"nothing was ever run on {engine.stack}")
    else:
        shown = table("No", "Began (UTC)", "Took", "What", "Result", "Changes", "By", "Message")
        for each in found:
            shown.add_row(*_row(each))
        console.print(shown)
        if len(found) == limit:
            console.print(f"\nolder ones: --limit {limit * 2}")


def _row(each: Entry) -> tuple[Text, ...]:
    styles = {"failed": "red", "in-progress": "yellow"}
    return (
        *cells(each.number, f"{each.started:%Y-%m-%d %H:%M}", _took(each.took)),
        *cells(plain(_VERBS.get(each.kind, each.kind))),
        Text(plain(each.result.replace("in-progress", "under way")), styles.get(each.result, "")),
        *cells(_changes(each), plain(each.by), plain(each.message.subject) or None),
    )


def _changes(each: Entry) -> str:
    """`+3 ~1 -3`."""
    shown = {sign: each.count(*words) for sign, words in CHANGES.items()}
    return " ".join(f"{sign}{count}" for sign, count in shown.items() if count) or "none"


def _took(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def document(of: Entry) -> dict[str, Any]:
    """For `--json`: the keys are a contract; what is not known is null."""
    return {
        "number": of.number,
        "kind": of.kind,
        "result": of.result,
        "startedAt": of.started.isoformat(),
        "endedAt": of.ended.isoformat() if of.ended else None,
        "seconds": of.took,
        "by": None if of.by == "?" else of.by,
        "message": of.text,
        "trailers": dict(of.message.trailers),
        "changes": dict(of.changes),
        "commit": of.commit or None,
        "dirty": of.dirty,
        "configKeys": list(of.config_keys),
    }


def export(found: Iterable[Entry]) -> None:
    """CSV to standard output, a header first."""
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(_COLUMNS)
    for each in found:
        row = document(each)
        counts = [each.count(*words) for words in CHANGES.values()]
        created, updated, deleted, replaced = counts
        values = row | {
            "created": created,
            "updated": updated,
            "deleted": deleted,
            "replaced": replaced,
            "unchanged": each.count("same"),
            "message": each.message.subject,
        }
        out.writerow([_cell(values[column]) for column in _COLUMNS])


def _cell(value: object) -> object:
    """A spreadsheet takes text that begins like a formula for one, and works it out."""
    if isinstance(value, str):
        text = plain(value)
        return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
    return "" if value is None else value
