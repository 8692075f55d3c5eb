"""The tls provider: keys and certificates are real, and chains verify."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from rehearsal.engine.provider import UNKNOWN, CheckFailure, Context, ProviderError
from rehearsal.providers import tls
from rehearsal.providers.tls import TlsProvider

KEY = "tls:index/privateKey:PrivateKey"
REQUEST = "tls:index/certRequest:CertRequest"
SELF_SIGNED = "tls:index/selfSignedCert:SelfSignedCert"
SIGNED = "tls:index/locallySignedCert:LocallySignedCert"
CTX = Context(urn="urn:pulumi:t::p::t::x")
PREVIEW = Context(urn="urn:pulumi:t::p::t::x", dry_run=True)
CA_USES = ["cert_signing", "crl_signing", "digital_signature"]


@pytest.fixture
def provider() -> TlsProvider:
    return TlsProvider({})


def make(provider: TlsProvider, type_: str, inputs: dict[str, Any]) -> dict[str, Any]:
    assert provider.check(type_, None, inputs)[1] == []
    return provider.create(type_, inputs, CTX)[1]


def new_key(provider: TlsProvider, **inputs: Any) -> dict[str, Any]:
    return make(provider, KEY, {"algorithm": "ECDSA", "ecdsaCurve": "P256"} | inputs)


def new_ca(provider: TlsProvider, key: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    return make(
        provider,
        SELF_SIGNED,
        {
            "privateKeyPem": key["privateKeyPem"],
            "subject": {"commonName": "k3s-server-ca"},
            "validityPeriodHours": 87600,
            "allowedUses": CA_USES,
            "isCaCertificate": True,
        }
        | inputs,
    )


def certificate(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


@pytest.mark.parametrize(
    ("inputs", "heading", "kind"),
    [
        ({"algorithm": "RSA"}, "RSA PRIVATE KEY", rsa.RSAPrivateKey),
        (
            {"algorithm": "ECDSA", "ecdsaCurve": "P384"},
            "EC PRIVATE KEY",
            ec.EllipticCurvePrivateKey,
        ),
        ({"algorithm": "ED25519"}, "PRIVATE KEY", ed25519.Ed25519PrivateKey),
    ],
)
def test_every_form_of_a_key_is_the_same_key(
    provider: TlsProvider, inputs: dict[str, Any], heading: str, kind: type
) -> None:
    outputs = make(provider, KEY, inputs)
    assert outputs["privateKeyPem"].startswith(f"-----BEGIN {heading}-----\n")
    assert outputs["privateKeyPemPkcs8"].startswith("-----BEGIN PRIVATE KEY-----\n")
    assert outputs["privateKeyOpenssh"].startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    keys = [
        serialization.load_pem_private_key(outputs["privateKeyPem"].encode(), None),
        serialization.load_pem_private_key(outputs["privateKeyPemPkcs8"].encode(), None),
        serialization.load_ssh_private_key(outputs["privateKeyOpenssh"].encode(), None),
    ]
    for key in keys:
        assert isinstance(key, kind)
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        assert public.decode() == outputs["publicKeyPem"]
    wire = base64.b64decode(outputs["publicKeyOpenssh"].split()[1])
    assert outputs["publicKeyOpenssh"].endswith("\n")
    assert outputs["publicKeyFingerprintMd5"].replace(":", "") == hashlib.md5(wire).hexdigest()
    sha256 = base64.b64encode(hashlib.sha256(wire).digest()).decode().rstrip("=")
    assert outputs["publicKeyFingerprintSha256"] == f"SHA256:{sha256}"


def test_the_defaults_and_the_id_of_a_key_are_the_vendors(provider: TlsProvider) -> None:
    id_, outputs = provider.create(KEY, {"algorithm": "ECDSA"}, CTX)
    assert (outputs["rsaBits"], outputs["ecdsaCurve"]) == (2048, "P224")
    assert outputs["publicKeyOpenssh"] == outputs["publicKeyFingerprintMd5"] == ""
    der = base64.b64decode("".join(outputs["publicKeyPem"].splitlines()[1:-1]))
    assert id_ == hashlib.sha1(der).hexdigest()


def test_openssh_itself_agrees_on_the_fingerprint(provider: TlsProvider, tmp_path: Path) -> None:
    outputs = make(provider, KEY, {"algorithm": "ED25519"})
    (tmp_path / "key.pub").write_text(outputs["publicKeyOpenssh"])
    try:
        seen = subprocess.run(
            ["ssh-keygen", "-lf", tmp_path / "key.pub"], check=True, capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("this machine has no ssh-keygen")
    assert outputs["publicKeyFingerprintSha256"] in seen.stdout


def test_a_self_signed_ca_has_the_extensions_go_gives_it(provider: TlsProvider) -> None:
    key = new_key(provider)
    outputs = new_ca(provider, key, maxPathLength=1, setAuthorityKeyId=True)
    ca = certificate(outputs["certPem"])
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (
        True,
        True,
        1,
    )
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.key_encipherment
    own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    authority = ca.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority.key_identifier == own
    assert ca.not_valid_after_utc - ca.not_valid_before_utc == timedelta(hours=87600)
    assert ca.signature_algorithm_oid == x509.SignatureAlgorithmOID.ECDSA_WITH_SHA256
    assert outputs["keyAlgorithm"] == "ECDSA"
    assert outputs["readyForRenewal"] is False
    end = datetime.fromisoformat(outputs["validityEndTime"])
    assert end.replace(microsecond=0) == ca.not_valid_after_utc
    ca.verify_directly_issued_by(ca)


@pytest.mark.parametrize(
    "algorithm",
    [{"algorithm": "RSA"}, {"algorithm": "ECDSA", "ecdsaCurve": "P384"}, {"algorithm": "ED25519"}],
)
def test_a_chain_of_request_and_signature_verifies(
    provider: TlsProvider, algorithm: dict[str, Any]
) -> None:
    ca_key, key = make(provider, KEY, algorithm), new_key(provider)
    ca = new_ca(provider, ca_key)
    request = make(
        provider,
        REQUEST,
        {
            "privateKeyPem": key["privateKeyPem"],
            "subject": {"commonName": "kube-apiserver"},
            "dnsNames": ["api.internal"],
            "ipAddresses": ["127.10.0.1", "fd00::1"],
            "uris": ["spiffe://honeydue/api"],
        },
    )
    inputs = {
        "certRequestPem": request["certRequestPem"],
        "caCertPem": ca["certPem"],
        "caPrivateKeyPem": ca_key["privateKeyPem"],
        "validityPeriodHours": 24,
        "allowedUses": ["digital_signature", "server_auth"],
    }
    id_, outputs = provider.create(SIGNED, inputs, CTX)
    leaf, root = certificate(outputs["certPem"]), certificate(ca["certPem"])
    leaf.verify_directly_issued_by(root)
    assert id_ == str(leaf.serial_number)
    assert outputs["caKeyAlgorithm"] == algorithm["algorithm"]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["api.internal"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.10.0.1", "fd00::1"]
    root_id = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    authority = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority.key_identifier == root_id
    uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [ExtendedKeyUsageOID.SERVER_AUTH]
    if algorithm["algorithm"] != "ED25519":  # the verifier follows the web's rules, which lack it
        verifier = (
            PolicyBuilder().store(Store([root])).build_server_verifier(x509.DNSName("api.internal"))
        )
        assert verifier.verify(leaf, []) == [leaf, root]
        other = certificate(new_ca(provider, new_key(provider))["certPem"])
        stranger = (
            PolicyBuilder()
            .store(Store([other]))
            .build_server_verifier(x509.DNSName("api.internal"))
        )
        with pytest.raises(VerificationError):
            stranger.verify(leaf, [])


def test_the_subject_has_all_its_names(provider: TlsProvider) -> None:
    subject: dict[str, Any] = {
        "commonName": "admin",
        "organization": "system:masters",
        "country": "AT",
    }
    subject |= {"organizationalUnit": "ops", "streetAddresses": ["1 Road", "Back yard"]}
    key = new_key(provider)
    request = make(provider, REQUEST, {"privateKeyPem": key["privateKeyPem"], "subject": subject})
    name = x509.load_pem_x509_csr(request["certRequestPem"].encode()).subject
    assert name.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "system:masters"
    assert name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "admin"
    assert len(name.get_attributes_for_oid(NameOID.STREET_ADDRESS)) == 2


def test_a_p384_authority_signs_with_sha384(provider: TlsProvider) -> None:
    ca = certificate(new_ca(provider, new_key(provider, ecdsaCurve="P384"))["certPem"])
    assert isinstance(ca.signature_hash_algorithm, hashes.SHA384)


def test_a_preview_makes_no_key(provider: TlsProvider) -> None:
    id_, outputs = provider.create(KEY, {"algorithm": "RSA"}, PREVIEW)
    assert id_ == ""
    assert outputs["privateKeyPem"] is outputs["publicKeyOpenssh"] is UNKNOWN
    inputs = {"privateKeyPem": UNKNOWN, "validityPeriodHours": 1, "allowedUses": []}
    assert provider.check(SELF_SIGNED, None, inputs)[1] == []
    assert provider.create(SELF_SIGNED, inputs, PREVIEW)[1]["certPem"] is UNKNOWN


def test_all_changes_replace_but_the_time_of_renewal(provider: TlsProvider) -> None:
    key = new_key(provider)
    old = {
        "privateKeyPem": key["privateKeyPem"],
        "validityPeriodHours": 100,
        "allowedUses": ["server_auth"],
        "dnsNames": ["a"],
    }
    outputs = make(provider, SELF_SIGNED, old)

    def diff(**change: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        found = provider.diff(SELF_SIGNED, "1", old, outputs, old | change)
        return found.changed, found.replaces

    assert diff() == ((), ())
    assert diff(isCaCertificate=False) == ((), ())
    assert diff(dnsNames=["a", "b"]) == (("dnsNames[1]",), ("dnsNames[1]",))
    assert diff(privateKeyPem=UNKNOWN) == (("privateKeyPem",), ("privateKeyPem",))
    assert diff(earlyRenewalHours=10) == (("earlyRenewalHours",), ())
    updated = provider.update(SELF_SIGNED, "1", old, outputs, old | {"earlyRenewalHours": 10}, CTX)
    assert updated == outputs | {"earlyRenewalHours": 10}


def test_a_certificate_is_replaced_when_its_renewal_is_due(
    provider: TlsProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {
        "privateKeyPem": new_key(provider)["privateKeyPem"],
        "validityPeriodHours": 100,
        "earlyRenewalHours": 10,
        "allowedUses": [],
    }
    outputs = make(provider, SELF_SIGNED, inputs)
    start = datetime.now(UTC)

    monkeypatch.setattr(tls, "_now", lambda: start + timedelta(hours=89))
    assert provider.diff(SELF_SIGNED, "1", inputs, outputs, inputs).changed == ()
    sooner = provider.diff(SELF_SIGNED, "1", inputs, outputs, inputs | {"earlyRenewalHours": 12})
    assert "readyForRenewal" in sooner.replaces

    monkeypatch.setattr(tls, "_now", lambda: start + timedelta(hours=91))
    diff = provider.diff(SELF_SIGNED, "1", inputs, outputs, inputs)
    assert diff.changed == diff.replaces == ("readyForRenewal",)
    refreshed = provider.read(SELF_SIGNED, "1", inputs, outputs, CTX)
    assert refreshed is not None
    assert refreshed[1]["readyForRenewal"] is True
    # What the refresh wrote down does not hide that the renewal is still due.
    assert provider.diff(SELF_SIGNED, "1", inputs, refreshed[1], inputs).replaces


@pytest.mark.parametrize(
    ("type_", "inputs", "failure"),
    [
        (
            KEY,
            {"algorithm": "DSA"},
            CheckFailure("algorithm", "must be one of RSA, ECDSA, ED25519"),
        ),
        (REQUEST, {}, CheckFailure("privateKeyPem", "is required")),
        (
            REQUEST,
            {"privateKeyPem": "x", "ipAddresses": ["300.1.1.1"]},
            CheckFailure("ipAddresses[0]", "is not an IP address"),
        ),
        (
            REQUEST,
            {"privateKeyPem": "x", "privateKeyPemWo": "x"},
            CheckFailure("privateKeyPemWo", "is not rehearsed; use privateKeyPem"),
        ),
        (
            REQUEST,
            {"privateKeyPem": "x", "subject": {"commonname": "x"}},
            CheckFailure("subject.commonname", "unknown property; did you mean 'commonName'?"),
        ),
    ],
)
def test_wrong_inputs_are_refused_by_name(
    provider: TlsProvider, type_: str, inputs: dict[str, Any], failure: CheckFailure
) -> None:
    assert provider.check(type_, None, inputs)[1] == [failure]


def test_an_error_never_quotes_a_key(provider: TlsProvider) -> None:
    inputs = {"privateKeyPem": "-----BEGIN PRIVATE KEY-----\nc2VzYW1l\n-----END PRIVATE KEY-----"}
    with pytest.raises(ProviderError) as caught:
        provider.create(REQUEST, inputs, CTX)
    assert str(caught.value) == (
        "CertRequest: privateKeyPem: is not a PEM private key without passphrase"
    )


def test_a_key_that_is_not_the_authoritys_is_refused(provider: TlsProvider) -> None:
    ca_key, other = new_key(provider), new_key(provider)
    request = make(provider, REQUEST, {"privateKeyPem": other["privateKeyPem"]})
    inputs = {
        "certRequestPem": request["certRequestPem"],
        "caCertPem": new_ca(provider, ca_key)["certPem"],
        "caPrivateKeyPem": other["privateKeyPem"],
        "validityPeriodHours": 1,
        "allowedUses": [],
    }
    with pytest.raises(ProviderError, match="is not the key of the certificate in caCertPem"):
        provider.create(SIGNED, inputs, CTX)


def test_a_ca_needs_a_subject_and_an_authority_key_id_needs_a_key_id(
    provider: TlsProvider,
) -> None:
    key = new_key(provider)
    with pytest.raises(ProviderError, match="needs at least one name"):
        new_ca(provider, key, subject={})
    with pytest.raises(ProviderError, match="set_subject_key_id=True"):
        new_ca(provider, key, isCaCertificate=False, setAuthorityKeyId=True)
