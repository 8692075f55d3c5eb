"""Leaf certificates that K3s issues on the node at its start, from the CAs on the node's disk."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=365)  # as K3s: renewed at every start of a node here


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its key."""

    crt: Path
    key: Path


def issue(
    ca: Pair,
    target: Pair,
    *,
    name: str,
    groups: Sequence[str] = (),
    hosts: Sequence[str] = (),
    client: bool = True,
    server: bool = False,
) -> Pair:
    """Writes a fresh P-256 leaf for `name` (CN), `groups` (O) and `hosts` (SANs); key mode 0600."""
    authority = x509.load_pem_x509_certificates(ca.crt.read_bytes())
    ca_key = load_pem_private_key(ca.key.read_bytes(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    subject.append(x509.NameAttribute(NameOID.COMMON_NAME, name))
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH] if client else []
    uses += [ExtendedKeyUsageOID.SERVER_AUTH] if server else []
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(authority[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(min(now + LIFETIME, authority[0].not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_signing_and_encryption(), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority[0].public_key()),  # type: ignore[arg-type]  # a CA's key kind is checked at boot
            critical=False,
        )
    )
    if hosts:
        names = [_general_name(host) for host in dict.fromkeys(hosts)]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    leaf = builder.sign(ca_key, hashes.SHA256())  # type: ignore[arg-type]  # as above
    target.key.parent.mkdir(parents=True, exist_ok=True)
    target.key.touch(mode=0o600)
    target.key.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
    chain = leaf.public_bytes(Encoding.PEM)
    if len(authority) > 1:  # intermediates are sent along, as K3s does
        chain += b"".join(parent.public_bytes(Encoding.PEM) for parent in authority[:-1])
    target.crt.write_bytes(chain)
    return target


def _signing_and_encryption() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=True,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
