"""Which keys sign: cosign's own, opened here, and plain ones; and what is refused, in words."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from honeydue.images import keys, signing
from tests.images.signers import COSIGN_PRIVATE, COSIGN_PUBLIC, PASSWORD, key

PKCS8, SEC1 = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL


def pem(
    private: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey,
    form: serialization.PrivateFormat = PKCS8,
    password: bytes | None = None,
) -> str:
    encryption: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    return private.private_bytes(serialization.Encoding.PEM, form, encryption).decode()


def refusal(text: str, password: str = "") -> str:
    with pytest.raises(keys.KeyRefusedError) as refused:
        keys.private_key(text, password)
    return str(refused.value)


def cosign_pem(**changes: object) -> str:
    """COSIGN_PRIVATE with something of its JSON changed."""
    body = "".join(COSIGN_PRIVATE.splitlines()[1:-1])
    sealed = json.loads(base64.b64decode(body)) | changes
    text = base64.b64encode(json.dumps(sealed).encode()).decode()
    return COSIGN_PRIVATE.replace("\n".join(COSIGN_PRIVATE.splitlines()[1:-1]), text)


# --- what is read ------------------------------------------------------------------------------


def test_a_key_that_cosign_encrypted_is_opened_with_its_password() -> None:
    assert keys.public_pem(keys.private_key(COSIGN_PRIVATE, PASSWORD)) == COSIGN_PUBLIC


def test_the_older_name_of_the_same_form_is_read_too() -> None:
    older = COSIGN_PRIVATE.replace("SIGSTORE", "COSIGN")
    assert keys.public_pem(keys.private_key(older, PASSWORD)) == COSIGN_PUBLIC


@pytest.mark.parametrize("form", [PKCS8, SEC1])
def test_a_plain_key_is_read_in_both_forms(form: serialization.PrivateFormat) -> None:
    assert keys.public_pem(keys.private_key(pem(key(), form))) == keys.public_pem(key())


def test_windows_line_ends_and_blank_lines_around_do_no_harm() -> None:
    text = "\n" + keys.private_pem(key()).replace("\n", "\r\n") + "\n"
    assert keys.public_pem(keys.private_key(text)) == keys.public_pem(key())
    assert keys.public_pem(keys.public_key(f"\n{keys.public_pem(key())}\n")) == keys.public_pem(
        key()
    )


def test_secretbox_opens_the_example_of_nacl_itself() -> None:
    """Bernstein's own example, tests/secretbox.c of NaCl, whose stream XSalsa20 made."""
    first = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
    nonce = bytes.fromhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
    box = bytes.fromhex(
        "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c5"
        "31a1186ac0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8a"
        "b932164548e526ae90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622"
        "a43d14a6599b1f654cb45a74e355a5"
    )
    text = keys._open_secretbox(box, nonce, first)
    assert text.hex().startswith("be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffc")
    with pytest.raises(InvalidSignature):
        keys._open_secretbox(box[:-1] + bytes([box[-1] ^ 1]), nonce, first)


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("password", "says"),
    [("", "it needs its password (signing.password)"), ("wrong", "its password is wrong")],
)
def test_a_wrong_password_is_told_from_none(password: str, says: str) -> None:
    assert says in refusal(COSIGN_PRIVATE, password)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not a PEM"),
        ("canary", "is not a PEM"),
        (keys.private_pem(key()).replace("\n", r"\n"), r"has its line breaks as \n text"),
        (keys.public_pem(key()), "is the public key; the private one belongs here"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "is a key on the curve secp384r1"),
        (pem(ed25519.Ed25519PrivateKey.generate()), "is not an elliptic-curve key"),
        (pem(rsa.generate_private_key(65537, 2048), SEC1), "is a PEM of type RSA PRIVATE KEY"),
        (pem(key(), PKCS8, b"pw"), "is encrypted as PKCS#8"),
        (
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "is damaged: it does not parse",
        ),
        ("-----BEGIN PRIVATE KEY-----\nAAA\n-----END PRIVATE KEY-----\n", "is not whole"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "type CERTIFICATE"),
        (cosign_pem(kdf=None), "is damaged: it is not what cosign writes"),
        (cosign_pem(ciphertext="!"), "is damaged: it is not what cosign writes"),
        (
            cosign_pem(cipher={"name": "aes", "nonce": "AAAA"}),
            "is encrypted in a way that cosign up to v2.6 does not have",
        ),
        (
            cosign_pem(
                kdf={"name": "scrypt", "params": {"N": 1 << 40, "r": 8, "p": 1}, "salt": "AAAA"}
            ),
            "its scrypt parameters are not cosign's",
        ),
    ],
)
def test_what_is_no_signing_key_is_refused_by_name(text: str, says: str) -> None:
    assert says in refusal(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (keys.private_pem(key()), "is a private key, and this setting is not encrypted"),
        (COSIGN_PRIVATE, "is a private key"),
        ("ssh-ed25519 AAAA", "is not a PEM"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "is damaged"),
        (
            ec.generate_private_key(ec.SECP384R1())
            .public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode(),
            "is no ECDSA key on P-256",
        ),
    ],
)
def test_what_is_no_public_key_is_refused_by_name(text: str, says: str) -> None:
    with pytest.raises(keys.KeyRefusedError, match=re.escape(says)):
        keys.public_key(text)


@given(at=st.integers(0, 230), to=st.characters(codec="ascii"))
@settings(deadline=None)
def test_no_damage_to_a_key_is_a_stack_trace_or_shows_a_byte_of_it(at: int, to: str) -> None:
    whole = keys.private_pem(key())
    text = whole[:at] + to + whole[at + 1 :]
    said = ""
    try:
        keys.private_key(text)
    except keys.KeyRefusedError as refused:
        said = str(refused)
    assert not any(line in said for line in whole.splitlines()[1:-1])


# --- what the operator calls -------------------------------------------------------------------


def call(
    arguments: list[str], given: str = "", *, terminal: bool = False, **environment: str
) -> tuple[int, str, str]:
    class Out(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    out, err = Out(), io.StringIO()
    code = signing.main(arguments, environment, io.StringIO(given), out, err)
    return code, out.getvalue(), err.getvalue()


def test_a_generated_pair_goes_from_pipe_to_pipe_and_fits() -> None:
    code, private, said = call(["generate"])
    assert (code, said) == (0, "")
    code, public, said = call(["public"], private)
    assert (code, said) == (0, "")
    assert keys.public_pem(keys.private_key(private)) == public
    assert call(["generate"])[1] != private


def test_a_private_key_is_never_shown_on_a_screen() -> None:
    code, out, said = call(["generate"], terminal=True)
    assert (code, out) == (1, "")
    assert "pulumi config set -s <stack> --secret --path honeydue:signing.privateKey" in said


def test_the_public_half_of_an_encrypted_pair_needs_its_password() -> None:
    code, out, said = call(["public"], COSIGN_PRIVATE)
    assert (code, out) == (1, "")
    assert "it needs its password" in said
    assert call(["public"], COSIGN_PRIVATE, COSIGN_PASSWORD=PASSWORD) == (0, COSIGN_PUBLIC, "")


def test_called_wrongly_it_shows_how() -> None:
    code, out, said = call(["new"])
    assert (code, out) == (2, "")
    assert said.startswith("usage: ")


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "honeydue.images.signing", "generate"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("-----BEGIN PRIVATE KEY-----\n")
    keys.private_key(done.stdout)
