"""Random registries and histories, and what it means to pull from one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from ops.retention import CACHE_TAG, Reference, Version

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


@st.composite
def registries(draw: st.DrawFn) -> list[Version]:
    """Up to some twenty versions in two packages: releases, dirty ones, tags by hand, indexes with
    children (there or not), signatures of anything, signatures included, referrers by subject,
    overwritten tags (their old manifest left behind, untagged), a cache, shared layers."""
    count = draw(st.integers(1, 9))
    digests = [digest(n) for n in range(count)]
    manifests = []
    for n in range(count):
        below = st.sampled_from([*digests[:n], digest("not there")])
        children = draw(st.frozensets(below, max_size=3)) if draw(st.booleans()) else frozenset()
        subject = draw(below) if draw(st.integers(0, 4)) == 0 else ""
        shared = draw(st.frozensets(st.integers(0, 5), max_size=3))
        manifests.append((children, subject, {digest(f"layer {i}"): 10**i for i in shared}))
    names = st.one_of(
        st.sampled_from([f"{n:07x}" for n in range(8)]),
        st.sampled_from([f"{n:07x}-dirty-{n:012x}" for n in range(2)]),
        st.sampled_from([CACHE_TAG, "stable", "before-migration"]),
        st.builds(attached, st.sampled_from([*digests, digest("gone")]), st.sampled_from(SUFFIXES)),
        st.none(),  # untagged: named by its digest
    )
    found: dict[tuple[str, str], Version] = {}
    for number in range(draw(st.integers(1, 20))):
        image, which, name = draw(
            st.tuples(st.sampled_from(IMAGES), st.integers(0, count - 1), names)
        )
        children, subject, layers = manifests[which]
        made = Version(
            id=number,
            image=image,
            name=name or digests[which],
            created=NOW - timedelta(hours=draw(st.integers(0, 12))),
            digest=digests[which],
            children=children,
            subject=subject,
            blobs={digests[which]: 1, **layers},
        )
        found[image, made.name] = made
    return list(found.values())


SUFFIXES = (".sig", ".att", ".sbom", "")


def histories(versions: list[Version]) -> st.SearchStrategy[dict[Reference, str]]:
    """What ReplicaSets (by tag, by digest) and releases may refer to, there or not."""
    names = {v.name for v in versions} | {v.digest for v in versions} | {"fffffff", digest("gone")}
    reference = st.builds(Reference, st.sampled_from(IMAGES), st.sampled_from(sorted(names)))
    return st.dictionaries(reference, st.sampled_from(["running", "release record"]), max_size=4)


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
