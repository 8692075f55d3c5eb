"""Does this text look like a cosign key? The outer shape only, without a cryptography package.

cosign's key pairs are ECDSA P-256 (docs.sigstore.dev, "Signing with self-managed keys"). Whether
the two halves belong together is seen when they are used (`honeydue.images.signing`); what is
caught here is the wrong file, before anything is declared. Messages never hold a byte of a key.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from honeydue import rules
from honeydue.pkcs8 import PEM
from honeydue.problems import Wrong

# SubjectPublicKeyInfo of an uncompressed P-256 point (RFC 5480): this header and 64 bytes.
_P256_HEADER = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
# PEM labels of private keys: without a password, and as `cosign generate-key-pair` encrypts them.
PLAIN: Final = ("PRIVATE KEY", "EC PRIVATE KEY")
ENCRYPTED: Final = ("ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY")


def public_key(text: str) -> None:
    """Refuses everything but a P-256 public key in PEM (`cosign.pub`)."""
    kind, der = _read(text)
    if "PRIVATE" in kind:
        raise Wrong("is the private key; it belongs, encrypted, in signing.privateKey")
    if kind != "PUBLIC KEY":
        raise Wrong(f"is a PEM of type {kind}; cosign.pub begins with BEGIN PUBLIC KEY")
    if not der.startswith(_P256_HEADER) or len(der) != len(_P256_HEADER) + 64:
        raise Wrong("is not a P-256 public key, as cosign's are")


def private_key(text: str) -> None:
    """Refuses everything but a private key in PEM: plain, or encrypted as cosign does it."""
    kind, _ = _read(text)
    if kind not in PLAIN + ENCRYPTED:
        raise Wrong(f"is a PEM of type {kind}; a private key is wanted")


def _read(text: str) -> tuple[str, bytes]:
    if "\n" not in text:
        rules.plain(text)  # a placeholder is told as one
    found = PEM.match(text)
    if not found or found[1] != found[3]:
        raise Wrong(
            r"has its line breaks as \n text; the lines of a PEM must stay lines"
            if r"\n" in text
            else "is not a PEM: it must be the whole file, from BEGIN to END"
        )
    try:
        return found[1], base64.b64decode(found[2].replace("\n", ""), validate=True)
    except binascii.Error:
        raise Wrong("is not whole: what stands between BEGIN and END is not base64") from None
