"""The cluster's own PKI, made before any node boots.

Because the program is the CA, it knows the kubeconfig, the join token (with its CA hash) and every
node's password beforehand: no login to a node, no trust on first use, and a rebuilt cluster answers
to the same kubeconfig. Everything here is needed to read an etcd snapshot again (the token encrypts
it), so it is protected like the data.

Certificates last ten years and are never renewed early: a renewal would be shown as an unknown
certificate in a preview, the kubeconfig with it, and then every Kubernetes resource. K3s rotates
its own leaf certificates by itself, each time it starts within 120 days of their end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pulumi
import pulumi_random as random
import pulumi_tls as tls

TEN_YEARS: Final = 10 * 365 * 24  # hours

# Paths below /var/lib/rancher/k3s/server/tls, without suffix (docs.k3s.io/cli/certificate).
AUTHORITIES: Final = (
    "server-ca",
    "client-ca",
    "request-header-ca",
    "etcd/peer-ca",
    "etcd/server-ca",
)


def join_token(server_ca: str, password: str) -> str:
    """K3s's secure token, `K10<hash>::server:<password>`.

    With one self-signed certificate the hash is the sha256 of the file's literal bytes, its last
    newline included; only a chain is hashed by its root's DER (K3s, pkg/clientaccess/token.go). The
    founder takes this form too: K3s keeps only the part behind `::server:` (pkg/passwd/passwd.go).
    """
    digest = hashlib.sha256(server_ca.encode()).hexdigest()
    return f"K10{digest}::server:{password}"


@dataclass(frozen=True, kw_only=True)
class PkiArgs:
    nodes: Sequence[str]
    protect: bool


class Pki(pulumi.ComponentResource):
    files: Mapping[str, pulumi.Output[str]]
    """Path below K3s's `server/tls` (`server-ca.crt`, `etcd/peer-ca.key`, `service.key`) → PEM."""
    server_ca: pulumi.Output[str]
    admin_certificate: pulumi.Output[str]
    admin_key: pulumi.Output[str]
    password: pulumi.Output[str]
    """The password in the token, by itself: what K3s's supervisor API takes."""
    token: pulumi.Output[str]
    node_passwords: Mapping[str, pulumi.Output[str]]

    def __init__(
        self, name: str, args: PkiArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:k3s:Pki", name, None, opts)
        self._name = name
        # Lost keys are a lost cluster and unreadable snapshots.
        self._child = pulumi.ResourceOptions(parent=self, protect=args.protect)
        files: dict[str, pulumi.Output[str]] = {}
        for authority in AUTHORITIES:
            files[f"{authority}.key"], files[f"{authority}.crt"] = self._authority(authority)
        # K3s takes PKCS#1 here ("openssl genrsa -traditional" in its own example script).
        service = tls.PrivateKey(
            f"{name}-service-key", algorithm="RSA", rsa_bits=2048, opts=self._child
        )
        files["service.key"] = pulumi.Output.secret(service.private_key_pem)
        self.files = files
        self.server_ca = files["server-ca.crt"]
        self.admin_key, self.admin_certificate = self._admin(
            files["client-ca.key"], files["client-ca.crt"]
        )
        self.password = self._random(f"{name}-token-password", length=48)
        self.token = pulumi.Output.all(self.server_ca, self.password).apply(
            lambda parts: join_token(parts[0], parts[1])
        )
        self.node_passwords = {
            node: self._random(f"{node}-password", length=32) for node in args.nodes
        }
        self.register_outputs({"serverCa": self.server_ca})

    def _authority(self, path: str) -> tuple[pulumi.Output[str], pulumi.Output[str]]:
        """Key and self-signed certificate of one CA, PEM."""
        name = f"{self._name}-{path.replace('/', '-')}"
        key = tls.PrivateKey(f"{name}-key", algorithm="ECDSA", ecdsa_curve="P256", opts=self._child)
        certificate = tls.SelfSignedCert(
            name,
            private_key_pem=key.private_key_pem,
            is_ca_certificate=True,
            set_subject_key_id=True,
            subject=tls.SelfSignedCertSubjectArgs(common_name=f"k3s-{path.replace('/', '-')}"),
            allowed_uses=["digital_signature", "key_encipherment", "cert_signing"],
            validity_period_hours=TEN_YEARS,
            early_renewal_hours=0,
            opts=self._child,
        )
        return pulumi.Output.secret(key.private_key_pem), certificate.cert_pem

    def _admin(
        self, ca_key: pulumi.Output[str], ca: pulumi.Output[str]
    ) -> tuple[pulumi.Output[str], pulumi.Output[str]]:
        """Key and client certificate of the operator: `system:masters`, as K3s's own admin."""
        key = tls.PrivateKey(
            f"{self._name}-admin-key", algorithm="ECDSA", ecdsa_curve="P256", opts=self._child
        )
        request = tls.CertRequest(
            f"{self._name}-admin-request",
            private_key_pem=key.private_key_pem,
            subject=tls.CertRequestSubjectArgs(
                common_name="system:admin", organization="system:masters"
            ),
            opts=self._child,
        )
        certificate = tls.LocallySignedCert(
            f"{self._name}-admin",
            cert_request_pem=request.cert_request_pem,
            ca_private_key_pem=ca_key,
            ca_cert_pem=ca,
            allowed_uses=["digital_signature", "key_encipherment", "client_auth"],
            validity_period_hours=TEN_YEARS,
            early_renewal_hours=0,
            opts=self._child,
        )
        return pulumi.Output.secret(key.private_key_pem), certificate.cert_pem

    def _random(self, name: str, *, length: int) -> pulumi.Output[str]:
        """Letters and digits only: it stands in a token, in YAML and in a curl configuration."""
        password = random.RandomPassword(name, length=length, special=False, opts=self._child)
        return pulumi.Output.secret(password.result)
