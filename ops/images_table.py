"""The table of `images list` and `prune`: one row for what an operator thinks of as one thing.

A release is an image, its platforms, its signature and its SBOM: five versions in the registry,
one line on the terminal.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from rich.table import Table
from rich.text import Text

from ops.packages import IMAGES
from ops.retention import Version, is_digest, short

GOES: Final = "goes"


def table(fates: Mapping[Version, str], now: datetime) -> Table:
    """`fates`: why each version stays, or GOES."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("Image", "Release", "Digest", "Age"):
        shown.add_column(column, no_wrap=True)
    shown.add_column("Size", justify="right", no_wrap=True)
    shown.add_column("Kept because")
    shown.add_column("With it", style="dim")
    last = ""
    for head, parts in families(fates):
        blobs = {blob: size for v in (head, *parts) for blob, size in v.blobs.items()}
        fate = fates[head]
        shown.add_row(
            head.image if head.image != last else "",
            _called(head),
            short(head.digest),
            _age(now - head.created),
            megabytes(sum(blobs.values())),
            Text(fate, style="red" if fate == GOES else ""),
            _with(head, parts),
        )
        last = head.image
    return shown


def _called(head: Version) -> str:
    """The tag; what has none worth reading, in words: a pin whose tag was overwritten."""
    if is_digest(head.name):
        return "(untagged)"
    return f"({head.kind})" if head.owners and not head.subject else head.name


def families(fates: Mapping[Version, str]) -> list[tuple[Version, list[Version]]]:
    """What is a row of its own, newest first, and the children and signatures that share its fate;
    what only belongs to others is in their rows."""
    parts: dict[Version, list[Version]] = defaultdict(list)
    by_digest: dict[tuple[str, str], list[Version]] = defaultdict(list)
    for version in fates:
        by_digest[version.image, version.digest].append(version)
    for version in fates:
        # A child may have a tag of its own: that is a release and not a part.
        children = [c for d in version.children for c in by_digest[version.image, d]]
        for child in children:
            if is_digest(child.name):
                parts[version].append(child)
        for digest in version.owners:
            for owner in by_digest[version.image, digest]:
                parts[owner].append(version)
        if is_digest(version.name):
            continue
        for same in by_digest[version.image, version.digest]:
            if is_digest(same.name):
                parts[version].append(same)

    def alike(one: Version, other: Version) -> bool:
        return (fates[one] == GOES) == (fates[other] == GOES) and one is not other

    def newest_first(versions: Iterable[Version]) -> list[Version]:
        found = sorted(versions, key=lambda v: (v.created, v.id), reverse=True)
        return sorted(found, key=lambda v: order.get(v.image, len(order)))

    order = {image: place for place, image in enumerate(IMAGES)}
    inside = {part for head, found in parts.items() for part in found if alike(head, part)}
    rows = {head: _all_below(head, parts, alike) for head in newest_first(fates.keys() - inside)}
    # Tags that name each other are in no row but their own.
    lost = fates.keys() - rows.keys() - {part for found in rows.values() for part in found}
    return [*rows.items(), *((version, []) for version in newest_first(lost))]


def _all_below(
    head: Version,
    parts: Mapping[Version, list[Version]],
    alike: Callable[[Version, Version], bool],
) -> list[Version]:
    found: list[Version] = []
    waiting = [head]
    while waiting:
        above = waiting.pop()
        for part in parts.get(above, ()):
            if part not in found and part is not head and alike(head, part):
                found.append(part)
                waiting.append(part)
    return found


def _with(head: Version, parts: Iterable[Version]) -> str:
    """`signature, attestation`, `2 manifests, signature`."""
    kinds = Counter(
        part.kind if part.owners else "manifest" for part in parts if part.digest != head.digest
    )
    return ", ".join(kind if n == 1 else f"{n} {kind}s" for kind, n in sorted(kinds.items()))


def megabytes(size: int) -> str:
    if size < 1_000_000:
        return f"{size / 1000:.0f} kB" if size >= 1000 else f"{size} B"
    return f"{size / 1_000_000:.0f} MB" if size < 10_000_000_000 else f"{size / 1e9:.0f} GB"


def _age(since: timedelta) -> str:
    minutes = max(0, int(since.total_seconds() // 60))
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // (24 * 60)} d"
