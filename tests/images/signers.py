"""What the tests of signing share: a registry with one image, and keys. None of them is secret."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from honeydue.images import keys
from honeydue.images.registry import Login, Registry
from tests.images import small_registry
from tests.images.small_registry import REPOSITORY, TOKEN, USERNAME, Content

TAG = "237c6b8"
PASSWORD = "hunter2"
# Made by cosign v2.6.5 (`cosign generate-key-pair`, COSIGN_PASSWORD=hunter2) for these tests alone.
COSIGN_PRIVATE = """\
-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----
eyJrZGYiOnsibmFtZSI6InNjcnlwdCIsInBhcmFtcyI6eyJOIjo2NTUzNiwiciI6
OCwicCI6MX0sInNhbHQiOiI5cDJ4ZDBwTEZCdmFWKzZRNmI4cVZONWRRWG92SEY5
ZVlKRWVZbEZpWlVVPSJ9LCJjaXBoZXIiOnsibmFtZSI6Im5hY2wvc2VjcmV0Ym94
Iiwibm9uY2UiOiJLbzlUWjFTSVoyNTBzSldqRmR6ZFdvclhRV1VyK2FLOSJ9LCJj
aXBoZXJ0ZXh0IjoiaUJsS2xUM0E2ckdGeXhaQ0JPY3JTcUUyOTdOK2xuMFFORWRD
VFJFUm1RZE5lR0kyckMrdmNlRFBwdWNTUFVodzNhOWVhR0tVbGdleDV5aTNCbm42
MHRaczM0aFhIQWV6d2dzMllHNVdjVWpjM2Mvb3FEVDZFUGZoUjRTZ1pnNFMvMnAw
clY3QzJOVGFBVzJURUI4RzJWSytSZUVvc1czR0gvRjF0b2tuRUVhc1JtMGZteTRX
RXBTZ1JWT1BIbEEvV0FvUjFLSlcwODFSRUE9PSJ9
-----END ENCRYPTED SIGSTORE PRIVATE KEY-----
"""
COSIGN_PUBLIC = """\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEE3DLcme7Kdw8XQ8tJwSHm4EMOetZ
8hdviasViyby8B1v7YX4kWP9KLkTiPvvWDFL23sFs8SqbpU7iU6ZS/L0Yg==
-----END PUBLIC KEY-----
"""


@cache
def key() -> keys.PrivateKey:
    return keys.generate()


@cache
def another_key() -> keys.PrivateKey:
    return keys.generate()


@dataclass(frozen=True)
class Bench:
    """A registry's content, a client of it, and the image `digest` in REPOSITORY, tagged TAG."""

    content: Content
    registry: Registry
    digest: str

    @property
    def name(self) -> str:
        return f"{self.content.server}/{REPOSITORY}"


@contextmanager
def bench() -> Iterator[Bench]:
    with small_registry.serve() as content:
        digest = content.push(REPOSITORY, TAG)
        with Registry(content.server, Login(USERNAME, TOKEN)) as registry:
            yield Bench(content, registry, digest)
