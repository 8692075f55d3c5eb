"""Random registries and histories, and what it means to pull from one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import strategies as st

from honeydue.images.references import CACHE_TAG
from ops.retention import Reference, Version

NOW = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)
IMAGES = ("honeydue-api", "honeydue-worker")


def digest(text: str | int) -> str:
    return f"sha256:{hashlib.sha256(str(text).encode()).hexdigest()}"


def attached(to: str, suffix: str = ".sig") -> str:
    """The tag of what belongs to the digest `to`."""
    return to.replace(":", "-") + suffix


def version(
    name: str,
    manifest: str | None = None,
    *,
    days: float = 100,
    image: str = "honeydue-api",
    children: Iterable[str] = (),
    subject: str = "",
    blobs: dict[str, int] | None = None,
) -> Version:
    """`days`: how old it is. Its manifest is of 1 kB; `manifest`: its digest."""
    found = manifest or (name if name.startswith("sha256:") else digest(f"{image}:{name}"))
    return Version(
        id=int(hashlib.sha256(f"{image}:{name}".encode()).hexdigest()[:8], 16),
        image=image,
        name=name,
        created=NOW - timedelta(days=days),
        digest=found,
        children=frozenset(children),
        subject=subject,
        blobs={found: 1000, **(blobs or {})},
    )


def registries() -> st.SearchStrategy[list[Version]]:
    """Up to twenty versions in two packages: releases, dirty ones, tags by hand, indexes with
    children (there or not), signatures of anything, signatures included, referrers by subject,
    overwritten tags (their old manifest left behind, untagged), a cache, shared layers."""
    return st.builds(_registry, st.integers(1, 20), st.integers(0, 2**32))


def _registry(rows: int, seed: int) -> list[Version]:
    # Drawing each part by itself would take hypothesis a hundred times as long.
    chance = Random(seed)
    digests = [digest(n) for n in range(chance.randint(1, 9))]
    manifests = []
    for n in range(len(digests)):
        below = [*digests[:n], digest("not there")]
        parts = chance.sample(below, min(len(below), chance.choice((0, 0, 1, 2, 3))))
        subject = chance.choice(below) if chance.random() < 0.2 else ""
        shared = chance.sample(range(6), chance.randint(0, 3))
        layers = {digest(f"layer {i}"): 10**i for i in shared}
        manifests.append((frozenset(parts), subject, {digests[n]: 1, **layers}))
    found: dict[tuple[str, str], Version] = {}
    for number in range(rows):
        image, which = chance.choice(IMAGES), chance.randrange(len(digests))
        name = chance.choice(
            (
                f"{chance.randrange(8):07x}",
                f"{chance.randrange(2):07x}-dirty-{0:012x}",
                chance.choice((CACHE_TAG, "stable", "before-migration")),
                attached(chance.choice((*digests, digest("gone"))), chance.choice(SUFFIXES)),
                attached(chance.choice(digests), chance.choice(SUFFIXES)),
                digests[which],  # untagged
                digests[which],
            )
        )
        children, subject, blobs = manifests[which]
        found[image, name] = Version(
            id=number,
            image=image,
            name=name,
            created=NOW - timedelta(hours=chance.randint(0, 12)),
            digest=digests[which],
            children=children,
            subject=subject,
            blobs=blobs,
        )
    return list(found.values())


SUFFIXES = (".sig", ".att", ".sbom", ".pin", "")


def histories(versions: list[Version]) -> st.SearchStrategy[dict[Reference, str]]:
    """What ReplicaSets (by tag, by digest) and releases may refer to, there or not."""
    names = sorted({v.name for v in versions} | {v.digest for v in versions})

    def history(count: int, seed: int) -> dict[Reference, str]:
        chance = Random(seed)
        return {
            Reference(chance.choice(IMAGES), chance.choice((*names, "fffffff", digest("gone")))): (
                chance.choice(("running", "release record"))
            )
            for _ in range(count)
        }

    return st.builds(history, st.integers(0, 4), st.integers(0, 2**32))


def pulled(versions: Iterable[Version], reference: Reference) -> frozenset[str]:
    """Everything that a client gets which pulls by tag or digest: manifests, layers, all platforms
    and all signatures, and the signatures of those. As Gitea looks it up: any version of the
    package that carries a manifest will do."""
    there = [v for v in versions if v.image == reference.image]
    got: set[str] = set()
    wanted = {reference.name}
    asked: set[str] = set()
    while wanted:
        name = wanted.pop()
        asked.add(name)
        for one in there:
            if name in (one.name, one.digest):
                got |= {one.digest, *one.blobs}
                belonging = {
                    other.digest
                    for other in there
                    if other.subject == one.digest
                    or other.name.startswith(attached(one.digest, ""))
                }
                wanted |= ({one.digest} | one.children | belonging) - asked
    return frozenset(got)
