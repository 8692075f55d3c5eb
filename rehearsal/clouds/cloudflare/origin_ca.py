"""/certificates: the Origin CA, which signs what a server shows to Cloudflare's proxies.

Certificates are signed for real, by an authority that this stand-in makes for itself and keeps in
its store; no client in the world trusts it. As the vendor's: the subject of the request is ignored,
and only the key and the hostnames that were asked for are in the certificate.

The codes of refused certificates (1003, 1010, 1101) are as users quote them, but which mistake has
which is our guess.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rehearsal.clouds.cloudflare.dialect import page, success, timestamp
from rehearsal.clouds.cloudflare.zones import zone_of
from rehearsal.clouds.http import App, Call, Field, Refusal, Reply, State

VALIDITIES: Final = (7, 30, 90, 365, 730, 1095, 5475)  # days
_KEYS: Final[Mapping[str, type]] = {
    "origin-rsa": rsa.RSAPublicKey,
    "origin-ecc": ec.EllipticCurvePublicKey,
}
_HOSTNAME: Final = re.compile(r"(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}")
_ORGANISATION: Final = "CloudFlare, Inc. (rehearsal)"


def declare(app: App) -> None:
    @app.route(
        "POST",
        "/certificates",
        body={
            "csr": Field(str, required=True),
            "hostnames": Field(list, required=True, of=Field(str)),
            "request_type": Field(str, required=True),
            "requested_validity": Field((int, float), nullable=True),
        },
    )
    def create_certificate(call: Call) -> Reply:
        kind, hostnames = call.body["request_type"], call.body["hostnames"]
        days = call.body.get("requested_validity") or VALIDITIES[-1]
        if kind not in _KEYS:
            raise Refusal(400, "1003", f"request_type must be one of {', '.join(_KEYS)}")
        if days not in VALIDITIES:
            raise Refusal(400, "1003", f"requested_validity must be one of {VALIDITIES}")
        request = _load_request(call.body["csr"], kind)
        if not hostnames:
            raise Refusal(400, "1003", "hostnames must not be empty")
        for hostname in hostnames:
            _require_own(call.state, hostname)
        start = datetime.fromtimestamp(call.now, UTC).replace(microsecond=0)
        end = start + timedelta(days=int(days))
        signed = _sign(call.state, kind, request, hostnames, (start, end))
        record = {
            "id": str(signed.serial_number),
            "certificate": signed.public_bytes(Encoding.PEM).decode(),
            "csr": call.body["csr"],
            "hostnames": hostnames,
            "request_type": kind,
            "requested_validity": int(days),
            "expires_on": f"{end:%Y-%m-%d %H:%M:%S} +0000 UTC",
        }
        call.state["certificates"][record["id"]] = record
        return success(record)

    @app.route("GET", "/certificates", query={"zone_id", "page", "per_page", "limit", "offset"})
    def list_certificates(call: Call) -> Reply:
        call.values = {"zone_id": call.query.get("zone_id", "")}
        name = zone_of(call)["name"]
        found = [
            certificate
            for certificate in call.state["certificates"].values()
            if any(_is_in(hostname, name) for hostname in certificate["hostnames"])
        ]
        return page(call, found, default=20, most=50)

    @app.route("GET", "/certificates/<certificate_id>")
    def get_certificate(call: Call) -> Reply:
        certificate_id = call.values["certificate_id"]
        return success(call.state["revoked"].get(certificate_id) or _certificate(call))

    @app.route("DELETE", "/certificates/<certificate_id>", body={})
    def revoke_certificate(call: Call) -> Reply:
        certificate = _certificate(call)
        revoked_at = timestamp(call.now)
        call.state["revoked"][certificate["id"]] = certificate | {"revoked_at": revoked_at}
        del call.state["certificates"][certificate["id"]]
        return success({"id": certificate["id"], "revoked_at": revoked_at})


def _certificate(call: Call) -> dict[str, Any]:
    certificate: dict[str, Any] | None = call.state["certificates"].get(
        call.values["certificate_id"]
    )
    if certificate is None:
        raise Refusal(404, "1101", "Failed to read certificate from Database")
    return certificate


def _load_request(csr: str, kind: str) -> x509.CertificateSigningRequest:
    try:
        request = x509.load_pem_x509_csr(csr.encode())
        fits = request.is_signature_valid and isinstance(request.public_key(), _KEYS[kind])
    except ValueError:
        raise Refusal(400, "1003", "Failed to parse the certificate signing request") from None
    if not fits:
        raise Refusal(400, "1003", f"The request is not signed by a key for {kind}")
    return request


def _require_own(state: State, hostname: str) -> None:
    if not _HOSTNAME.fullmatch(hostname.lower()):
        raise Refusal(400, "1003", f"{hostname} is not a hostname for a certificate")
    if not any(_is_in(hostname, zone["name"]) for zone in state["zones"].values()):
        message = (
            "This zone is either not part of your account, or you do not have access to it. "
            "Please contact support if using a multi-user organization."
        )
        raise Refusal(400, "1010", message)


def _is_in(hostname: str, zone: str) -> bool:
    plain = hostname.lower().removeprefix("*.")
    return plain == zone or plain.endswith(f".{zone}")


def _sign(
    state: State,
    kind: str,
    request: x509.CertificateSigningRequest,
    hostnames: list[str],
    lifetime: tuple[datetime, datetime],
) -> x509.Certificate:
    start, end = lifetime
    key, authority = _authority(state, kind, start)
    names = x509.SubjectAlternativeName([x509.DNSName(name.lower()) for name in hostnames])
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name("CloudFlare Origin Certificate"))
        .issuer_name(authority.subject)
        .public_key(request.public_key())
        .serial_number(secrets.randbits(158) or 1)
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
            ),
            critical=False,
        )
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(request.public_key()), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
        .add_extension(names, critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def _authority(
    state: State, kind: str, now: datetime
) -> tuple[rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Made when first needed: an RSA key takes its time."""
    stored = state["authorities"].get(kind)
    if stored is not None:
        loaded = load_pem_private_key(stored["key"].encode(), None)
        assert isinstance(loaded, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
        return loaded, x509.load_pem_x509_certificate(stored["certificate"].encode())
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = (
        rsa.generate_private_key(65537, 2048)
        if kind == "origin-rsa"
        else ec.generate_private_key(ec.SECP256R1())
    )
    name = _name(f"Origin CA {kind}")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=36500))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    state["authorities"][kind] = {
        "key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "certificate": certificate.public_bytes(Encoding.PEM).decode(),
    }
    return key, certificate


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
