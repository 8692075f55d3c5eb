"""What is known of an image, signed with the same key: its SBOM and its scan report.

A statement (in-toto v0.1: "of this digest, this is true") in a signed envelope (DSSE), kept at the
tag `sha256-<hex>.att` beside the image, as `cosign attest` does: it travels with the image, and
`cosign verify-attestation --type cyclonedx` reads it. Sources: cosign v2.6 specs/ATTESTATION_SPEC
and specs/COSIGN_VULN_ATTESTATION_SPEC; github.com/secure-systems-lab/dsse, protocol.md.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

from honeydue.images import keys
from honeydue.images.registry import Registry
from honeydue.images.signing import (
    MOST_LAYERS,
    SIGNATURE,
    Layer,
    Shelf,
    compact,
    make_signature,
    signs,
)

SBOM: Final = "https://cyclonedx.org/bom"
SCAN: Final = "https://cosign.sigstore.dev/attestation/vuln/v1"

_ENVELOPE: Final = "application/vnd.dsse.envelope.v1+json"
_IN_TOTO: Final = "application/vnd.in-toto+json"
_STATEMENT: Final = "https://in-toto.io/Statement/v0.1"
_TYPE: Final = "predicateType"  # the annotation by which cosign tells them apart
_LARGEST: Final = 64 << 20  # bytes; an SBOM of a thousand packages has about one million


def attest(
    registry: Registry,
    repository: str,
    digest: str,
    predicates: Mapping[str, Mapping[str, Any]],
    key: keys.PrivateKey,
) -> None:
    """Attaches each predicate (type → content); one of ours of the same type goes, others stay.

    SignatureError, RegistryError.
    """
    shelf = Shelf(registry, repository, digest, "att")
    public = key.public_key()
    layers = [
        layer
        for layer in shelf.layers()
        if layer["annotations"].get(_TYPE) not in predicates
        or _open(shelf, layer, digest, public) is None
    ]
    for kind, content in predicates.items():
        statement = {
            "_type": _STATEMENT,
            "predicateType": kind,
            "subject": [{"name": shelf.name, "digest": {"sha256": _hex(digest)}}],
            "predicate": content,
        }
        # cosign reads the signature in the envelope, and still wants the annotation.
        envelope = _seal(compact(statement), key)
        layers.append(shelf.add(envelope, _ENVELOPE, {SIGNATURE: "", _TYPE: kind}))
    # A list that others have filled loses their oldest: nothing of ours depends on it.
    shelf.write(layers[-MOST_LAYERS:])


def read(
    registry: Registry, repository: str, digest: str, key: keys.PublicKey
) -> dict[str, dict[str, Any]]:
    """Type → content of what the holder of `key` attested of this image; the newest of each."""
    shelf = Shelf(registry, repository, digest, "att")
    opened = (_open(shelf, layer, digest, key) for layer in shelf.layers())
    return {found["predicateType"]: found["predicate"] for found in opened if found}


def _seal(body: bytes, key: keys.PrivateKey) -> bytes:
    signature = base64.b64encode(make_signature(key, _encoded(body))).decode()
    return compact(
        {
            "payloadType": _IN_TOTO,
            "payload": base64.b64encode(body).decode(),
            "signatures": [{"keyid": "", "sig": signature}],
        }
    )


def _open(shelf: Shelf, layer: Layer, digest: str, key: keys.PublicKey) -> dict[str, Any] | None:
    """The statement in an envelope that `key` signed about this image; None: it is none."""
    data = shelf.content(layer, _LARGEST) if layer.get("mediaType") == _ENVELOPE else None
    if data is None:
        return None
    try:
        envelope: Any = json.loads(data)
        body = base64.b64decode(envelope["payload"], validate=True)
        written = [one["sig"] for one in envelope["signatures"][:MOST_LAYERS]]
        signatures = [base64.b64decode(text, validate=True) for text in written]
        if envelope["payloadType"] != _IN_TOTO or not any(
            signs(key, signature, _encoded(body)) for signature in signatures
        ):
            return None
        statement: dict[str, Any] = json.loads(body)
        about = [subject["digest"]["sha256"] for subject in statement["subject"]]
        whole = isinstance(statement["predicateType"], str) and "predicate" in statement
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return statement if whole and _hex(digest) in about else None


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _encoded(body: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the type is signed with the content."""
    return b"DSSEv1 %d %s %d %s" % (len(_IN_TOTO), _IN_TOTO.encode(), len(body), body)
