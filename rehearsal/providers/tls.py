"""The rehearsal's `tls` provider: pulumi-tls 5, which is terraform-provider-tls 4.

Keys and certificates are real. The encodings and the choice of extensions are those of that
provider (internal/provider/common_cert.go, common_key.go) and of Go's x509.CreateCertificate under
it, so that whatever reads them (K3s, an API server, a browser) meets the same bytes in kind.
Where ours differs: subject attributes are UTF8String (Go prefers PrintableString; both are valid),
and times are given in UTC, not in the machine's zone.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Final, TypeAlias, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from rehearsal.engine.provider import UNKNOWN, CheckFailure, Properties
from rehearsal.providers.stateless import Kind, StatelessProvider

PrivateKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

ALGORITHMS: Final = ("RSA", "ECDSA", "ED25519")
CURVES: Final[dict[str, Callable[[], ec.EllipticCurve]]] = {
    "P224": ec.SECP224R1,
    "P256": ec.SECP256R1,
    "P384": ec.SECP384R1,
    "P521": ec.SECP521R1,
}
KEY_USAGES: Final = {
    "digital_signature": "digital_signature",
    "content_commitment": "content_commitment",
    "key_encipherment": "key_encipherment",
    "data_encipherment": "data_encipherment",
    "key_agreement": "key_agreement",
    "cert_signing": "key_cert_sign",
    "crl_signing": "crl_sign",
    "encipher_only": "encipher_only",
    "decipher_only": "decipher_only",
}
EXTENDED_KEY_USAGES: Final = {
    "any_extended": ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    "server_auth": ExtendedKeyUsageOID.SERVER_AUTH,
    "client_auth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "code_signing": ExtendedKeyUsageOID.CODE_SIGNING,
    "email_protection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "ipsec_end_system": ObjectIdentifier("1.3.6.1.5.5.7.3.5"),
    "ipsec_tunnel": ObjectIdentifier("1.3.6.1.5.5.7.3.6"),
    "ipsec_user": ObjectIdentifier("1.3.6.1.5.5.7.3.7"),
    "timestamping": ExtendedKeyUsageOID.TIME_STAMPING,
    "ocsp_signing": ExtendedKeyUsageOID.OCSP_SIGNING,
    "microsoft_server_gated_crypto": ObjectIdentifier("1.3.6.1.4.1.311.10.3.3"),
    "netscape_server_gated_crypto": ObjectIdentifier("2.16.840.1.113730.4.1"),
    "microsoft_commercial_code_signing": ObjectIdentifier("1.3.6.1.4.1.311.2.1.22"),
    "microsoft_kernel_code_signing": ObjectIdentifier("1.3.6.1.4.1.311.61.1.1"),
}
# In the order in which Go's pkix.Name writes them.
_SUBJECT: Final = {
    "country": NameOID.COUNTRY_NAME,
    "organization": NameOID.ORGANIZATION_NAME,
    "organizationalUnit": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "locality": NameOID.LOCALITY_NAME,
    "province": NameOID.STATE_OR_PROVINCE_NAME,
    "streetAddresses": NameOID.STREET_ADDRESS,
    "postalCode": NameOID.POSTAL_CODE,
    "commonName": NameOID.COMMON_NAME,
    "serialNumber": NameOID.SERIAL_NUMBER,
    "emailAddress": NameOID.EMAIL_ADDRESS,
}


class TlsProvider(StatelessProvider):
    def __init__(self, inputs: Properties) -> None:
        super().__init__("tls", _KINDS, inputs)


# Private keys


def _plan_key(inputs: Properties) -> Properties:
    return {"rsaBits": 2048, "ecdsaCurve": "P224"} | _given(inputs)


def _validate_key(inputs: Properties) -> list[CheckFailure]:
    planned = _plan_key(inputs)
    failures = _one_of(planned, "algorithm", ALGORITHMS) + _one_of(planned, "ecdsaCurve", CURVES)
    if planned["rsaBits"] is not UNKNOWN and not 1024 <= planned["rsaBits"] <= 16384:
        failures.append(CheckFailure("rsaBits", "must be from 1024 to 16384"))
    return failures


def _make_key(planned: Properties) -> tuple[str, Properties]:
    key: PrivateKey
    match planned["algorithm"]:
        case "RSA":
            key = rsa.generate_private_key(65537, int(planned["rsaBits"]))
        case "ECDSA":
            key = ec.generate_private_key(CURVES[planned["ecdsaCurve"]]())
        case _:
            key = ed25519.Ed25519PrivateKey.generate()
    # "RSA PRIVATE KEY" (PKCS#1), "EC PRIVATE KEY" (SEC 1); an Ed25519 key has PKCS#8 only.
    own = (
        PrivateFormat.PKCS8
        if isinstance(key, ed25519.Ed25519PrivateKey)
        else PrivateFormat.TraditionalOpenSSL
    )
    public = key.public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    # OpenSSH has no P-224: the provider leaves its fields empty.
    is_ec = isinstance(key, ec.EllipticCurvePrivateKey)
    has_openssh = not (is_ec and planned["ecdsaCurve"] == "P224")
    openssh = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) if has_openssh else b""
    wire = base64.b64decode(openssh.split()[1]) if has_openssh else b""
    md5 = hashlib.md5(wire, usedforsecurity=False).hexdigest()
    sha256 = base64.b64encode(hashlib.sha256(wire).digest()).rstrip(b"=").decode()
    return hashlib.sha1(der, usedforsecurity=False).hexdigest(), {
        "privateKeyPem": _private_pem(key, own),
        "privateKeyPemPkcs8": _private_pem(key, PrivateFormat.PKCS8),
        "privateKeyOpenssh": _private_pem(key, PrivateFormat.OpenSSH) if has_openssh else "",
        "publicKeyPem": public.public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        ).decode(),
        "publicKeyOpenssh": f"{openssh.decode()}\n" if has_openssh else "",
        "publicKeyFingerprintMd5": ":".join(
            md5[index : index + 2] for index in range(0, len(md5), 2)
        )
        if has_openssh
        else "",
        "publicKeyFingerprintSha256": f"SHA256:{sha256}" if has_openssh else "",
    }


def _private_pem(key: PrivateKey, form: PrivateFormat) -> str:
    return key.private_bytes(Encoding.PEM, form, serialization.NoEncryption()).decode()


# Certificate requests


def _validate_request(inputs: Properties) -> list[CheckFailure]:
    return _require_readable_key(inputs, "privateKeyPem") + _validate_names(inputs)


def _make_request(planned: Properties) -> tuple[str, Properties]:
    key = _load_key(planned["privateKeyPem"], "privateKeyPem")
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(planned))
    names = _alternative_names(planned)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    pem = builder.sign(key, _hash_for(key)).public_bytes(Encoding.PEM).decode()
    id_ = hashlib.sha1(pem.strip().encode(), usedforsecurity=False).hexdigest()
    return id_, {"certRequestPem": pem, "keyAlgorithm": _algorithm(key)}


# Certificates


def _plan_self_signed(inputs: Properties) -> Properties:
    return {"setAuthorityKeyId": False} | _plan_certificate(inputs)


def _plan_certificate(inputs: Properties) -> Properties:
    defaults = {"earlyRenewalHours": 0, "isCaCertificate": False, "setSubjectKeyId": False}
    return defaults | _given(inputs)


def _validate_self_signed(inputs: Properties) -> list[CheckFailure]:
    return (
        _require_readable_key(inputs, "privateKeyPem")
        + _validate_names(inputs)
        + _validate_certificate(inputs)
    )


def _validate_locally_signed(inputs: Properties) -> list[CheckFailure]:
    return _require_readable_key(inputs, "caPrivateKeyPem") + _validate_certificate(inputs)


def _validate_certificate(inputs: Properties) -> list[CheckFailure]:
    failures = [
        CheckFailure(name, "must be at least 0")
        for name in ("validityPeriodHours", "earlyRenewalHours")
        if inputs.get(name) not in {None, UNKNOWN} and inputs[name] < 0
    ]
    uses = inputs["allowedUses"]
    for index, use in enumerate(uses if isinstance(uses, list) else []):
        if use is not UNKNOWN and use not in {*KEY_USAGES, *EXTENDED_KEY_USAGES}:
            known = ", ".join(sorted({*KEY_USAGES, *EXTENDED_KEY_USAGES}))
            failures.append(CheckFailure(f"allowedUses[{index}]", f"must be one of {known}"))
    return failures


def _make_self_signed(planned: Properties) -> tuple[str, Properties]:
    key = _load_key(planned["privateKeyPem"], "privateKeyPem")
    subject = _subject(planned)
    own_id = _subject_key_id(key.public_key()) if _has_key_id(planned) else None
    authority = None
    if planned["setAuthorityKeyId"]:
        if own_id is None:
            raise ValueError(
                "setAuthorityKeyId: the certificate is its own authority and has no key id; "
                "set set_subject_key_id=True (or is_ca_certificate=True) too"
            )
        authority = own_id
    id_, outputs = _issue(
        planned,
        subject=subject,
        names=_alternative_names(planned),
        public=key.public_key(),
        issuer=subject,
        authority=authority,
        signer=key,
    )
    return id_, outputs | {"keyAlgorithm": _algorithm(key)}


def _make_locally_signed(planned: Properties) -> tuple[str, Properties]:
    signer = _load_key(planned["caPrivateKeyPem"], "caPrivateKeyPem")
    try:
        request = x509.load_pem_x509_csr(planned["certRequestPem"].encode())
    except ValueError:
        raise ValueError("certRequestPem: is not a PEM certificate request") from None
    try:
        ca = x509.load_pem_x509_certificate(planned["caCertPem"].encode())
    except ValueError:
        raise ValueError("caCertPem: is not a PEM certificate") from None
    if ca.public_key() != signer.public_key():
        raise ValueError("caPrivateKeyPem: is not the key of the certificate in caCertPem")
    public = request.public_key()
    if not isinstance(
        public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
    ):
        raise ValueError("certRequestPem: its key is neither RSA, ECDSA nor ED25519")
    # Go names the authority whenever it has a key id and is another than the subject.
    authority = None
    if ca.subject != request.subject:
        authority = _extension(ca.extensions, x509.SubjectKeyIdentifier)
    names = _extension(request.extensions, x509.SubjectAlternativeName)
    id_, outputs = _issue(
        planned,
        subject=request.subject,
        names=list(names) if names is not None else [],
        public=public,
        issuer=ca.subject,
        authority=authority.digest if authority is not None else None,
        signer=signer,
    )
    return id_, outputs | {"caKeyAlgorithm": _algorithm(signer)}


def _issue(
    planned: Properties,
    *,
    subject: x509.Name,
    names: list[x509.GeneralName],
    public: PublicKey,
    issuer: x509.Name,
    authority: bytes | None,
    signer: PrivateKey,
) -> tuple[str, Properties]:
    is_ca = bool(planned["isCaCertificate"])
    if is_ca and not list(subject):
        raise ValueError("subject: a CA certificate needs at least one name, such as common_name")
    start = _now()
    end = start + timedelta(hours=int(planned["validityPeriodHours"]))
    serial = secrets.randbits(128) or 1
    # As Go reads it, a maximum of 0 without its separate "is zero" flag is no maximum.
    longest = int(planned.get("maxPathLength") or 0)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(end)
    )
    usage = {attribute: use in planned["allowedUses"] for use, attribute in KEY_USAGES.items()}
    if any(usage.values()):
        builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
    extended = [
        EXTENDED_KEY_USAGES[use] for use in planned["allowedUses"] if use in EXTENDED_KEY_USAGES
    ]
    if extended:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=is_ca, path_length=longest if is_ca and longest > 0 else None),
        critical=True,
    )
    if _has_key_id(planned):
        identifier = x509.SubjectKeyIdentifier(_subject_key_id(public))
        builder = builder.add_extension(identifier, critical=False)
    if authority is not None:
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier(authority, None, None), critical=False
        )
    if names:
        # RFC 5280: the names are critical when they are all that identifies the subject.
        builder = builder.add_extension(
            x509.SubjectAlternativeName(names), critical=not list(subject)
        )
    pem = builder.sign(signer, _hash_for(signer)).public_bytes(Encoding.PEM).decode()
    return str(serial), {
        "certPem": pem,
        "readyForRenewal": False,
        "validityStartTime": _rfc3339(start),
        "validityEndTime": _rfc3339(end),
    }


def _has_key_id(planned: Properties) -> bool:
    return bool(planned["isCaCertificate"] or planned["setSubjectKeyId"])


def _subject_key_id(public: PublicKey) -> bytes:
    """SHA-1 of the key. For Ed25519 the provider hashes it with its OCTET STRING header."""
    if isinstance(public, ed25519.Ed25519PublicKey):
        raw = b"\x04\x20" + public.public_bytes_raw()
        return hashlib.sha1(raw, usedforsecurity=False).digest()
    return x509.SubjectKeyIdentifier.from_public_key(public).digest


def _renewal_due(outputs: Properties) -> tuple[str, ...]:
    """`readyForRenewal` turns true for the last earlyRenewalHours of a certificate's life."""
    end = outputs.get("validityEndTime")
    early = outputs.get("earlyRenewalHours") or 0
    if not isinstance(end, str) or early is UNKNOWN:
        return ()
    due = _now() >= datetime.fromisoformat(end) - timedelta(hours=int(early))
    return ("readyForRenewal",) if due else ()


def _now() -> datetime:
    """Its own function so that a test may set the clock."""
    return datetime.now(UTC)


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


# What requests and certificates share


def _given(inputs: Properties) -> Properties:
    return {name: value for name, value in inputs.items() if value is not None}


def _one_of(planned: Properties, name: str, allowed: Collection[str]) -> list[CheckFailure]:
    if planned[name] is UNKNOWN or planned[name] in allowed:
        return []
    return [CheckFailure(name, f"must be one of {', '.join(allowed)}")]


def _require_readable_key(inputs: Properties, name: str) -> list[CheckFailure]:
    if inputs.get(f"{name}Wo") is not None or inputs.get(f"{name}WoVersion") is not None:
        return [CheckFailure(f"{name}Wo", f"is not rehearsed; use {name}")]
    if inputs.get(name) is None:
        return [CheckFailure(name, "is required")]
    return []


def _validate_names(inputs: Properties) -> list[CheckFailure]:
    failures = []
    addresses = inputs.get("ipAddresses")
    for index, address in enumerate(addresses if isinstance(addresses, list) else []):
        if address is UNKNOWN:
            continue
        try:
            ip_address(address)
        except ValueError:
            failures.append(CheckFailure(f"ipAddresses[{index}]", "is not an IP address"))
    return failures


def _alternative_names(planned: Properties) -> list[x509.GeneralName]:
    return [
        *(x509.DNSName(name) for name in planned.get("dnsNames") or []),
        *(x509.IPAddress(ip_address(address)) for address in planned.get("ipAddresses") or []),
        *(x509.UniformResourceIdentifier(uri) for uri in planned.get("uris") or []),
    ]


def _subject(planned: Properties) -> x509.Name:
    given = planned.get("subject") or {}
    relative_names = []
    for name, oid in _SUBJECT.items():
        value = given.get(name)
        values = value if isinstance(value, list) else [value]
        attributes = [x509.NameAttribute(oid, item) for item in values if item]
        if attributes:
            relative_names.append(x509.RelativeDistinguishedName(attributes))
    return x509.Name(relative_names)


def _extension(extensions: x509.Extensions, kind: type[_Extension]) -> _Extension | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _load_key(pem: str, name: str) -> PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):
        # What the library says may quote the key.
        raise ValueError(f"{name}: is not a PEM private key without passphrase") from None
    if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        return key
    raise ValueError(f"{name}: is neither an RSA, an ECDSA nor an ED25519 key")


def _algorithm(key: PrivateKey) -> str:
    if isinstance(key, rsa.RSAPrivateKey):
        return "RSA"
    return "ECDSA" if isinstance(key, ec.EllipticCurvePrivateKey) else "ED25519"


def _hash_for(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None:
    """Go's choice for a signing key."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size > 256:
        return hashes.SHA384() if key.key_size == 384 else hashes.SHA512()
    return hashes.SHA256()


_CERTIFICATE_OUTPUTS: Final = ("certPem", "readyForRenewal", "validityEndTime", "validityStartTime")

_KINDS: Final = {
    "tls:index/privateKey:PrivateKey": Kind(
        make=_make_key,
        computed=(
            "privateKeyOpenssh",
            "privateKeyPem",
            "privateKeyPemPkcs8",
            "publicKeyFingerprintMd5",
            "publicKeyFingerprintSha256",
            "publicKeyOpenssh",
            "publicKeyPem",
        ),
        plan=_plan_key,
        validate=_validate_key,
    ),
    "tls:index/certRequest:CertRequest": Kind(
        make=_make_request,
        computed=("certRequestPem", "keyAlgorithm"),
        validate=_validate_request,
    ),
    "tls:index/selfSignedCert:SelfSignedCert": Kind(
        make=_make_self_signed,
        computed=(*_CERTIFICATE_OUTPUTS, "keyAlgorithm"),
        plan=_plan_self_signed,
        validate=_validate_self_signed,
        in_place=frozenset({"earlyRenewalHours"}),
        due=_renewal_due,
    ),
    "tls:index/locallySignedCert:LocallySignedCert": Kind(
        make=_make_locally_signed,
        computed=(*_CERTIFICATE_OUTPUTS, "caKeyAlgorithm"),
        plan=_plan_certificate,
        validate=_validate_locally_signed,
        in_place=frozenset({"earlyRenewalHours"}),
        due=_renewal_due,
    ),
}
