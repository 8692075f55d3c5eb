"""A pull as a node does it: with exactly the Secret's credentials, and every byte verified."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from rehearsal.registry.pull import PullError, pull
from tests.registry.gitea_with_image import INDEX, MANIFEST, REPOSITORY, SmallRegistry, serve


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallRegistry]:
    with serve(tmp_path_factory.mktemp("gitea")) as running:
        yield running


def secret(server: str, token: str, username: str = "admin") -> dict[str, Any]:
    """As the program and `kubectl create secret docker-registry` write it."""
    pair = base64.b64encode(f"{username}:{token}".encode()).decode()
    return {"auths": {server: {"username": username, "password": token, "auth": pair}}}


def reference(registry: SmallRegistry, digest: str) -> str:
    return f"{registry.server}/{REPOSITORY}@{digest}"


def refusal(docker_config: dict[str, Any], image: str) -> str:
    with pytest.raises(PullError) as raised:
        pull(docker_config, image)
    return str(raised.value)


def test_an_image_is_fetched_whole_with_a_token_that_may_only_read(registry: SmallRegistry) -> None:
    image = reference(registry, registry.push("whole"))
    pulled = pull(secret(registry.server, registry.read), image)
    manifest = registry.manifest("whole")
    assert pulled.reference == image
    assert pulled.user == "admin"
    assert pulled.layers == tuple(layer["size"] for layer in manifest["layers"])
    assert pulled.size > sum(pulled.layers) + manifest["config"]["size"]


def test_every_blob_is_asked_for(registry: SmallRegistry) -> None:
    image = reference(registry, registry.push("asked", layers=3))
    registry.gitea.v2.requests.clear()
    pull(secret(registry.server, registry.read), image)
    asked = str(list(registry.gitea.v2.requests))
    manifest = registry.manifest("asked")
    for blob in (manifest["config"], *manifest["layers"]):
        assert blob["digest"] in asked


@pytest.mark.parametrize("form", ["http://{}", "http://{}/v1/", "{}/admin", "127.0.0.1:*"])
def test_the_secret_may_name_the_registry_as_the_kubelet_takes_it(
    registry: SmallRegistry, form: str
) -> None:
    image = reference(registry, registry.push("named"))
    assert pull(secret(form.format(registry.server), registry.read), image).layers


def test_credentials_may_stand_in_auth_alone(registry: SmallRegistry) -> None:
    image = reference(registry, registry.push("auth"))
    config = secret(registry.server, registry.read)
    del config["auths"][registry.server]["username"], config["auths"][registry.server]["password"]
    assert pull(config, image).user == "admin"


@pytest.mark.parametrize("other", ["gitea.treytartt.com", "{}/somebody-else"])
def test_credentials_of_another_registry_are_not_tried(registry: SmallRegistry, other: str) -> None:
    image = reference(registry, registry.push("other"))
    said = refusal(secret(other.format(registry.server), registry.read), image)
    assert f"gitea-credentials has no credentials for {registry.server}" in said
    assert "mend: honeydue:registry.server" in said


def test_a_wrong_token_is_named_as_the_cause_and_not_shown(registry: SmallRegistry) -> None:
    image = reference(registry, registry.push("refused"))
    said = refusal(secret(registry.server, "canary-wrong-token"), image)
    assert "401 (Unauthorized)" in said
    assert "wrong, expired or lacks read:package" in said
    assert "canary" not in said


def test_a_token_of_another_kind_cannot_pull(registry: SmallRegistry) -> None:
    image = reference(registry, registry.push("scope"))
    other = registry.gitea.token("admin", "read:repository")
    assert "lacks read:package" in refusal(secret(registry.server, other), image)


def test_a_digest_that_the_registry_does_not_have(registry: SmallRegistry) -> None:
    registry.push("there")
    image = reference(registry, "sha256:" + "0" * 64)
    said = refusal(secret(registry.server, registry.read), image)
    assert "404 (Not Found)" in said
    assert "mend: push the image again" in said


def test_a_layer_that_is_gone_is_found_now_and_not_by_a_node(registry: SmallRegistry) -> None:
    image = reference(registry, registry.push("lost", layers=2))
    lost = registry.manifest("lost")["layers"][1]["digest"]
    registry.forget_blob(lost)
    said = refusal(secret(registry.server, registry.read), image)
    assert f"404 (Not Found) for blobs/{lost}" in said


def test_other_bytes_under_the_same_digest_are_refused(registry: SmallRegistry) -> None:
    image = reference(registry, registry.push("damaged"))
    layer = registry.manifest("damaged")["layers"][0]["digest"]
    registry.damage(layer)
    said = refusal(secret(registry.server, registry.read), image)
    assert f"asked for {layer}" in said
    assert "damaged" in said


def test_a_manifest_of_other_bytes_is_refused(registry: SmallRegistry) -> None:
    digest = registry.push("changed")
    registry.damage(digest)
    said = refusal(secret(registry.server, registry.read), reference(registry, digest))
    assert "sent a manifest that is sha256:" in said


def test_an_image_for_another_machine_is_refused(registry: SmallRegistry) -> None:
    image = reference(registry, registry.push("arm", architecture="arm64"))
    said = refusal(secret(registry.server, registry.read), image)
    assert "is for linux/arm64, the nodes are linux/amd64" in said


def test_of_an_index_the_nodes_own_platform_is_pulled(registry: SmallRegistry) -> None:
    index: dict[str, Any] = {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
    for name in ("arm64", "amd64"):
        digest = registry.push(f"for-{name}", architecture=name)
        platform = {"os": "linux", "architecture": name}
        size = len(json.dumps(registry.manifest(digest)))
        index["manifests"].append(
            {"mediaType": MANIFEST, "digest": digest, "size": size, "platform": platform}
        )
    image = reference(registry, registry.push_manifest("both", index, INDEX))
    assert pull(secret(registry.server, registry.read), image).layers
    index["manifests"] = index["manifests"][:1]
    image = reference(registry, registry.push_manifest("arm-only", index, INDEX))
    said = refusal(secret(registry.server, registry.read), image)
    assert "has nothing for linux/amd64" in said


def test_a_tag_is_not_enough(registry: SmallRegistry) -> None:
    registry.push("tagged")
    image = f"{registry.server}/{REPOSITORY}:tagged"
    assert "names no digest" in refusal(secret(registry.server, registry.read), image)


def test_a_registry_that_does_not_answer_is_named() -> None:
    said = refusal(secret("127.0.0.1:1", "t"), f"127.0.0.1:1/{REPOSITORY}@sha256:" + "0" * 64)
    assert "127.0.0.1:1 does not answer" in said
