"""What runs is pulled back with the cluster's own pull secret, and held against the public key."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from honeydue.images import keys, signing
from honeydue.images.registry import Login, Registry
from rehearsal import cli, images
from rehearsal.display import Waiting
from rehearsal.home import Home
from rehearsal.page import pulled
from rehearsal.providers.kubernetes.client import ApiError, Client
from rehearsal.pulled import PulledBack, pull_back
from tests.registry.gitea_with_image import REPOSITORY, SmallRegistry, serve

KEY = keys.generate()
PUBLIC = keys.public_pem(KEY)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallRegistry]:
    with serve(tmp_path_factory.mktemp("gitea")) as running:
        yield running


class Cluster:
    """One Deployment and its pull secret, as an API server answers for them."""

    def __init__(self, reference: str, tag: str, server: str, token: str) -> None:
        config = {"auths": {server: {"username": "admin", "password": token}}}
        text = base64.b64encode(json.dumps(config).encode()).decode()
        self.secret: dict[str, Any] | None = {"data": {".dockerconfigjson": text}}
        self.pod: dict[str, Any] = {
            "containers": [{"image": reference}],
            "imagePullSecrets": [{"name": "gitea-credentials"}],
        }
        self.annotations = {"honeydue.com/image-tag": tag} if tag else {}

    def request(self, method: str, path: str) -> dict[str, Any]:
        assert method == "GET"
        if path == "/apis/apps/v1/namespaces/honeydue/deployments":
            spec = {"template": {"spec": self.pod}}
            return {"items": [{"metadata": {"annotations": self.annotations}, "spec": spec}]}
        assert path == "/api/v1/namespaces/honeydue/secrets/gitea-credentials"
        if self.secret is None:
            raise ApiError(404, "NotFound", "secrets gitea-credentials not found", [])
        return self.secret


def release(
    registry: SmallRegistry, tag: str, *, signed_as: str = "", key: keys.PrivateKey = KEY
) -> Cluster:
    """A pushed image, signed if told so, as it runs."""
    digest = registry.push(tag)
    if signed_as:
        with Registry(registry.server, Login("admin", registry.write)) as client:
            signing.sign(client, REPOSITORY, digest, signed_as, key)
    reference = f"{registry.server}/{REPOSITORY}@{digest}"
    return Cluster(reference, tag, registry.server, registry.read)


def back(cluster: Cluster) -> PulledBack:
    (found,) = pull_back(cast("Client", cluster), PUBLIC)
    return found


def test_a_signed_release_comes_back_whole(registry: SmallRegistry) -> None:
    cluster = release(registry, "237c6b8", signed_as="237c6b8")
    found = back(cluster)
    assert found.problem == ""
    assert (found.name, found.tag) == ("honeydue-api", "237c6b8")
    assert cluster.pod["containers"][0]["image"].endswith(f"@{found.digest}")
    assert found.size > 0
    assert len(found.key) == 12


def test_a_release_by_digest_alone_may_be_signed_under_any_tag(registry: SmallRegistry) -> None:
    cluster = release(registry, "0000001", signed_as="0000001")
    cluster.annotations = {}
    assert (back(cluster).problem, back(cluster).tag) == ("", "")


def test_the_same_bytes_released_under_two_tags_are_signed_for_both(
    registry: SmallRegistry,
) -> None:
    cluster = release(registry, "0000002", signed_as="0000002")
    release(registry, "0000002", signed_as="0000003")
    for tag in ("0000002", "0000003"):
        cluster.annotations = {"honeydue.com/image-tag": tag}
        assert back(cluster).problem == ""


def test_an_unsigned_image_is_a_problem(registry: SmallRegistry) -> None:
    said = back(release(registry, "1111111")).problem
    assert "is not signed" in said
    assert "mend: " in said


@pytest.mark.parametrize(
    ("tag", "signed_as", "key"),
    [("2222222", "2222222", keys.generate()), ("3333333", "4444444", KEY)],
    ids=["by another key", "for another tag"],
)
def test_what_is_signed_otherwise_is_a_problem(
    registry: SmallRegistry, tag: str, signed_as: str, key: keys.PrivateKey
) -> None:
    said = back(release(registry, tag, signed_as=signed_as, key=key)).problem
    assert f"is not signed as {tag} by the holder of honeydue:signing.publicKey" in said


def test_another_images_signature_moved_beside_this_one_is_a_problem(
    registry: SmallRegistry,
) -> None:
    signed = registry.push("5555555")
    other = release(registry, "6666666")
    with Registry(registry.server, Login("admin", registry.write)) as client:
        signing.sign(client, REPOSITORY, signed, "6666666", KEY)
    beside = registry.manifest(signed.replace(":", "-") + ".sig")
    digest = other.pod["containers"][0]["image"].partition("@")[2]
    registry.push_manifest(digest.replace(":", "-") + ".sig", beside, beside["mediaType"])
    assert "is not signed as 6666666" in back(other).problem


def test_a_deployment_without_the_pull_secret_is_a_problem(registry: SmallRegistry) -> None:
    cluster = release(registry, "7777777", signed_as="7777777")
    del cluster.pod["imagePullSecrets"]
    assert "do not name the pull secret gitea-credentials" in back(cluster).problem


@pytest.mark.parametrize(
    ("secret", "said"),
    [(None, "cannot be read"), ({"data": {}}, "holds no .dockerconfigjson")],
)
def test_a_pull_secret_that_is_none_is_a_problem(
    registry: SmallRegistry, secret: dict[str, Any] | None, said: str
) -> None:
    cluster = release(registry, "8888888", signed_as="8888888")
    cluster.secret = secret
    assert said in back(cluster).problem


# --- what is printed of it ---


def printed(console: Console) -> str:
    return console.export_text()


@pytest.fixture
def console() -> Console:
    return Console(record=True, width=140, quiet=False, force_terminal=False, highlight=False)


def test_each_image_has_one_line_and_the_first_problem_is_handed_on(console: Console) -> None:
    digest = "sha256:" + "ab" * 32
    problem = pulled(
        console,
        [
            PulledBack("honeydue-api", "237c6b8", digest, 2_700_000, "d7f6a64dab4b"),
            PulledBack("honeydue-worker", "237c6b8", digest, problem="cause\n  mend: line"),
        ],
    )
    assert problem == "cause\n  mend: line"
    assert printed(console).splitlines()[2:] == [
        "     honeydue-api      237c6b8   sha256:abababababab   2.7 MB   pulled with "
        "gitea-credentials, every digest right, signed by key d7f6a64dab4b",
        "     honeydue-worker   237c6b8   sha256:abababababab            not pulled: see the error"
        " below",
    ]


def test_a_cluster_without_deployments_is_no_success(console: Console) -> None:
    assert "nothing to pull back" in pulled(console, [])


def test_a_machine_that_cannot_build_says_so_and_goes_on(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "why_not", lambda: "it needs root here\n  mend: sudo make rehearse")
    cli.turn_images_on(Home(tmp_path / "home"), console, asked=True)
    said = printed(console)
    assert "it needs root here" in said
    assert "mend: sudo make rehearse" in said
    assert "the made-up digests of Pulumi.rehearsal.yaml" in said
    assert not (tmp_path / "home").exists()


def test_waiting_tells_each_new_thing_once_and_not_every_package(console: Console) -> None:
    with Waiting(console) as say:
        for line in ("building gitea 1/99", "building gitea 2/99", "Gitea starts", "Gitea starts"):
            say(line)
    assert printed(console).splitlines() == ["  building gitea 1/99", "  Gitea starts"]
