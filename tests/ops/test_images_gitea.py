"""The same with a real Gitea: what is kept can be pulled, and what went is gone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from honeydue.images.registry import Login, Registry
from ops.images import prune
from ops.packages import Packages
from ops.problems import Refused
from ops.retention import Reference
from rehearsal.home import Home
from rehearsal.registry import binaries
from rehearsal.registry.gitea import Gitea, Tokens
from tests.ops.registries import attached
from tests.ops.world import Alone, Shelf
from tests.registry.forge import WITHOUT, free_port

pytestmark = pytest.mark.images


@pytest.fixture(scope="module")
def gitea(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gitea, Tokens]]:
    """One of our own: the shared one's images are other tests'."""
    if os.environ.get(WITHOUT):
        pytest.skip(f"{WITHOUT} is set")
    folder = tmp_path_factory.mktemp("gitea")
    tools = binaries.ensure(Home(folder / "home"))
    running = Gitea(tools, folder / "gitea", free_port(), folder / "gitea.log")
    try:
        yield running, running.start()
    finally:
        running.stop()


@dataclass
class Desk:
    """Someone who pushes and prunes there; everything is older than `prune` has to wait for."""

    server: str
    tokens: Tokens
    shelf: Shelf
    running: set[Reference] = field(default_factory=set)

    def prune(self, keep: int = 1, token: str = "") -> str:
        console = Console(file=StringIO(), width=120)
        with self.packages(token) as packages:
            done = prune(
                packages,
                [lambda: dict.fromkeys(self.running, "running")],
                Alone("rehearsal", "rehearsal", Path()),
                console,
                keep=keep,
                dry_run=False,
                as_json=False,
                confirm=lambda _: True,
                settled=timedelta(seconds=-60),
            )
        assert done
        assert isinstance(console.file, StringIO)
        return console.file.getvalue()

    def packages(self, token: str = "") -> Packages:
        return Packages(self.server, "admin", Login("admin", token or self.tokens.write))


@pytest.fixture
def desk(gitea: tuple[Gitea, Tokens]) -> Iterator[Desk]:
    running, tokens = gitea
    with Registry(running.server, Login("admin", tokens.write)) as registry:
        yield Desk(running.server, tokens, Shelf(registry))


def test_what_is_kept_can_be_pulled_and_what_goes_is_gone(desk: Desk) -> None:
    shelf = desk.shelf
    foreign = shelf.push("aaaaaaa", image="honeydue-api-test")
    platforms = [shelf.push("", f"old {arch}") for arch in ("amd64", "arm64")]
    shelf.push_index("0000001", *platforms)
    by_digest = shelf.release("aaaaaaa")
    overwritten = shelf.push("bbbbbbb", "first bytes")
    shelf.push("bbbbbbb", "second bytes")
    shelf.push("ccccccc")
    same = shelf.push("1111111", "the same bytes")
    assert shelf.push("2222222", "the same bytes") == same
    current = [shelf.push("", f"new {arch}") for arch in ("amd64", "arm64")]
    index = shelf.push_index("ddddddd", *current)
    shelf.push(attached(index), "signature of the index", size=100, shared=b"{}")
    shelf.push("buildcache", "cache")
    desk.running = {
        Reference("honeydue-api", by_digest),
        Reference("honeydue-api", same),
        Reference("honeydue-api", overwritten),  # gone with its tag: Gitea keeps no old manifest
    }

    said = desk.prune()

    assert "5 versions deleted" in said
    for name in (by_digest, "aaaaaaa", same, "1111111", "2222222", index, *current, "buildcache"):
        assert shelf.pull(name), name
    assert {attached(by_digest), attached(by_digest, ".att"), attached(index)} <= shelf.tags()
    for name in ("0000001", *platforms, "bbbbbbb", "ccccccc", overwritten):
        assert not shelf.pull(name), name
    assert shelf.pull(foreign, image="honeydue-api-test")
    assert desk.prune().startswith("nothing goes")


def test_one_of_two_tags_can_go_and_the_digest_is_still_there(desk: Desk) -> None:
    """As `retention` has it: each version has files of its own."""
    digest = desk.shelf.push("aaaaaaa", "twice", image="honeydue-worker")
    desk.shelf.push("bbbbbbb", "twice", image="honeydue-worker")
    with desk.packages() as packages:
        listed = packages.listing().versions
        (one,) = [v for v in listed if (v.image, v.name) == ("honeydue-worker", "aaaaaaa")]
        packages.delete(one)
        packages.delete(one)
    assert desk.shelf.pull(digest, image="honeydue-worker")
    assert not desk.shelf.pull("aaaaaaa", image="honeydue-worker")


def test_a_token_that_may_only_read_deletes_nothing(desk: Desk) -> None:
    for sha in ("aaaaaaa", "bbbbbbb"):
        desk.shelf.push(sha, image="honeydue-admin")
    with pytest.raises(Refused, match=r"0 of \d+ deleted(.|\n)*403(.|\n)*no write:package"):
        desk.prune(token=desk.tokens.read)
    assert desk.shelf.pull("aaaaaaa", image="honeydue-admin")


def test_more_versions_than_a_page_holds(desk: Desk) -> None:
    for number in range(60):
        desk.shelf.push(f"{number:07x}", image="honeydue-worker", size=100)
    assert "honeydue-worker" in desk.prune(keep=2)
    assert len(desk.shelf.tags("honeydue-worker")) == 2
