"""SBOM and scan report beside an image: signed; the newest of ours, and others' untouched."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from honeydue.images import attestations, signing
from honeydue.images.attestations import SBOM, SCAN
from tests.images.signers import TAG, Bench, another_key, bench, key
from tests.images.small_registry import REPOSITORY, digest_of

BOM = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": []}
REPORT = {"scanner": {"version": "0.58.0"}}


@pytest.fixture(scope="module")
def shared() -> Iterator[Bench]:
    with bench() as made:
        yield made


@pytest.fixture
def b(shared: Bench) -> Bench:
    shared.content.manifests.clear()
    assert shared.content.push(REPOSITORY, TAG) == shared.digest
    return shared


def attest(b: Bench, predicates: dict[str, dict[str, Any]], *, other: bool = False) -> None:
    who = another_key() if other else key()
    attestations.attest(b.registry, REPOSITORY, b.digest, predicates, who)


def read(b: Bench, *, other: bool = False) -> dict[str, dict[str, Any]]:
    who = another_key() if other else key()
    return attestations.read(b.registry, REPOSITORY, b.digest, who.public_key())


def layers(b: Bench) -> list[dict[str, Any]]:
    return b.content.layers(REPOSITORY, signing.beside(b.digest, "att"))


def write(b: Bench, entries: list[dict[str, Any]], digest: str | None = None) -> None:
    body = json.dumps({"layers": entries}).encode()
    b.content.put(REPOSITORY, signing.beside(digest or b.digest, "att"), body)


def test_what_was_attested_is_read_back(b: Bench) -> None:
    attest(b, {SBOM: BOM, SCAN: REPORT})
    assert read(b) == {SBOM: BOM, SCAN: REPORT}
    assert read(b, other=True) == {}


def test_nothing_attested_reads_as_nothing(b: Bench) -> None:
    assert read(b) == {}


def test_attesting_again_replaces_our_own_of_that_type_only(b: Bench) -> None:
    attest(b, {SBOM: BOM, SCAN: REPORT})
    newer = REPORT | {"again": True}
    attest(b, {SCAN: newer})
    assert read(b) == {SBOM: BOM, SCAN: newer}
    assert len(layers(b)) == 2


def test_attestations_of_others_stay(b: Bench) -> None:
    attest(b, {SBOM: BOM | {"version": 7}}, other=True)
    theirs = layers(b)[0]
    attest(b, {SBOM: BOM})
    attest(b, {SBOM: BOM})
    assert layers(b)[0] == theirs
    assert len(layers(b)) == 2
    assert read(b, other=True) == {SBOM: BOM | {"version": 7}}


def test_the_type_that_counts_is_the_signed_one(b: Bench) -> None:
    attest(b, {SCAN: REPORT})
    entry = layers(b)[0]
    write(b, [entry | {"annotations": entry["annotations"] | {"predicateType": SBOM}}])
    assert read(b) == {SCAN: REPORT}


def test_a_statement_about_another_image_says_nothing_of_this_one(b: Bench) -> None:
    attest(b, {SBOM: BOM})
    other = b.content.push(REPOSITORY, "1111111")
    write(b, layers(b), other)
    found = attestations.read(b.registry, REPOSITORY, other, key().public_key())
    assert found == {}


def envelope(b: Bench) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(b.content.blobs[layers(b)[0]["digest"]])
    return found


def replace(b: Bench, data: bytes) -> None:
    b.content.blobs[digest_of(data)] = data
    write(b, [layers(b)[0] | {"digest": digest_of(data), "size": len(data)}])


def test_changed_content_is_not_read(b: Bench) -> None:
    attest(b, {SBOM: BOM})
    sealed = envelope(b)
    statement = json.loads(base64.b64decode(sealed["payload"]))
    statement["predicate"]["components"] = [{"name": "harmless"}]
    sealed["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    replace(b, json.dumps(sealed).encode())
    assert read(b) == {}


def test_an_envelope_of_another_type_is_not_read(b: Bench) -> None:
    attest(b, {SBOM: BOM})
    replace(b, json.dumps(envelope(b) | {"payloadType": "text/plain"}).encode())
    assert read(b) == {}


def test_a_signature_of_the_text_alone_without_its_type_does_not_count(b: Bench) -> None:
    """DSSE signs the type along: else a text signed as something else could be passed off."""
    attest(b, {SBOM: BOM})
    sealed = envelope(b)
    bare = signing.make_signature(key(), base64.b64decode(sealed["payload"]))
    sealed["signatures"] = [{"keyid": "", "sig": base64.b64encode(bare).decode()}]
    replace(b, json.dumps(sealed).encode())
    assert read(b) == {}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"{}",
        b"[" * 5000,
        b'{"payload": 1}',
        b'{"payloadType": "application/vnd.in-toto+json", "payload": "", "signatures": [{}]}',
        b'{"payloadType": "application/vnd.in-toto+json", "payload": "!", "signatures": []}',
    ],
)
def test_a_hostile_envelope_reads_as_nothing_and_is_kept(b: Bench, data: bytes) -> None:
    attest(b, {SBOM: BOM})
    replace(b, data)
    assert read(b) == {}
    attest(b, {SBOM: BOM})
    assert len(layers(b)) == 2
    assert read(b) == {SBOM: BOM}


def test_a_list_that_is_none_is_not_overwritten(b: Bench) -> None:
    b.content.put(REPOSITORY, signing.beside(b.digest, "att"), b'{"manifests": []}')
    with pytest.raises(signing.SignatureError, match=r"Delete that tag in the registry"):
        attest(b, {SBOM: BOM})
