"""What the registry keeps, and what may go: set algebra over what the registry lists.

Pure, and careful on one side only: whatever is reached from anything that is in use stays, and what
is not understood stays too. The shapes are Gitea's (v1.26, `models/packages/`): a tag and a digest
are *versions* of a package, each with files of its own, and a digest can be pulled as long as any
version carries it. So what is reached is a digest, and every version that carries it stays.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from honeydue.images.references import CACHE_TAG

# As a deploy makes them: `237c6b8`, `237c6b8-dirty-0123456789ab`.
_RELEASE: Final = re.compile(r"[0-9a-f]{7,40}(-dirty-[0-9a-f]{12})?")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
# cosign's `.sig`, `.att` and `.sbom`; our `.pin`, a second tag of a built image that outlives an
# overwritten one (honeydue/images/gate.py); and without a suffix the OCI specification's fallback
# for registries without a referrers API. Each belongs to the digest that it is named after.
_ATTACHED: Final = re.compile(r"sha256-([0-9a-f]{64})(?:\.([a-z0-9._-]+))?")
_KINDS: Final = {"sig": "signature", "att": "attestation", "sbom": "SBOM", "pin": "pin"}

# A push is many requests: children before their index, an image before its signature. What is
# younger than this may belong to one that is under way somewhere.
SETTLED: Final = timedelta(hours=1)


@dataclass(frozen=True, order=True)
class Reference:
    """A tag or a digest (`sha256:…`) of one of our images (`honeydue-api`)."""

    image: str
    name: str

    def __str__(self) -> str:
        return f"{self.image}{'@' if is_digest(self.name) else ':'}{self.name}"


@dataclass(frozen=True)
class Version:
    """One version of a package, as the registry lists it.

    `id` is new whenever a tag is overwritten, and `created` with it. `children`: the digests that
    an index lists; `subject`: the digest that an OCI referrer belongs to, or "". `blobs`: digest →
    bytes of everything the version holds, its manifest included.
    """

    id: int
    image: str
    name: str
    created: datetime
    digest: str
    children: frozenset[str] = frozenset()
    subject: str = ""
    blobs: Mapping[str, int] = field(default_factory=dict, hash=False)

    @property
    def size(self) -> int:
        """Bytes, shared layers included."""
        return sum(self.blobs.values())

    @property
    def is_release(self) -> bool:
        return _RELEASE.fullmatch(self.name) is not None

    @property
    def owners(self) -> frozenset[str]:
        """The digests that this is a signature, SBOM or attestation of."""
        named = _ATTACHED.fullmatch(self.name)
        return frozenset({f"sha256:{named[1]}"} if named else ()) | (
            frozenset({self.subject}) if self.subject else frozenset()
        )

    @property
    def kind(self) -> str:
        """What it is to the digest that owns it."""
        named = _ATTACHED.fullmatch(self.name)
        return _KINDS.get(named[2] or "", "referrer") if named else "referrer"

    def __str__(self) -> str:
        return str(Reference(self.image, self.name))


@dataclass(frozen=True)
class Retention:
    """`kept`: every version that stays, and why. `goes`: the others, in the order in which they are
    deleted. `freed`: bytes of the blobs that nothing kept holds, each once. An upper bound: Gitea
    stores a blob once for all packages, so another one may hold it too."""

    kept: Mapping[Version, str]
    goes: tuple[Version, ...]
    freed: int


def is_digest(name: str) -> bool:
    return _DIGEST.fullmatch(name) is not None


def short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def retain(
    versions: Collection[Version],
    references: Mapping[Reference, str],
    *,
    keep: int,
    now: datetime,
    settled: timedelta = SETTLED,
) -> Retention:
    """`references`: what is in use or recorded, and as what ("running", "release record"), the more
    telling first. `keep`: how many of the newest releases stay, per image. More references never
    let more go."""
    reached = _reach(versions, _roots(versions, references, keep))
    # Last, since it says least: what is new and needed stays because it is needed.
    young = {v: "just pushed" for v in versions if v not in reached and v.created > now - settled}
    reached = _reach(versions, reached | young)
    kept = {version: reached[version] for version in versions if version in reached}
    goes = _parents_first([version for version in versions if version not in reached])
    held = {blob for version in kept for blob in version.blobs}
    freed = {b: size for v in goes for b, size in v.blobs.items() if b not in held}
    return Retention(kept, goes, sum(freed.values()))


def _roots(
    versions: Collection[Version], references: Mapping[Reference, str], keep: int
) -> dict[Version, str]:
    """What stays for its own sake; the first reason that holds is the one that is told."""
    newest: dict[str, list[Version]] = defaultdict(list)
    for version in sorted(versions, key=lambda v: (v.created, v.id), reverse=True):
        if version.is_release and len(newest[version.image]) < keep:
            newest[version.image].append(version)
    rank = {reference: place for place, reference in enumerate(references)}
    roots: dict[Version, str] = {}
    for version in versions:
        names = {Reference(version.image, name) for name in (version.name, version.digest)}
        used = min(names & rank.keys(), key=rank.__getitem__, default=None)
        if version.name == CACHE_TAG:
            roots[version] = "layer cache"
        elif used is not None:
            roots[version] = references[used]
        elif version in newest[version.image]:
            roots[version] = f"last {keep}"
        elif not (version.is_release or is_digest(version.name) or version.owners):
            roots[version] = "tagged by hand"  # no deploy makes such a tag: someone meant it
    return roots


def _reach(versions: Iterable[Version], roots: Mapping[Version, str]) -> dict[Version, str]:
    """Closed under same bytes, children, and what belongs to a digest (signatures of signatures
    too). Digests are per package: Gitea finds none across packages."""
    carrying: dict[tuple[str, str], list[Version]] = defaultdict(list)
    owned: dict[tuple[str, str], list[Version]] = defaultdict(list)
    for version in versions:
        carrying[version.image, version.digest].append(version)
        for owner in version.owners:
            owned[version.image, owner].append(version)
    reached, waiting = dict(roots), deque(roots)

    def reach(found: Iterable[Version], reason: str) -> None:
        for version in found:
            if version not in reached:
                reached[version] = reason.format(kind=version.kind)
                waiting.append(version)

    while waiting:
        version = waiting.popleft()
        name = short(version.digest) if is_digest(version.name) else version.name
        reach(carrying[version.image, version.digest], f"same bytes as {name}")
        for child in sorted(version.children):
            reach(carrying[version.image, child], f"child of {name}")
        reach(owned[version.image, version.digest], f"{{kind}} of {name}")
    return reached


def _parents_first(versions: Collection[Version]) -> tuple[Version, ...]:
    """The oldest image first, an index before its children, an image before its signatures and
    directly before them: after a fault in the middle nothing that is left misses a part."""
    by_digest: dict[tuple[str, str], list[Version]] = defaultdict(list)
    owned: dict[tuple[str, str], list[Version]] = defaultdict(list)
    for version in versions:
        by_digest[version.image, version.digest].append(version)
        for owner in version.owners:
            owned[version.image, owner].append(version)
    done: list[Version] = []
    seen: set[Version] = set()

    def below(version: Version) -> list[Version]:
        children = [v for c in sorted(version.children) for v in by_digest[version.image, c]]
        return children + owned[version.image, version.digest]

    # Reversed postorder: also right where something has two parents. Without recursion, since
    # signatures of signatures may be many.
    for start in sorted(versions, key=lambda v: (v.image, v.created, v.id), reverse=True):
        if start in seen:
            continue
        seen.add(start)
        path = [(start, iter(below(start)))]
        while path:
            version, rest = path[-1]
            following = next((v for v in rest if v not in seen), None)
            if following is None:
                done.append(version)
                path.pop()
            else:
                seen.add(following)
                path.append((following, iter(below(following))))
    return tuple(reversed(done))
