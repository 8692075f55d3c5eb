"""The key pair that signs images: ECDSA on P-256, in PEM.

Three forms of the private key are read: PKCS#8 and SEC 1 without a password, and the one that
`cosign generate-key-pair` writes (`ENCRYPTED SIGSTORE PRIVATE KEY`, before that `ENCRYPTED COSIGN
PRIVATE KEY`): a JSON text with scrypt's parameters and a NaCl secretbox around a PKCS#8 key, see
github.com/secure-systems-lab/go-securesystemslib, encrypted/encrypted.go. The secretbox is opened
here, since `cryptography` has Poly1305 and scrypt, but no XSalsa20; tests hold it against keys that
the real cosign made. No message holds a byte of a key or a password.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import struct
from collections.abc import Sequence
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.poly1305 import Poly1305

from honeydue import cosign

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

_PEM: Final = re.compile(
    r"\A\s*-----BEGIN ([A-Z0-9 ]+)-----\n([A-Za-z0-9+/=\n]+)\n-----END \1-----\s*\Z"
)
_MOST_SCRYPT_MEMORY: Final = 256 << 20  # bytes; cosign's own parameters need 32 or 64 MiB


class KeyRefusedError(Exception):
    """This text is not such a key. The message completes the sentence "<setting> …"."""


def private_key(pem: str, password: str = "") -> PrivateKey:
    """Reads `signing.privateKey`; `password` is for cosign's own form only. KeyRefusedError."""
    label, body = _unwrap(pem)
    if label in cosign.ENCRYPTED:
        key = _load_der(_open_cosign(body, password.encode()))
    elif label in cosign.PLAIN:
        key = _load_pem(pem)
    elif label == "PUBLIC KEY":
        raise KeyRefusedError("is the public key; the private one belongs here")
    elif label == "ENCRYPTED PRIVATE KEY":
        raise KeyRefusedError(
            "is encrypted as PKCS#8, which cosign cannot read either; take the password off, the "
            "stack encrypts it: openssl pkcs8 -in <the key's file>"
        )
    else:
        raise KeyRefusedError(f"is a PEM of type {label}, not a private key of cosign's")
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyRefusedError("is not an elliptic-curve key; cosign's are ECDSA on P-256")
    if not isinstance(key.curve, ec.SECP256R1):
        raise KeyRefusedError(f"is a key on the curve {key.curve.name}; cosign's are on P-256")
    return key


def public_key(pem: str) -> PublicKey:
    """Reads `signing.publicKey`, which is cosign's `cosign.pub`. KeyRefusedError."""
    label, _ = _unwrap(pem)
    if "PRIVATE" in label:
        raise KeyRefusedError(
            "is a private key, and this setting is not encrypted; if it was ever committed, make a "
            "new pair"
        )
    if label != "PUBLIC KEY":
        raise KeyRefusedError(f"is a PEM of type {label}; cosign.pub begins with BEGIN PUBLIC KEY")
    try:
        key = serialization.load_pem_public_key(pem.strip().encode())
    except Exception:  # whatever OpenSSL has to say of a damaged key
        raise KeyRefusedError("is damaged: it does not parse as a public key") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyRefusedError("is no ECDSA key on P-256, which cosign's are")
    return key


def generate() -> PrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: PrivateKey) -> str:
    """PKCS#8 without a password: it goes straight into the stack's encrypted configuration."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def public_pem(key: PrivateKey | PublicKey) -> str:
    """What cosign calls cosign.pub."""
    public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
    return public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def _unwrap(pem: str) -> tuple[str, bytes]:
    found = _PEM.match(pem.replace("\r\n", "\n"))
    if not found:
        raise KeyRefusedError(
            r"has its line breaks as \n text; the lines of the PEM must stay lines"
            if r"\n" in pem
            else "is not a PEM: it must be the whole text, from -----BEGIN to the end"
        )
    try:
        return found[1], base64.b64decode(found[2].replace("\n", ""), validate=True)
    except binascii.Error:
        raise KeyRefusedError(
            "is not whole: what stands between BEGIN and END is not base64"
        ) from None


def _load_pem(pem: str) -> object:
    try:
        return serialization.load_pem_private_key(pem.strip().encode(), password=None)
    except Exception:  # OpenSSL's words for a damaged key say nothing to anyone
        raise KeyRefusedError("is damaged: it does not parse as a private key") from None


def _load_der(der: bytes) -> object:
    try:
        return serialization.load_der_private_key(der, password=None)
    except Exception:
        raise KeyRefusedError(
            "is damaged: what its password opened does not parse as a private key"
        ) from None


# --- cosign's own encryption -------------------------------------------------------------------


def _open_cosign(body: bytes, password: bytes) -> bytes:
    try:
        sealed: Any = json.loads(body)
        kdf, cipher = sealed["kdf"], sealed["cipher"]
        names = (kdf["name"], cipher["name"])
        params = kdf["params"]
        n, r, p = (int(params[name]) for name in ("N", "r", "p"))
        salt, nonce, box = (
            base64.b64decode(text, validate=True)
            for text in (kdf["salt"], cipher["nonce"], sealed["ciphertext"])
        )
    except (ValueError, KeyError, TypeError):
        raise KeyRefusedError("is damaged: it is not what cosign writes") from None
    if names != ("scrypt", "nacl/secretbox") or len(nonce) != 24:
        raise KeyRefusedError("is encrypted in a way that cosign up to v2.6 does not have")
    if not (r > 0 and 0 < p <= 16 and n > 1 and 128 * n * r <= _MOST_SCRYPT_MEMORY) or n & (n - 1):
        raise KeyRefusedError("is damaged: its scrypt parameters are not cosign's")
    key = Scrypt(salt=salt, length=32, n=n, r=r, p=p).derive(password)
    try:
        return _open_secretbox(box, nonce, key)
    except InvalidSignature:
        hint = "its password is wrong" if password else "it needs its password"
        raise KeyRefusedError(f"cannot be decrypted: {hint} (signing.password)") from None


def _open_secretbox(box: bytes, nonce: bytes, key: bytes) -> bytes:
    """NaCl's crypto_secretbox_xsalsa20poly1305; InvalidSignature when it was not made so."""
    subkey = _hsalsa20(key, nonce[:16])
    tag, sealed = box[:16], box[16:]
    blocks = range((32 + len(sealed) + 63) // 64)
    stream = b"".join(_salsa20_block(subkey, nonce[16:], number) for number in blocks)
    # The first 32 bytes of the key stream are Poly1305's key, the rest covers the text.
    Poly1305.verify_tag(stream[:32], sealed, tag)
    return bytes(a ^ b for a, b in zip(sealed, stream[32:], strict=False))


_SIGMA: Final = struct.unpack("<4I", b"expand 32-byte k")
_QUARTERS: Final = (
    # Column round, then row round; indices into the 4 by 4 matrix. Bernstein, "The Salsa20 family".
    *((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11)),
    *((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14)),
)


def _matrix(key: bytes, block: bytes) -> list[int]:
    k, b = struct.unpack("<8I", key), struct.unpack("<4I", block)
    s = _SIGMA
    return [s[0], *k[:4], s[1], *b, s[2], *k[4:], s[3]]


def _rounds(matrix: Sequence[int]) -> list[int]:
    x = list(matrix)
    for _ in range(10):
        for a, b, c, d in _QUARTERS:
            for to, one, two, turn in ((b, a, d, 7), (c, b, a, 9), (d, c, b, 13), (a, d, c, 18)):
                total = (x[one] + x[two]) & 0xFFFFFFFF
                x[to] ^= ((total << turn) | (total >> (32 - turn))) & 0xFFFFFFFF
    return x


def _hsalsa20(key: bytes, block: bytes) -> bytes:
    x = _rounds(_matrix(key, block))
    return struct.pack("<8I", x[0], x[5], x[10], x[15], *x[6:10])


def _salsa20_block(key: bytes, nonce: bytes, number: int) -> bytes:
    matrix = _matrix(key, nonce + struct.pack("<Q", number))
    mixed = zip(matrix, _rounds(matrix), strict=True)
    return struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in mixed))
