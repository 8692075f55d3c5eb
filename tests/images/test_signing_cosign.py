"""The real cosign as the judge: it accepts what we sign and attest, and we what it signs."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from honeydue.images import attestations, keys, signing
from rehearsal.registry.binaries import ensure_cosign
from tests.images.signers import COSIGN_PRIVATE, COSIGN_PUBLIC, PASSWORD, TAG, Bench, bench
from tests.images.small_registry import REPOSITORY, TOKEN, USERNAME
from tests.registry.forge import WITHOUT

pytestmark = pytest.mark.images

BOM = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": []}
REPORT = {
    "invocation": {"parameters": ["severity=HIGH"], "uri": "", "event_id": "", "builder.id": ""},
    "scanner": {
        "uri": "pkg:github/aquasecurity/trivy@0.58.0",
        "version": "0.58.0",
        "db": {"uri": "", "version": "2026-11-22T00:00:00Z"},
        "result": {"SchemaVersion": 2},
    },
    "metadata": {
        "scanStartedOn": "2026-11-22T00:00:00Z",
        "scanFinishedOn": "2026-11-22T00:00:01Z",
    },
}
REPLACE_NEVER_ASK = "--yes"


@dataclass(frozen=True)
class Cosign:
    program: Path
    folder: Path

    def run(self, b: Bench, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *(str(self.program), *arguments, "--allow-http-registry"),
                *("--registry-username", USERNAME, "--registry-password", TOKEN),
                f"{b.name}@{b.digest}",
            ],
            cwd=self.folder,
            env=os.environ | {"COSIGN_PASSWORD": PASSWORD, "HOME": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )

    def judge(self, b: Bench, *arguments: str) -> str:
        done = self.run(b, *arguments, "--key", "cosign.pub", "--insecure-ignore-tlog")
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def cosign(tmp_path_factory: pytest.TempPathFactory) -> Cosign:
    if os.environ.get(WITHOUT):
        pytest.skip(f"{WITHOUT} is set")
    folder = tmp_path_factory.mktemp("cosign")
    (folder / "cosign.key").write_text(COSIGN_PRIVATE)
    (folder / "cosign.pub").write_text(COSIGN_PUBLIC)
    return Cosign(ensure_cosign(), folder)


@pytest.fixture
def b() -> Iterator[Bench]:
    with bench() as made:
        yield made


@pytest.fixture(scope="module")
def key() -> keys.PrivateKey:
    return keys.private_key(COSIGN_PRIVATE, PASSWORD)


def test_cosign_accepts_our_signature_and_its_tag(
    b: Bench, cosign: Cosign, key: keys.PrivateKey
) -> None:
    signing.sign(b.registry, REPOSITORY, b.digest, TAG, key)
    found = json.loads(cosign.judge(b, "verify", "-a", f"tag={TAG}"))
    assert [one["optional"] for one in found] == [{"tag": TAG}]


def test_cosign_refuses_our_signature_for_another_tag(
    b: Bench, cosign: Cosign, key: keys.PrivateKey
) -> None:
    """So that accepting it above means something."""
    signing.sign(b.registry, REPOSITORY, b.digest, TAG, key)
    words = ("--key", "cosign.pub", "--insecure-ignore-tlog")
    assert cosign.run(b, "verify", "-a", "tag=9999999", *words).returncode != 0


@pytest.mark.parametrize(
    ("kind", "predicate"),
    [("cyclonedx", BOM), ("vuln", REPORT)],
)
def test_cosign_accepts_our_attestations(
    b: Bench, cosign: Cosign, key: keys.PrivateKey, kind: str, predicate: dict[str, object]
) -> None:
    both = {attestations.SBOM: BOM, attestations.SCAN: REPORT}
    attestations.attest(b.registry, REPOSITORY, b.digest, both, key)
    printed = cosign.judge(b, "verify-attestation", "--type", kind)
    statement = json.loads(base64.b64decode(json.loads(printed)["payload"]))
    assert statement["predicate"] == predicate


def test_we_accept_what_cosign_signed_with_its_annotation(
    b: Bench, cosign: Cosign, key: keys.PrivateKey
) -> None:
    words = ("--key", "cosign.key", "--tlog-upload=false", REPLACE_NEVER_ASK)
    done = cosign.run(b, "sign", "-a", f"tag={TAG}", *words)
    assert done.returncode == 0, done.stderr
    signing.verify(b.registry, REPOSITORY, b.digest, TAG, key.public_key())
    assert signing.sign(b.registry, REPOSITORY, b.digest, TAG, key) is False
    with pytest.raises(signing.WronglySigned, match="never as 9999999"):
        signing.verify(b.registry, REPOSITORY, b.digest, "9999999", key.public_key())


def test_we_read_what_cosign_attested_and_each_keeps_the_others(
    b: Bench, cosign: Cosign, key: keys.PrivateKey
) -> None:
    signing.sign(b.registry, REPOSITORY, b.digest, TAG, key)
    words = ("--key", "cosign.key", "--tlog-upload=false", REPLACE_NEVER_ASK)
    assert cosign.run(b, "sign", "-a", "tag=1111111", *words).returncode == 0
    signing.verify(b.registry, REPOSITORY, b.digest, TAG, key.public_key())
    (cosign.folder / "bom.json").write_text(json.dumps(BOM))
    attested = cosign.run(b, "attest", "--type", "cyclonedx", "--predicate", "bom.json", *words)
    assert attested.returncode == 0, attested.stderr
    read = attestations.read(b.registry, REPOSITORY, b.digest, key.public_key())
    assert read == {attestations.SBOM: BOM}
    # It is ours: the same key. So it is replaced, and cosign finds one of the type.
    attestations.attest(b.registry, REPOSITORY, b.digest, {attestations.SBOM: BOM}, key)
    assert cosign.judge(b, "verify-attestation", "--type", "cyclonedx").count("payloadType") == 1


def test_we_open_a_key_that_cosign_made_just_now(cosign: Cosign, tmp_path: Path) -> None:
    for password in ("", "another canary"):
        folder = tmp_path / (password or "none")
        folder.mkdir()
        subprocess.run(
            [cosign.program, "generate-key-pair"],
            cwd=folder,
            env=os.environ | {"COSIGN_PASSWORD": password, "HOME": str(folder)},
            capture_output=True,
            check=True,
        )
        made = keys.private_key((folder / "cosign.key").read_text(), password)
        assert keys.public_pem(made) == (folder / "cosign.pub").read_text()
