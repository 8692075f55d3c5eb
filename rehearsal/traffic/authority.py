"""The certificates that users of a rehearsal see: one authority for each home, which only those
trust who are told to, and a leaf for the zone's hosts."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from rehearsal.cluster.certificates import Pair, issue
from rehearsal.home import Home

LIFETIME = timedelta(days=3650)


def self_signed(name: str, *, ca: bool) -> tuple[bytes, bytes]:
    """(certificate, key), both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("rehearsal")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), private


def edge_pair(home: Home, zones: Iterable[str]) -> Pair:
    """The edge's certificate, made anew at each start, by the home's authority, made once. As
    Cloudflare's Universal SSL: each zone and one level below it."""
    folder = home.edge_ca.parent
    folder.mkdir(parents=True, exist_ok=True)
    authority = Pair(home.edge_ca, folder / "ca.key")
    if not authority.key.is_file() or not authority.crt.is_file():
        certificate, key = self_signed("Rehearsal's edge", ca=True)
        authority.key.touch(mode=0o600)
        authority.key.write_bytes(key)
        authority.crt.write_bytes(certificate)
    hosts = [host for zone in zones for host in (zone, f"*.{zone}")]
    target = Pair(folder / "edge.crt", folder / "edge.key")
    return issue(authority, target, name="edge", hosts=hosts, client=False, server=True)
