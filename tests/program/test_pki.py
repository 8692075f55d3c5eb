from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
import yaml

from honeydue.k3s.kubeconfig import kubeconfig
from honeydue.k3s.pki import AUTHORITIES, join_token

from .production import production, variant

# A real self-signed certificate; its sha256 was taken with `sha256sum`, apart from this program.
SHA256 = "fd289b9c908a439b0bb926d412dc3f794c984b0059555abc4edf42289d31c828"
CERTIFICATE = (Path(__file__).parent / "golden" / "server-ca.crt").read_text()


def test_the_token_holds_the_sha256_of_the_certificate_files_literal_bytes() -> None:
    token = join_token(CERTIFICATE, "secret")
    assert token == f"K10{SHA256}::server:secret"


def test_a_lost_newline_would_be_another_token() -> None:
    assert join_token(CERTIFICATE.rstrip("\n"), "secret") != join_token(CERTIFICATE, "secret")


def test_the_token_on_every_node_fits_the_ca_on_that_node() -> None:
    for server in production().all("Server"):
        document = yaml.safe_load(server.inputs["userData"])
        files = {f["path"]: f for f in document["write_files"]}
        ca = base64.b64decode(files["/var/lib/rancher/k3s/server/tls/server-ca.crt"]["content"])
        config = yaml.safe_load(files["/etc/rancher/k3s/config.yaml"]["content"])
        assert config["token"].startswith(f"K10{hashlib.sha256(ca).hexdigest()}::server:")


def test_every_authority_is_a_p256_ca_of_ten_years_that_is_never_renewed_early() -> None:
    found = production().all("SelfSignedCert")
    assert {c.name for c in found} == {f"honeydue-{a.replace('/', '-')}" for a in AUTHORITIES}
    for c in found:
        assert c.inputs["isCaCertificate"] is True
        assert c.inputs["validityPeriodHours"] == 87600
        assert c.inputs.get("earlyRenewalHours", 0) == 0
        assert "cert_signing" in c.inputs["allowedUses"]
    for key in production().all("PrivateKey"):
        if key.name.endswith("-ca-key"):
            assert (key.inputs["algorithm"], key.inputs["ecdsaCurve"]) == ("ECDSA", "P256")


def test_the_service_account_key_is_the_rsa_key_that_k3s_documents() -> None:
    key = production().named("honeydue-service-key")
    assert (key.inputs["algorithm"], key.inputs["rsaBits"]) == ("RSA", 2048)


def test_the_admin_is_a_client_of_system_masters_signed_by_the_client_ca() -> None:
    certificate = production().named("honeydue-admin")
    assert "client_auth" in certificate.inputs["allowedUses"]
    assert certificate.inputs["caCertPem"] == "certificate honeydue-client-ca\n"
    request = production().named("honeydue-admin-request")
    assert request.inputs["subject"] == {
        "commonName": "system:admin",
        "organization": "system:masters",
    }


def test_what_a_backup_needs_is_protected_and_can_be_unlocked() -> None:
    def pki(protect: bool) -> list[bool | None]:
        recording = production() if protect else variant(protect=False)
        return [
            r.protect
            for r in recording
            if r.type.startswith(("tls:", "random:")) and "origin" not in r.name
        ]

    assert set(pki(True)) == {True}
    assert not any(pki(False))


def test_passwords_have_letters_and_digits_only() -> None:
    found = production().all("RandomPassword")
    assert {p.name for p in found} == {
        "honeydue-token-password",
        *(f"honeydue-{i}-password" for i in (1, 2, 3)),
    }
    assert all(p.inputs["special"] is False and p.inputs["length"] >= 32 for p in found)


# --- kubeconfig ---


def opened() -> dict[str, str]:
    document = yaml.safe_load(production().exports["kubeconfig"])
    clusters = {c["name"]: c["cluster"]["server"] for c in document["clusters"]}
    return {c["name"]: clusters[c["context"]["cluster"]] for c in document["contexts"]}


def test_the_kubeconfig_has_a_context_for_every_node() -> None:
    assert opened() == {f"honeydue-{i}": f"https://203.0.113.{i}:6443" for i in (1, 2, 3)}


def test_the_kubeconfig_trusts_the_server_ca_and_holds_the_admin_certificate() -> None:
    document = yaml.safe_load(production().exports["kubeconfig"])

    def plain(text: str) -> str:
        return base64.b64decode(text).decode()

    for c in document["clusters"]:
        trusted = plain(c["cluster"]["certificate-authority-data"])
        assert trusted == "certificate honeydue-server-ca\n"
    (user,) = document["users"]
    assert plain(user["user"]["client-certificate-data"]) == "certificate honeydue-admin\n"
    assert plain(user["user"]["client-key-data"]) == "canary-private-key honeydue-admin-key\n"


@pytest.mark.parametrize(("api_node", "current"), [(None, "honeydue-1"), ("honeydue-3",) * 2])
def test_the_current_context_is_the_configured_node_or_the_first(
    api_node: str | None, current: str
) -> None:
    document = yaml.safe_load(variant(api_node=api_node).exports["kubeconfig"])
    assert document["current-context"] == current


def test_the_kubeconfig_needs_no_server_and_no_gate() -> None:
    # What it is computed from: were it to wait for a server, it would be unknown in previews.
    text = kubeconfig(
        servers={"a": "192.0.2.1"}, current="a", server_ca="c", admin_certificate="d", admin_key="e"
    )
    assert yaml.safe_load(text)["current-context"] == "a"


def test_a_kubeconfig_that_opens_no_known_node_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no node 'b'"):
        kubeconfig(servers={}, current="b", server_ca="", admin_certificate="", admin_key="")
