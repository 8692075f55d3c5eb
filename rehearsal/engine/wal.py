"""The write-ahead log beside a checkpoint: what a run has done since it was last saved whole.

    .pulumi/stacks/<project>/<stack>.json.wal    one JSON object a line

The first line names the checkpoint that it belongs to, by digest. Each other line is one entry:

    {"begin": [place, "creating", resource]}     an operation is under way
    {"put": [[place, resource or null], …], "end": place of the operation, or null}

A place is a number: those of the checkpoint's resources come first, in order, then its pending
operations, then whatever is put or begun at a new place. The log lives while a run does; each
`save` folds it in, and so does whatever reads the state of a run that was killed. The real CLI,
which knows nothing of it, finds the lock of the killed run first, and `python -m rehearsal cancel`,
which removes that lock, folds it in too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypedDict, TypeVar

Raw = dict[str, Any]
Put = tuple[int, Raw | None]
T = TypeVar("T")

SUFFIX: Final = ".wal"


class Entry(TypedDict, total=False):
    begin: tuple[int, str, Raw]
    put: list[Put]
    end: int | None


class DamagedError(ValueError):
    """The log is not what this module wrote."""


def header(digest: str) -> str:
    return json.dumps({"wal": 1, "checkpoint": digest}) + "\n"


def line(entry: Entry) -> str:
    return json.dumps(entry, separators=(",", ":")) + "\n"


def read(text: str) -> tuple[str, list[Entry]]:
    """(digest of the checkpoint, entries). A last line without its end was never acknowledged to
    anybody, and does not count."""
    whole = text.split("\n")[:-1]
    try:
        if not whole:
            return "", []
        first, *entries = (json.loads(item) for item in whole)
        return str(first["checkpoint"]), entries
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(str(error)) from error


def fold(deployment: Raw, entries: Iterable[Entry]) -> Raw:
    """The deployment as it is after the entries. Resources that were put at new places were dealt
    with by the run, and stand before those that it had not come to."""
    resources = list(deployment.get("resources") or ())
    pending = list(deployment.get("pending_operations") or ())
    count = len(resources)
    row: dict[int, Raw] = dict(enumerate(resources))
    under_way = dict(enumerate(pending, start=count))
    for entry in entries:
        if begun := entry.get("begin"):
            place, kind, resource = begun
            under_way[place] = {"resource": resource, "type": kind}
        if (end := entry.get("end")) is not None:
            under_way.pop(end, None)
        for place, now in entry.get("put") or ():
            if now is None:
                row.pop(place, None)
            else:
                row[place] = now
    news = [r for place, r in row.items() if place >= count]
    olds = [r for place, r in row.items() if place < count]
    folded = {**deployment, "resources": ordered([*news, *olds], _urn, _references)}
    folded.pop("pending_operations", None)
    if under_way:
        folded["pending_operations"] = list(under_way.values())
    return folded


def ordered(
    items: Sequence[T], urn: Callable[[T], str], references: Callable[[T], frozenset[str]]
) -> list[T]:
    """The same order, except that what an item refers to is moved before it when it is not."""
    first: dict[str, T] = {}
    for item in items:
        first.setdefault(urn(item), item)
    placed: dict[int, T] = {}

    def place(item: T) -> None:
        if id(item) in placed:
            return
        for needed in sorted(references(item) & first.keys()):
            if first[needed] is not item and id(first[needed]) not in placed:
                place(first[needed])
        placed[id(item)] = item

    for item in items:
        place(item)
    return list(placed.values())


def _urn(raw: Raw) -> str:
    return str(raw["urn"])


def _references(raw: Mapping[str, Any]) -> frozenset[str]:
    """As `state.Resource.references`."""
    by_property = (u for urns in (raw.get("propertyDependencies") or {}).values() for u in urns)
    single = (
        raw.get("parent", ""),
        str(raw.get("provider", "")).rpartition("::")[0],
        raw.get("deletedWith", ""),
    )
    return frozenset((*(raw.get("dependencies") or ()), *by_property, *single)) - {"", raw["urn"]}
