"""Random registries and histories, pruned on Gitea's stand-in: what is needed can be pulled.

`test_retention` has the sets; here rows are listed page by page and deleted one by one, tags are
overwritten as Gitea does it, and deletes fail.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from io import StringIO
from pathlib import Path
from random import Random
from unittest.mock import patch

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from honeydue.images.registry import Login, Registry
from ops.images import prune
from ops.packages import Packages
from ops.problems import Refused
from ops.retention import Reference, Version
from rehearsal.clouds.faults import Fault
from rehearsal.clouds.registry import Gitea
from tests.ops.registries import attached
from tests.ops.world import DAY, Alone, Shelf

API = "honeydue-api"
SHAS = [f"{n:07x}" for n in range(6)]


class Place:
    """A registry in a folder, without a socket; what is pushed is `shelf.age` days old."""

    def __init__(self, folder: Path) -> None:
        self.age = 0.0
        self.gitea = Gitea(folder, clock=lambda: time.time() - self.age * DAY)
        login = Login("admin", self.gitea.token("admin", "write:package"))
        wire = httpx.WSGITransport(self.gitea.wsgi_app)
        self.shelf = Shelf(Registry("localhost", login, transport=wire))
        self.packages = Packages("localhost", "admin", login, transport=wire)

    def fill(self, pushes: int, chance: Random) -> list[str]:
        """Releases, overwritten ones, platforms and their indexes, signatures of anything, pins,
        referrers, a cache; returns every digest that ever was."""
        digests: list[str] = []
        for number in range(pushes):
            self.age = chance.uniform(1, 40)
            content = f"content {chance.randrange(5)}"
            to = chance.choice(digests) if digests else ""
            match chance.randrange(8) if digests else 0:
                case 0 | 1:
                    made = self.shelf.push(chance.choice(SHAS), content, size=30, shared=b"base")
                case 2:
                    made = self.shelf.push("", content, size=30, shared=b"base")
                case 3 | 4:
                    parts = [d for d in chance.sample(digests, min(2, len(digests))) if self.has(d)]
                    name = chance.choice([*SHAS, ""])
                    made = self.shelf.push_index(name, *parts) if parts else digests[0]
                case 5:
                    tag = attached(to, chance.choice([".sig", ".att"]))
                    made = self.shelf.push(tag, f"about {number}", size=30, shared=b"{}")
                case 6:
                    made = self.shelf.push("", f"refers {number}", size=30, subject=to)
                case _:
                    made = self.shelf.push("buildcache", content, size=30)
            digests.append(made)
        self.age = 0
        return digests

    def has(self, name: str) -> bool:
        return self.shelf.registry.manifest(f"admin/{API}", name) is not None

    def pulled(self, name: str) -> tuple[bool, ...]:
        """What of an image can be had: itself whole, its signature, its attestation."""
        digest = self.shelf.registry.digest(f"admin/{API}", name)
        if digest is None:
            return ()
        parts = (attached(digest), attached(digest, ".att"))
        return (self.shelf.pull(name), *map(self.shelf.pull, parts))

    def prune(self, needed: list[str], keep: int) -> None:
        references = {Reference(API, name): "running" for name in needed}
        prune(
            self.packages,
            [lambda: references],
            Alone("rehearsal", "rehearsal"),
            Console(file=StringIO()),
            keep=keep,
            dry_run=False,
            as_json=False,
            confirm=lambda _: True,
            settled=timedelta(hours=1),
        )

    @contextmanager
    def failing_after(self, deletes: int) -> Iterator[None]:
        """So many deletes are done, and the next is answered with a 500."""
        left = iter(range(deletes))
        real = self.packages.delete

        def delete(version: Version) -> None:
            if next(left, None) is None:
                self.gitea.api.faults.inject(Fault("status", "DELETE", status=500))
            real(version)

        with patch.object(self.packages, "delete", delete):
            yield

    @property
    def names(self) -> set[str]:
        return {version.name for version in self.packages.listing().versions}


@given(
    pushes=st.integers(1, 14),
    seed=st.integers(0, 2**32),
    keep=st.integers(1, 3),
    fails=st.none() | st.integers(0, 4),
)
@settings(max_examples=40, deadline=None)
def test_what_is_needed_can_be_pulled_after_a_prune_that_fails_in_the_middle(
    pushes: int, seed: int, keep: int, fails: int | None
) -> None:
    chance = Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        digests = place.fill(pushes, chance)
        needed = chance.sample([*digests, *SHAS], min(3, len(digests)))
        releases = [v for v in place.packages.listing().versions if v.is_release]
        releases.sort(key=lambda v: (v.created, v.id), reverse=True)
        asked = [*needed, *(v.name for v in releases[:keep]), "buildcache"]
        before = {name: place.pulled(name) for name in asked}

        if fails is not None:
            with place.failing_after(fails), suppress(Refused):
                place.prune(needed, keep)
            place.gitea.clean_up(older_than=0)
            assert {name: place.pulled(name) for name in asked} == before
        place.prune(needed, keep)
        place.gitea.clean_up(older_than=0)

        assert {name: place.pulled(name) for name in asked} == before
        left = place.names
        place.prune(needed, keep)
        assert place.names == left
