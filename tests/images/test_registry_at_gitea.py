"""The registry's client and a real Gitea: what the operator reads is what was said to happen."""

from __future__ import annotations

import json

import pytest

from honeydue.images.registry import OCI_MANIFEST, Login, Registry, RegistryError, digest_of
from rehearsal.registry.service import Forge

pytestmark = pytest.mark.images

IMAGE = "admin/honeydue-client"
CONFIG = "application/vnd.oci.image.config.v1+json"


def client(forge: Forge, token: str) -> Registry:
    return Registry(forge.server, Login("admin", token))


def push(registry: Registry, tag: str) -> str:
    config = registry.push_blob(IMAGE, f'{{"os":"linux","author":"{tag}"}}'.encode(), CONFIG)
    blob = {"mediaType": CONFIG, "digest": config.digest, "size": config.size}
    body = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": blob, "layers": []}
    return registry.push_manifest(IMAGE, tag, json.dumps(body).encode(), OCI_MANIFEST)


def test_what_was_pushed_is_listed_found_and_fetched(forge: Forge) -> None:
    with client(forge, forge.tokens.write) as registry:
        digests = {tag: push(registry, tag) for tag in ("237c6b8", "237c6b9")}
        assert push(registry, "237c6b8") == digests["237c6b8"]
    with client(forge, forge.tokens.read) as registry:
        assert registry.tags(IMAGE) == ["237c6b8", "237c6b9"]
        for tag, digest in digests.items():
            assert registry.digest(IMAGE, tag) == digest
            found = registry.manifest(IMAGE, digest)
            assert found is not None
            assert found == registry.manifest(IMAGE, tag)
            config = json.loads(found.body)["config"]["digest"]
            assert tag.encode() in registry.blob(IMAGE, config)
        assert registry.digest(IMAGE, "237c6ba") is None
        assert registry.digest(IMAGE, digest_of(b"nothing")) is None
        assert registry.tags("nobody/nothing") == []


@pytest.mark.parametrize(
    ("who", "kind", "why"),
    [
        ("wrong", "credentials", "does not accept the token of admin"),
        ("read", "scope", "answered 401 (reqPackageAccess), although it knows the token"),
        ("nobody", "credentials", "wants credentials and there are none"),
    ],
)
def test_who_may_not_push_is_told_why(forge: Forge, who: str, kind: str, why: str) -> None:
    tokens = {"wrong": "0" * 40, "read": forge.tokens.read}
    login = Login("admin", tokens[who]) if who in tokens else None
    with Registry(forge.server, login) as registry, pytest.raises(RegistryError) as caught:
        push(registry, "237c6bb")
    assert caught.value.kind == kind
    assert why in caught.value.why
    assert "honeydue:registry.token" in caught.value.mend


def test_whether_one_may_push_is_found_out_and_leaves_nothing_behind(forge: Forge) -> None:
    with client(forge, forge.tokens.write) as registry:
        registry.may_push("admin/honeydue-asked")
        registry.may_push("admin/honeydue-asked")
        assert registry.tags("admin/honeydue-asked") == []
        with pytest.raises(RegistryError) as caught:
            registry.may_push("nobody/honeydue-asked")
        assert "honeydue:registry.namespace" in caught.value.mend
    with client(forge, forge.tokens.read) as registry, pytest.raises(RegistryError) as caught:
        registry.may_push("admin/honeydue-asked")
    assert caught.value.kind == "scope"
    assert "the token lacks write:package" in caught.value.why


def test_a_tag_that_was_overwritten_ends_the_old_digest(forge: Forge) -> None:
    with client(forge, forge.tokens.write) as registry:
        before = push(registry, "overwritten")
        config = registry.push_blob(IMAGE, b"{}", CONFIG)
        blob = {"mediaType": CONFIG, "digest": config.digest, "size": config.size}
        body = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": blob, "layers": []}
        after = registry.push_manifest(
            IMAGE, "overwritten", json.dumps(body).encode(), OCI_MANIFEST
        )
        assert registry.digest(IMAGE, "overwritten") == after != before
        assert registry.manifest(IMAGE, before) is None
