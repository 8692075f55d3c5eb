"""Finds references to our images in whatever holds them: objects of the cluster, states of a stack.

Any host and any namespace will do: a registry may have been renamed since, and one image too many
stays where one too few would be lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from ops.packages import IMAGES
from ops.retention import Reference

_REFERENCE: Final = re.compile(
    rf"(?<![\w.-])(?P<image>{'|'.join(IMAGES)})"
    r"(?::(?P<tag>[A-Za-z0-9_][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


def references_in(value: Any) -> frozenset[Reference]:
    """All references in the strings of a JSON value, keys and embedded documents included. One with
    a tag and a digest counts as both."""
    return frozenset(
        Reference(match["image"], name.lower())  # Gitea's versions are lower case
        for text in _strings(value)
        for match in _REFERENCE.finditer(text)
        for name in (match["tag"], match["digest"])
        if name
    )


def newest(states: Iterable[frozenset[Reference]], releases: int) -> frozenset[Reference]:
    """What the last so many releases refer to. `states`: what each past state of the stack refers
    to, newest first; a release is one that names an image which no newer one names (the states
    between, of a run that failed half way, name nothing new). Reads no further than it must."""
    found: frozenset[Reference] = frozenset()
    for state in states:
        if state <= found:
            continue
        if releases == 0:
            break
        found, releases = found | state, releases - 1
    return found


def _strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for key, item in value.items():
                yield key
                yield from _strings(item)
        case list():
            for item in value:
                yield from _strings(item)
