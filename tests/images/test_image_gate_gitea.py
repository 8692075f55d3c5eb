"""The whole way on the real registry: pushed by BuildKit, vouched for, and judged by cosign."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from honeydue.images import attestations, keys, signing
from honeydue.images.registry import Login, Registry
from rehearsal.home import REPOSITORY as ROOT
from rehearsal.registry import trivy_standin
from rehearsal.registry.binaries import ensure_cosign
from rehearsal.registry.service import Forge
from tests.images.signers import key
from tests.registry.forge import push_tiny

pytestmark = pytest.mark.images

SERVICE = "admin/honeydue-vouched"


def gate(verb: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "honeydue.images.gate", verb],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_gitea_keeps_signature_and_attestations_and_cosign_finds_them(
    forge: Forge, tmp_path: Path
) -> None:
    digest = push_tiny(forge, tmp_path / "image", "honeydue-vouched:237c6b8", "hello")
    trivy_standin.launcher(tmp_path / "bin", tmp_path / "cache")
    environment = {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "HONEYDUE_IMAGE": f"{forge.server}/{SERVICE}",
        "HONEYDUE_DIGEST": digest,
        "HONEYDUE_TAG": "237c6b8",
        "HONEYDUE_STACK": "rehearsal",
        "REGISTRY_USERNAME": "admin",
        "REGISTRY_TOKEN": forge.tokens.write,
        "COSIGN_PUBLIC_KEY": keys.public_pem(key()),
        "COSIGN_PRIVATE_KEY": keys.private_pem(key()),
        "HONEYDUE_SCAN_SEVERITY": "HIGH",
    }

    unsigned = gate("verify", environment)
    assert (unsigned.returncode, unsigned.stdout) == (1, "")
    assert "is not signed" in unsigned.stderr

    refused = gate("vouch", environment | {"REGISTRY_TOKEN": forge.tokens.read})
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "write:package" in refused.stderr

    for _ in range(2):
        vouched = gate("vouch", environment)
        assert (vouched.returncode, vouched.stdout) == (0, digest), vouched.stderr
    reading = environment | {"REGISTRY_TOKEN": forge.tokens.read}
    assert gate("verify", reading).stdout == digest

    with Registry(forge.server, Login("admin", forge.tokens.read)) as registry:
        read = attestations.read(registry, SERVICE, digest, key().public_key())
        assert set(read) == {attestations.SBOM, attestations.SCAN}
        beside = {signing.beside(digest, "sig"), signing.beside(digest, "att")}
        assert beside < set(registry.tags(SERVICE))

    other = push_tiny(forge, tmp_path / "other", "honeydue-vouched:237c6b8", "other bytes")
    with Registry(forge.server, Login("admin", forge.tokens.read)) as registry:
        assert registry.digest(SERVICE, "237c6b8") == other != digest
        assert registry.manifest(SERVICE, digest) is not None, "pinned: it runs, it must be pulled"

    (tmp_path / "cosign.pub").write_text(keys.public_pem(key()))
    for words in (["verify", "-a", "tag=237c6b8"], ["verify-attestation", "--type", "cyclonedx"]):
        judged = subprocess.run(
            [
                *(str(ensure_cosign()), *words, "--key", "cosign.pub", "--insecure-ignore-tlog"),
                *("--allow-http-registry", "--registry-username", "admin"),
                *("--registry-password", forge.tokens.read, f"{forge.server}/{SERVICE}@{digest}"),
            ],
            cwd=tmp_path, env=os.environ | {"HOME": str(tmp_path)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert judged.returncode == 0, judged.stderr
