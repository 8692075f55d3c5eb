"""Every rule for the application's secrets, with what is told word for word."""

# ruff: noqa: E501 - what is told stands here as it is told, on one line

from __future__ import annotations

import base64
from typing import Any, Final

import pytest

from honeydue.problems import Problem

from .sample import APNS_KEY, GONE, config, problems

Refused = tuple[Any, ...]  # a name, what is made wrong, and each Problem that must be told


RSA: Final = bytes.fromhex("2a864886f70d010101")
EC: Final = bytes.fromhex("2a8648ce3d0201")
PRIME256V1: Final = bytes.fromhex("2a8648ce3d030107")
SECP384R1: Final = bytes.fromhex("2b81040022")


def tlv(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes([tag, len(body)]) + body


def der(algorithm: bytes = EC, curve: bytes = PRIME256V1, number: bytes = b"\x11" * 32) -> bytes:
    """A PKCS#8 private key, by hand: the program's virtualenv has no package for it."""
    key = tlv(0x30, tlv(2, b"\1"), tlv(4, number))
    kind = tlv(0x30, tlv(6, algorithm), tlv(6, curve))
    return tlv(0x30, tlv(2, b"\0"), kind, tlv(4, key))


def pem(content: bytes) -> str:
    body = base64.b64encode(content).decode()
    return f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"


REFUSED: Final[tuple[Refused, ...]] = (
    (
        "a SECRET_KEY that is too short",
        config("secrets.SECRET_KEY", "short-but-1234"),
        Problem(
            "honeydue:secrets.SECRET_KEY",
            "has 14 characters; at least 50 are needed",
            "openssl rand -base64 48 | pulumi config set -s prod --secret --path honeydue:secrets.SECRET_KEY",
        ),
    ),
    (
        "a SECRET_KEY of few characters",
        config("secrets.SECRET_KEY", "ab" * 30),
        Problem(
            "honeydue:secrets.SECRET_KEY",
            "is too easy to guess: it has too few different characters",
            "openssl rand -base64 48 | pulumi config set -s prod --secret --path honeydue:secrets.SECRET_KEY",
        ),
    ),
    (
        "a SECRET_KEY that repeats itself",
        config("secrets.SECRET_KEY", "Kq7vT2mZx9Lw4Rb8Nc3H" * 3),
        Problem(
            "honeydue:secrets.SECRET_KEY",
            "is too easy to guess: it repeats itself",
            "openssl rand -base64 48 | pulumi config set -s prod --secret --path honeydue:secrets.SECRET_KEY",
        ),
    ),
    (
        "a SECRET_KEY that is a sequence",
        config(
            "secrets.SECRET_KEY",
            "".join(map(chr, range(48, 58)))
            + "".join(map(chr, range(65, 91)))
            + "".join(map(chr, range(97, 123))),
        ),
        Problem(
            "honeydue:secrets.SECRET_KEY",
            "is too easy to guess: it is a sequence",
            "openssl rand -base64 48 | pulumi config set -s prod --secret --path honeydue:secrets.SECRET_KEY",
        ),
    ),
    (
        "a database password that is too short",
        config("secrets.POSTGRES_PASSWORD", "hunter2"),
        Problem(
            "honeydue:secrets.POSTGRES_PASSWORD",
            "has 7 characters; at least 12 are needed",
            "pulumi config set -s prod --secret --path honeydue:secrets.POSTGRES_PASSWORD",
        ),
    ),
    (
        "a database password of few characters",
        config("secrets.POSTGRES_PASSWORD", "aaaaaaaaaaaaab"),
        Problem(
            "honeydue:secrets.POSTGRES_PASSWORD",
            "is too easy to guess: it has too few different characters",
            "pulumi config set -s prod --secret --path honeydue:secrets.POSTGRES_PASSWORD",
        ),
    ),
    (
        "a mail password that is too short",
        config("secrets.EMAIL_HOST_PASSWORD", "abc"),
        Problem(
            "honeydue:secrets.EMAIL_HOST_PASSWORD",
            "has 3 characters; at least 8 are expected",
            "pulumi config set -s prod --secret --path honeydue:secrets.EMAIL_HOST_PASSWORD",
        ),
    ),
    (
        "an APNs key that is no PEM",
        config("secrets.APNS_AUTH_KEY", "AuthKey_ABC123DEFG.p8"),
        Problem(
            "honeydue:secrets.APNS_AUTH_KEY",
            "is not a PEM: it must be the whole .p8 file, from BEGIN to END PRIVATE KEY",
            "pulumi config set -s prod --secret --path honeydue:secrets.APNS_AUTH_KEY < AuthKey_<key id>.p8",
        ),
    ),
    (
        "an APNs key whose line breaks became text",
        config("secrets.APNS_AUTH_KEY", APNS_KEY.replace("\n", "\\n")),
        Problem(
            "honeydue:secrets.APNS_AUTH_KEY",
            "has its line breaks as \\n text; the lines of the .p8 file must stay lines",
            "pulumi config set -s prod --secret --path honeydue:secrets.APNS_AUTH_KEY < AuthKey_<key id>.p8",
        ),
    ),
    (
        "an APNs key with Windows line ends",
        config("secrets.APNS_AUTH_KEY", APNS_KEY.replace("\n", "\r\n")),
        Problem(
            "honeydue:secrets.APNS_AUTH_KEY",
            "holds Windows line ends (CRLF)",
            "pulumi config set -s prod --secret --path honeydue:secrets.APNS_AUTH_KEY < AuthKey_<key id>.p8",
        ),
    ),
    (
        "an APNs key in another PEM",
        config("secrets.APNS_AUTH_KEY", APNS_KEY.replace("PRIVATE", "EC PRIVATE")),
        Problem(
            "honeydue:secrets.APNS_AUTH_KEY",
            "is a PEM of type EC PRIVATE KEY; APNs wants PKCS#8, which begins with BEGIN PRIVATE KEY",
            "pulumi config set -s prod --secret --path honeydue:secrets.APNS_AUTH_KEY < AuthKey_<key id>.p8",
        ),
    ),
    (
        "an APNs certificate instead of the key",
        config("secrets.APNS_AUTH_KEY", APNS_KEY.replace("PRIVATE KEY", "CERTIFICATE")),
        Problem(
            "honeydue:secrets.APNS_AUTH_KEY",
            "is a PEM of type CERTIFICATE; APNs wants PKCS#8, which begins with BEGIN PRIVATE KEY",
            "pulumi config set -s prod --secret --path honeydue:secrets.APNS_AUTH_KEY < AuthKey_<key id>.p8",
        ),
    ),
    (
        "an APNs key that lost a character",
        config("secrets.APNS_AUTH_KEY", APNS_KEY.replace("MIG", "MI")),
        Problem(
            "honeydue:secrets.APNS_AUTH_KEY",
            "is not whole: what stands between BEGIN and END is not base64",
            "pulumi config set -s prod --secret --path honeydue:secrets.APNS_AUTH_KEY < AuthKey_<key id>.p8",
        ),
    ),
    (
        "an APNs key that lost its last line",
        config("secrets.APNS_AUTH_KEY", pem(der()[:-40])),
        Problem(
            "honeydue:secrets.APNS_AUTH_KEY",
            "is damaged: it does not parse as a PKCS#8 private key",
            "pulumi config set -s prod --secret --path honeydue:secrets.APNS_AUTH_KEY < AuthKey_<key id>.p8",
        ),
    ),
    (
        "an APNs key with something behind it",
        config("secrets.APNS_AUTH_KEY", pem(der() + b"\0")),
        Problem(
            "honeydue:secrets.APNS_AUTH_KEY",
            "is damaged: it does not parse as a PKCS#8 private key",
            "pulumi config set -s prod --secret --path honeydue:secrets.APNS_AUTH_KEY < AuthKey_<key id>.p8",
        ),
    ),
    (
        "an APNs key that is RSA",
        config("secrets.APNS_AUTH_KEY", pem(der(algorithm=RSA))),
        Problem(
            "honeydue:secrets.APNS_AUTH_KEY",
            "is not an elliptic-curve key; APNs keys are P-256",
            "pulumi config set -s prod --secret --path honeydue:secrets.APNS_AUTH_KEY < AuthKey_<key id>.p8",
        ),
    ),
    (
        "an APNs key on another curve",
        config("secrets.APNS_AUTH_KEY", pem(der(curve=SECP384R1))),
        Problem(
            "honeydue:secrets.APNS_AUTH_KEY",
            "is a key on another curve; APNs keys are P-256",
            "pulumi config set -s prod --secret --path honeydue:secrets.APNS_AUTH_KEY < AuthKey_<key id>.p8",
        ),
    ),
    (
        "an APNs key of zero",
        config("secrets.APNS_AUTH_KEY", pem(der(number=bytes(32)))),
        Problem(
            "honeydue:secrets.APNS_AUTH_KEY",
            "is damaged: its number is not a P-256 private key",
            "pulumi config set -s prod --secret --path honeydue:secrets.APNS_AUTH_KEY < AuthKey_<key id>.p8",
        ),
    ),
    (
        "an APNs key of the wrong size",
        config("secrets.APNS_AUTH_KEY", pem(der(number=b"\1" * 31))),
        Problem(
            "honeydue:secrets.APNS_AUTH_KEY",
            "is damaged: it does not parse as a PKCS#8 private key",
            "pulumi config set -s prod --secret --path honeydue:secrets.APNS_AUTH_KEY < AuthKey_<key id>.p8",
        ),
    ),
    (
        "a secret that YAML reads as a number",
        config("secrets.B2_KEY_ID", 123456789012),
        Problem(
            "honeydue:secrets.B2_KEY_ID",
            "must be text; YAML reads it as a number, so write it in quotes",
            "pulumi config set -s prod --secret --path honeydue:secrets.B2_KEY_ID",
        ),
    ),
    (
        "a secret that is null",
        config("secrets.POSTGRES_PASSWORD", None),
        Problem(
            "honeydue:secrets.POSTGRES_PASSWORD",
            "is null",
            "pulumi config set -s prod --secret --path honeydue:secrets.POSTGRES_PASSWORD",
        ),
    ),
    (
        "a secret that the program makes",
        config("secrets.REDIS_PASSWORD", "abcdefgh"),
        Problem(
            "honeydue:secrets.REDIS_PASSWORD",
            "is made by the program, one per stack",
            "pulumi config rm -s prod --path honeydue:secrets.REDIS_PASSWORD",
        ),
    ),
    (
        "a setting among the secrets",
        config("secrets.DB_HOST", "db.vendor.net"),
        Problem(
            "honeydue:secrets.DB_HOST",
            "is no secret; it belongs in deploy/prod.env",
            "pulumi config rm -s prod --path honeydue:secrets.DB_HOST",
        ),
    ),
    (
        "a misspelt secret",
        config("secrets.FCM_SERVERKEY", "abcdefgh"),
        Problem(
            "honeydue:secrets.FCM_SERVERKEY",
            "is unknown; did you mean FCM_SERVER_KEY?",
            "Pulumi.prod.yaml: write FCM_SERVER_KEY instead of FCM_SERVERKEY",
        ),
    ),
    (
        "an unknown secret",
        config("secrets.STRIPE", "abcdefgh"),
        Problem(
            "honeydue:secrets.STRIPE",
            "is unknown",
            "pulumi config rm -s prod --path honeydue:secrets.STRIPE",
        ),
    ),
    (
        "a missing secret",
        config("secrets.SECRET_KEY", GONE),
        Problem(
            "honeydue:secrets.SECRET_KEY",
            "is missing",
            "openssl rand -base64 48 | pulumi config set -s prod --secret --path honeydue:secrets.SECRET_KEY",
        ),
    ),
    (
        "secrets that are no object",
        config("secrets", "[1]"),
        Problem(
            "honeydue:secrets",
            "must be an object of KEY: value",
            "pulumi config set -s prod --secret --path honeydue:secrets.SECRET_KEY",
        ),
    ),
)


@pytest.mark.parametrize("case", REFUSED, ids=[case[0] for case in REFUSED])
def test_a_wrong_secret_is_told_with_the_line_that_mends_it(case: Refused) -> None:
    _, change, *told = case
    assert problems(change) == told
