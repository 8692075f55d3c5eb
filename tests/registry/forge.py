"""One real registry and builder for all tests of a run, started when the first test asks for it."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rehearsal.home import Home
from rehearsal.registry.service import Forge, folder_of, forget, why_not

WITHOUT = "HONEYDUE_WITHOUT_IMAGES"
"""Set: tests that need the registry are skipped. Not set: they fail where it cannot run."""


@pytest.fixture(scope="session")
def forge_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("forge"))


@pytest.fixture(scope="session")
def forge(forge_home: Home) -> Iterator[Forge]:
    """Ready: Gitea, BuildKit, the base image. Leave it as you found it, but for new images."""
    if os.environ.get(WITHOUT):
        pytest.skip(f"{WITHOUT} is set")
    if reason := why_not():
        pytest.fail(f"{reason}\n  or: {WITHOUT}=1, and nothing about images is tested")
    running = Forge(forge_home, free_port())
    running.start()
    try:
        running.wait()
        yield running
    finally:
        running.stop()
        forget(forge_home)


def free_port() -> int:
    """One that nobody else is given while this process lives: it stays bound, without listening.
    Who listens on it says SO_REUSEADDR too, as Go's, Python's and everybody's servers do."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    port = int(held.getsockname()[1])
    held.detach()
    return port


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)

    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    server: str,
    method: str,
    path: str,
    password: str = "",
    *,
    username: str = "admin",
    body: bytes = b"",
    accept: str = "*/*",
) -> Answer:
    """One request, with Basic credentials if there is a password."""
    headers = {"Accept": accept}
    if password:
        login = base64.b64encode(f"{username}:{password}".encode()).decode()
        headers["Authorization"] = f"Basic {login}"
    connection = http.client.HTTPConnection(server, timeout=120)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


def snapshots(home: Home) -> Path:
    """The unpacked layers: large, and made before there is anything to be found."""
    return folder_of(home) / "buildkit" / "runc-overlayfs" / "snapshots"


def holding(
    needles: Collection[bytes], *places: Path, without: Collection[Path] = ()
) -> list[Path]:
    """The files in these places, themselves files or folders, with one of the needles in them.
    Others are at work there: what is gone in between holds nothing."""
    found = []
    for file in _files(places, without):
        with suppress(OSError):
            if file.is_file() and any(needle in file.read_bytes() for needle in needles):
                found.append(file)
    return found


def _files(places: Iterable[Path], without: Collection[Path]) -> Iterator[Path]:
    for place in places:
        if not place.is_dir():
            yield place
        for at, folders, names in os.walk(place):  # unlike rglob, it passes by what is gone
            folders[:] = [name for name in folders if Path(at, name) not in without]
            yield from (Path(at, name) for name in names)


def push_tiny(forge: Forge, folder: Path, name: str, words: str) -> str:
    """Builds an image of one file and pushes it as admin/<name>; returns its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY words /words\n")
    (folder / "words").write_text(words)
    forge.builder.build(
        [
            *("--provenance=false", "--platform", "linux/amd64", "--push"),
            *("--tag", f"{forge.server}/admin/{name}", str(folder)),
        ],
        forge.server,
        forge.tokens,
    )
    repository, _, tag = name.partition(":")
    answer = ask(
        forge.server,
        "HEAD",
        f"/v2/admin/{repository}/manifests/{tag}",
        forge.tokens.read,
    )
    return answer.headers["Docker-Content-Digest"]
