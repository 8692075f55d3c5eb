"""The CLI's passphrase secrets manager (`pulumi/pkg/secrets/passphrase`), so that either engine
opens what the other wrote.

key         PBKDF2-HMAC-SHA256(passphrase, 8-byte salt, 1,000,000 rounds), 32 bytes
value       `v1:<base64 12-byte nonce>:<base64 AES-256-GCM ciphertext>`
salt line   `v1:<base64 salt>:<the word "pulumi" as a value>`: tells a wrong passphrase at once
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from rehearsal.engine.errors import EngineError

_ROUNDS = 1_000_000


@lru_cache(maxsize=32)  # a million rounds cost a second; a run opens the same salt several times
def _derive(passphrase: str, salt: bytes) -> bytes:
    return PBKDF2HMAC(SHA256(), length=32, salt=salt, iterations=_ROUNDS).derive(
        passphrase.encode()
    )


@dataclass(frozen=True)
class Crypter:
    """Encrypts and decrypts for one stack. `salt` is the stack's `encryptionsalt` line."""

    salt: str
    _key: bytes = field(repr=False)
    _known: dict[tuple[str, str], str] = field(default_factory=dict, repr=False)

    def encrypt(self, plaintext: str, place: str = "") -> str:
        """The same secret at the same `place` keeps its ciphertext, so that a save which changes
        nothing changes no byte of the state, and equal secrets at two places do not look equal."""
        known = self._known.get((place, plaintext))
        if known is None:
            nonce = os.urandom(12)
            sealed = AESGCM(self._key).encrypt(nonce, plaintext.encode(), None)
            known = f"v1:{b64encode(nonce).decode()}:{b64encode(sealed).decode()}"
            self._known[place, plaintext] = known
        return known

    def decrypt(self, ciphertext: str, place: str = "") -> str:
        """Raises EngineError when the value was encrypted with another key or was damaged."""
        try:
            version, nonce, sealed = ciphertext.split(":")
            if version != "v1":
                raise ValueError(version)
            plaintext = (
                AESGCM(self._key).decrypt(b64decode(nonce), b64decode(sealed), None).decode()
            )
        except (ValueError, InvalidTag) as error:
            raise EngineError(
                f"the secret {place or 'value'} does not open with this stack's passphrase: it was "
                "encrypted for another stack, or the line was damaged; set it again with "
                "`pulumi config set --secret`"
            ) from error
        self._known[place, plaintext] = ciphertext
        return plaintext


def passphrase() -> str:
    """From PULUMI_CONFIG_PASSPHRASE (may be empty) or the file PULUMI_CONFIG_PASSPHRASE_FILE."""
    if (value := os.environ.get("PULUMI_CONFIG_PASSPHRASE")) is not None:
        return value
    if path := os.environ.get("PULUMI_CONFIG_PASSPHRASE_FILE"):
        try:
            return Path(path).read_text().strip()
        except OSError as error:
            raise EngineError(
                f"PULUMI_CONFIG_PASSPHRASE_FILE: cannot read {path}: {error.strerror}"
            ) from error
    raise EngineError(
        "passphrase must be set with PULUMI_CONFIG_PASSPHRASE or PULUMI_CONFIG_PASSPHRASE_FILE "
        "environment variables"
    )


def open_crypter(salt_line: str | None) -> Crypter:
    """The crypter of an existing stack, or of a new one (`salt_line` None: a fresh salt)."""
    words = passphrase()
    if salt_line is None:
        salt = os.urandom(8)
        key = _derive(words, salt)
        check = Crypter("", key).encrypt("pulumi")
        return Crypter(f"v1:{b64encode(salt).decode()}:{check}", key)
    try:
        version, encoded, check = salt_line.split(":", 2)
        salt = b64decode(encoded, validate=True)
        if version != "v1":
            raise ValueError(version)
    except (ValueError, AttributeError) as error:
        raise EngineError(
            "encryptionsalt: not of the form v1:<salt>:<check>; take the line from the repository"
        ) from error
    key = _derive(words, salt)
    try:
        Crypter("", key).decrypt(check)
    except EngineError as error:
        raise EngineError(
            "incorrect passphrase: PULUMI_CONFIG_PASSPHRASE (or the file that "
            "PULUMI_CONFIG_PASSPHRASE_FILE names) does not open this stack"
        ) from error
    return Crypter(salt_line, key)
