"""The distribution protocol: what a reference names, how a registry is spoken to."""

from __future__ import annotations

import pytest

from rehearsal.registry.distribution import Reference, Registry, RegistryError, is_loopback
from tests.images import small_registry

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("gitea.treytartt.com/admin/api:237c6b8", ("gitea.treytartt.com", "admin/api", "237c6b8")),
        ("127.0.0.1:3000/a/b/c", ("127.0.0.1:3000", "a/b/c")),
        (f"localhost/a_b-c.d__e:1@{DIGEST}", ("localhost", "a_b-c.d__e", "1", DIGEST)),
        (f"[::1]:5000/a@{DIGEST}", ("[::1]:5000", "a", "", DIGEST)),
    ],
)
def test_a_full_reference_is_taken_apart(text: str, reference: tuple[str, ...]) -> None:
    assert Reference.parse(text) == Reference(*reference)


@pytest.mark.parametrize(
    "text",
    [
        "alpine:3",
        "admin/api:1",
        "x.org/Upper:1",
        "x.org/a:",
        "x.org/a@sha256:12",
        "x.org/",
        "x/../y",
        "",
    ],
)
def test_what_does_not_name_its_registry_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an image reference"):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("server", "loopback"),
    [
        ("127.0.0.1:3000", True),
        ("127.9.8.7", True),
        ("localhost:3000", True),
        ("[::1]:3000", True),
        ("10.0.0.1:3000", False),
        ("gitea.treytartt.com", False),
        ("localhost.example.org:3000", False),
    ],
)
def test_only_loopback_is_spoken_to_by_plain_http(server: str, loopback: bool) -> None:
    assert is_loopback(server) is loopback


def test_a_registry_that_wants_basic_credentials_gets_them() -> None:
    with small_registry.serve() as content:
        digest = content.push(small_registry.REPOSITORY, "one")
        image = Reference(content.server, small_registry.REPOSITORY)
        with Registry(image, small_registry.USERNAME, small_registry.TOKEN) as registry:
            assert registry.manifest("one").digest == digest
        with Registry(image) as registry, pytest.raises(RegistryError) as raised:
            registry.manifest("one")
        assert raised.value.refused
        with Registry(image, small_registry.USERNAME, "wrong") as registry:
            with pytest.raises(RegistryError, match="401") as raised:
                registry.manifest("one")
            assert raised.value.refused
