"""When each step of a run began and ended, against what had to come before it. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One resource's time in a run; seconds since the run began."""

    urn: str
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


def steps_of(raw: Sequence[Mapping[str, object]]) -> dict[str, Step]:
    """By URN, from `Backend.last_up`. Steps of one resource (a replacement's) become one."""
    steps: dict[str, Step] = {}
    for said in raw:
        urn, begin, end = str(said["urn"]), float(str(said["begin"])), float(str(said["end"]))
        known = steps.get(urn)
        if known is not None:
            begin, end = min(begin, known.begin), max(end, known.end)
        steps[urn] = Step(urn, begin, end)
    return steps


def critical_path(steps: Mapping[str, Step], needs: Mapping[str, frozenset[str]]) -> list[str]:
    """The chain of needs that takes longest, first to last: no run, however parallel, is shorter
    than its steps' seconds. `needs` must name each resource after what it needs."""
    length: dict[str, float] = {}
    before: dict[str, str | None] = {}
    for urn, needed in needs.items():
        best = max(
            (n for n in sorted(needed) if n in length), key=lambda n: length[n], default=None
        )
        own = steps[urn].seconds if urn in steps else 0.0
        length[urn] = own + (length[best] if best is not None else 0.0)
        before[urn] = best
    path: list[str] = []
    at = max(length, key=lambda urn: length[urn], default=None)
    while at is not None:
        path.append(at)
        at = before[at]
    return path[::-1]


def waits(
    steps: Mapping[str, Step], needs: Mapping[str, frozenset[str]]
) -> list[tuple[float, str, str]]:
    """(seconds, URN, what it waited for last) of every step that did not begin as soon as all that
    it needs was there; longest first."""
    found = []
    for urn, step in steps.items():
        there = [steps[n] for n in sorted(needs.get(urn, ())) if n in steps]
        if not there:
            continue
        last = max(there, key=lambda s: s.end)
        found.append((step.begin - last.end, urn, last.urn))
    return sorted(found, reverse=True)
