"""Which properties differ, in the way Pulumi writes property paths (`rules[2].port`)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from rehearsal.engine.provider import UNKNOWN


def changed_paths(old: Any, new: Any, at: str = "") -> tuple[str, ...]:
    """The paths of everything that was added, removed or changed; UNKNOWN counts as changed.

    A property that is None is the same as one that is absent, as in Pulumi's protocol.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = [*old, *(name for name in new if name not in old)]
        return tuple(
            path
            for name in names
            for path in changed_paths(old.get(name), new.get(name), _member(at, str(name)))
        )
    if isinstance(old, list) and isinstance(new, list):
        return tuple(
            path
            for index, (before, after) in enumerate(zip_longest(old, new))
            for path in changed_paths(before, after, f"{at}[{index}]")
        )
    same = new is not UNKNOWN and _exact(old) == _exact(new)
    return () if same else (at,)


def _exact(value: Any) -> Any:
    """Keeps 1 and True apart, which Python calls equal, but not 1 and 1.0, which JSON does not."""
    return (bool, value) if isinstance(value, bool) else value


def root(path: str) -> str:
    """The property that a path is in: `rules` of `rules[2].port`."""
    for index, character in enumerate(path):
        if character in ".[":
            return path[:index]
    return path


def _member(at: str, name: str) -> str:
    plain = name.replace("_", "").replace("-", "").isalnum()
    if not plain:
        return f'{at}["{name}"]'
    return f"{at}.{name}" if at else name
