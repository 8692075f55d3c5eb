"""The registry's stand-in beside a real Gitea: the same random requests, the same answers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from rehearsal.clouds.http import Listener
from rehearsal.clouds.registry import Gitea
from rehearsal.registry.service import Forge
from tests.clouds.gitea_conversation import (
    CONFIG,
    INDEX,
    OCI,
    Conversation,
    digest_of,
    index,
    manifest,
)

pytestmark = pytest.mark.images

BLOBS = [CONFIG, *(b"\0layer %d" % number for number in range(3))]
TAGS = ["one", "Two", "three"]
STEPS = 60


class Both:
    """Asks the two of them the same, and compares."""

    def __init__(self, ours: Conversation, theirs: Conversation) -> None:
        self.ours = ours
        self.theirs = theirs

    def ask(
        self, method: str, path: str, content: bytes | None = None, media_type: str = OCI
    ) -> None:
        who = "token:write" if path.startswith("/api/") else "write"
        for one in (self.ours, self.theirs):
            one.ask(method, path, who, content=content, Content_Type=media_type)
        before = [heard["asked"] for heard in self.ours.heard[-12:]]
        assert self.ours.heard[-1] == self.theirs.heard[-1], before


@pytest.fixture
def both(forge: Forge, tmp_path: Path) -> Iterator[Both]:
    gitea = Gitea(tmp_path / "gitea")
    token = gitea.token("admin", "write:package")
    listener = Listener(gitea.wsgi_app).start()
    with ExitStack() as stack:
        stack.callback(listener.stop)
        ours, theirs = (
            stack.enter_context(httpx.Client(base_url=url, trust_env=False, timeout=120))
            for url in (listener.url, f"http://{forge.server}")
        )
        yield Both(
            Conversation(ours, {"write": token}, [], {}),
            Conversation(theirs, {"write": forge.tokens.write}, [], {}),
        )


@pytest.mark.parametrize("seed", [1, 2])
def test_pushes_mounts_and_deletions_in_any_order_leave_the_same_behind(
    both: Both, seed: int
) -> None:
    dice = random.Random(seed)
    images = [f"walk-{seed}-a", f"walk-{seed}-b"]
    children = [manifest(f"m{number}", dice.choice(BLOBS[1:])) for number in range(5)]
    indexes = [index(*dice.sample(children, 2)) for _ in range(2)]

    def step() -> None:
        image, child, blob = dice.choice(images), dice.choice(children), dice.choice(BLOBS)
        v2, api = f"/v2/admin/{image}", f"/api/v1/packages/admin/container/{image}"
        reference = dice.choice([*TAGS, digest_of(child)])
        parent = dice.choice(indexes)
        mount = f"mount={digest_of(blob)}&from=admin/{dice.choice(images)}"
        kinds = [
            (6, "POST", f"{v2}/blobs/uploads/?digest={digest_of(blob)}", blob, OCI),
            (8, "PUT", f"{v2}/manifests/{reference}", child, OCI),
            (3, "PUT", f"{v2}/manifests/{dice.choice(TAGS)}", parent, INDEX),
            (2, "POST", f"{v2}/blobs/uploads/?{mount}", None, OCI),
            (3, "DELETE", f"{api}/{reference}", None, OCI),
            (2, "DELETE", f"{v2}/manifests/{reference}", None, OCI),
            (1, "DELETE", f"{v2}/blobs/{digest_of(blob)}", None, OCI),
            (0.3, "DELETE", api, None, OCI),
        ]
        _, method, path, content, kind = dice.choices(kinds, [weight for weight, *_ in kinds])[0]
        both.ask(method, path, content, kind)

    def look() -> None:
        for image in images:
            both.ask("GET", f"/v2/admin/{image}/tags/list")
            both.ask("GET", f"/api/v1/packages/admin/container/{image}?limit=50")
            for body in (*children, *indexes):
                both.ask("HEAD", f"/v2/admin/{image}/manifests/{digest_of(body)}")
            for blob in BLOBS:
                both.ask("HEAD", f"/v2/admin/{image}/blobs/{digest_of(blob)}")
            for tag in TAGS:
                both.ask("GET", f"/api/v1/packages/admin/container/{image}/{tag}/files")

    for image in images:
        for blob in BLOBS:
            path = f"/v2/admin/{image}/blobs/uploads/?digest={digest_of(blob)}"
            both.ask("POST", path, blob)
    for number in range(STEPS):
        step()
        if number % 20 == 19:
            look()
    # A walk that only met what is not there would prove nothing.
    done = [(heard["asked"].split()[0], heard["status"]) for heard in both.ours.heard]
    assert done.count(("PUT", 201)) > 5
    assert done.count(("DELETE", 202)) + done.count(("DELETE", 204)) > 3
