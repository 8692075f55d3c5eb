"""Is this text the `.p8` file that Apple hands out? A PKCS#8 PEM with a P-256 private key.

An exact check of the outer structure without a cryptography package, because the program's
virtualenv stays lean. Sources: RFC 5208 (PrivateKeyInfo), RFC 5480 (object identifiers), RFC 5915
(ECPrivateKey). Messages never hold a byte of the key.
"""

from __future__ import annotations

import base64
import binascii
import re

from honeydue.problems import Wrong

PEM = re.compile(
    r"\A-----BEGIN ([A-Z0-9 ]+)-----\n([A-Za-z0-9+/=\n]+)\n-----END ([A-Z0-9 ]+)-----\n?\Z"
)
_INTEGER, _OCTETS, _OID, _SEQUENCE = 0x02, 0x04, 0x06, 0x30
_EC_PUBLIC_KEY = bytes.fromhex("2a8648ce3d0201")  # 1.2.840.10045.2.1
_PRIME256V1 = bytes.fromhex("2a8648ce3d030107")  # 1.2.840.10045.3.1.7
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def apns_key(text: str) -> None:
    """Refuses everything but a PKCS#8 P-256 private key in PEM."""
    found = PEM.match(text)
    if not found:
        raise Wrong(
            r"has its line breaks as \n text; the lines of the .p8 file must stay lines"
            if r"\n" in text
            else "is not a PEM: it must be the whole .p8 file, from BEGIN to END PRIVATE KEY"
        )
    begin, body, end = found.groups()
    if begin != "PRIVATE KEY" or end != begin:
        raise Wrong(
            f"is a PEM of type {begin}; APNs wants PKCS#8, which begins with BEGIN PRIVATE KEY"
        )
    try:
        der = base64.b64decode(body.replace("\n", ""), validate=True)
    except binascii.Error:
        raise Wrong("is not whole: what stands between BEGIN and END is not base64") from None
    try:
        algorithm, curve, scalar = _private_key_info(der)
    except _NotDerError:
        raise Wrong("is damaged: it does not parse as a PKCS#8 private key") from None
    if algorithm != _EC_PUBLIC_KEY:
        raise Wrong("is not an elliptic-curve key; APNs keys are P-256")
    if curve != _PRIME256V1:
        raise Wrong("is a key on another curve; APNs keys are P-256")
    if not 0 < scalar < _P256_ORDER:
        raise Wrong("is damaged: its number is not a P-256 private key")


class _NotDerError(Exception):
    pass


class _Reader:
    """Reads DER values one after another; every length must fit exactly."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, tag: int) -> bytes:
        header = self.data[self.at : self.at + 2]
        if len(header) < 2 or header[0] != tag:
            raise _NotDerError
        length, start = header[1], self.at + 2
        if length & 0x80:
            size = length & 0x7F
            digits = self.data[start : start + size]
            # DER: the shortest form only; four bytes are more than any key has.
            if not 1 <= size <= 4 or len(digits) < size or digits[0] == 0:
                raise _NotDerError
            length, start = int.from_bytes(digits, "big"), start + size
            if length < 0x80:
                raise _NotDerError
        value = self.data[start : start + length]
        if len(value) != length:
            raise _NotDerError
        self.at = start + length
        return value

    def at_end(self) -> bool:
        return self.at == len(self.data)


def _private_key_info(der: bytes) -> tuple[bytes, bytes, int]:
    """(algorithm, curve, private number); the last two are empty for other algorithms.

    Optional parts that may follow (attributes, the public key) are allowed but not looked into.
    """
    outer = _Reader(der)
    info = _Reader(outer.take(_SEQUENCE))
    if not outer.at_end() or info.take(_INTEGER) != b"\x00":
        raise _NotDerError
    identifier = _Reader(info.take(_SEQUENCE))
    algorithm = identifier.take(_OID)
    if algorithm != _EC_PUBLIC_KEY:
        return algorithm, b"", 0
    curve = identifier.take(_OID)
    if curve != _PRIME256V1:
        return algorithm, curve, 0
    wrapped = _Reader(info.take(_OCTETS))
    key = _Reader(wrapped.take(_SEQUENCE))
    if not identifier.at_end() or not wrapped.at_end() or key.take(_INTEGER) != b"\x01":
        raise _NotDerError
    scalar = key.take(_OCTETS)
    if len(scalar) != 32:
        raise _NotDerError
    return algorithm, curve, int.from_bytes(scalar, "big")
