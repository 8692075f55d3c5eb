"""A small production for tests of the cluster: PKI, token and user_data as common practice has them
(own CAs, `cluster-init` on the founder only, no `server:` anywhere, files encoded)."""

from __future__ import annotations

import base64
import gzip
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from rehearsal.clouds.machines import Machine

TLS = "/var/lib/rancher/k3s/server/tls"
AUDIT_POLICY = "/var/lib/rancher/k3s/server/audit.yaml"
ADMISSION = "/var/lib/rancher/k3s/server/psa.yaml"

SYSCTLS = """\
vm.panic_on_oom=0
vm.overcommit_memory=1
kernel.panic=10
kernel.panic_on_oops=1
kernel.keys.root_maxkeys=1000000
kernel.keys.root_maxbytes=25000000
"""


def authority(name: str) -> tuple[str, str]:
    """(certificate, key) of a self-signed CA, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    ca = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return ca.public_bytes(Encoding.PEM).decode(), pem(key)


def pem(key: Any) -> str:
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


@dataclass
class Production:
    """The secrets that all nodes of one cluster share."""

    password: str = "a-very-long-password"
    block: int = 99
    addresses: dict[int, str] = field(default_factory=dict)
    """Public addresses by node number, where a test got them from the stand-in."""
    pki: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (
            "server-ca",
            "client-ca",
            "request-header-ca",
            "etcd/peer-ca",
            "etcd/server-ca",
        ):
            crt, key = authority(f"k3s-{name.replace('/', '-')}")
            self.pki |= {f"{name}.crt": crt, f"{name}.key": key}
        self.pki["service.key"] = pem(rsa.generate_private_key(65537, 2048))

    @property
    def token(self) -> str:
        digest = hashlib.sha256(self.pki["server-ca.crt"].encode()).hexdigest()
        return f"K10{digest}::server:{self.password}"

    def public(self, number: int) -> str:
        return self.addresses.get(number, f"127.{self.block}.1.{number}")

    def config(self, number: int, **changed: Any) -> dict[str, Any]:
        private = f"10.10.1.{10 + number}"
        config: dict[str, Any] = {
            "node-name": f"honeydue-{number}",
            "token": self.token,
            "node-ip": private,
            "advertise-address": private,
            "node-external-ip": self.public(number),
            "tls-san": [
                *(address for n in (1, 2, 3) for address in (f"10.10.1.{10 + n}", self.public(n))),
            ],
            "cluster-cidr": "10.42.0.0/16",
            "service-cidr": "10.43.0.0/16",
            "secrets-encryption": True,
            "protect-kernel-defaults": True,
            "kubelet-arg": ["kube-reserved=cpu=750m,memory=2048Mi", "system-reserved=cpu=250m"],
            "disable": ["servicelb"],
            "kube-apiserver-arg": [
                f"audit-policy-file={AUDIT_POLICY}",
                "audit-log-path=/var/lib/rancher/k3s/server/logs/audit.log",
                "audit-log-maxage=30",
                f"admission-control-config-file={ADMISSION}",
            ],
        }
        if number == 1:
            config["cluster-init"] = True
        config |= {key.replace("_", "-"): value for key, value in changed.items()}
        return {key: value for key, value in config.items() if value is not None}

    def cloud_config(self, number: int, **changed: Any) -> dict[str, Any]:
        def packed(text: str) -> str:
            return base64.b64encode(gzip.compress(text.encode())).decode()

        files = [
            {
                "path": "/etc/rancher/k3s/config.yaml",
                "permissions": "0600",
                "content": yaml.safe_dump(self.config(number, **changed)),
            },
            {
                "path": "/etc/rancher/node/password",
                "permissions": "0600",
                "content": hashlib.sha256(f"{self.password} {number}".encode()).hexdigest()[:32],
            },
            {"path": "/etc/sysctl.d/90-kubelet.conf", "content": SYSCTLS},
            {"path": AUDIT_POLICY, "content": yaml.safe_dump(_AUDIT)},
            {"path": ADMISSION, "content": yaml.safe_dump(_ADMISSION)},
        ]
        files += [
            {
                "path": f"{TLS}/{name}",
                "permissions": "0600",
                "owner": "root:root",
                "encoding": "gz+b64",
                "content": packed(text),
            }
            for name, text in self.pki.items()
        ]
        start = "curl -fsSLo k3s https://example.test/v1.34.6%2Bk3s1/k3s && systemctl start k3s"
        return {"write_files": files, "runcmd": [start]}

    def user_data(self, number: int, **changed: Any) -> str:
        return "#cloud-config\n" + yaml.safe_dump(self.cloud_config(number, **changed))

    def machine(self, number: int, *, server_id: int | None = None, **changed: Any) -> Machine:
        """As the stand-in hands it over once it is attached to its network."""
        return Machine(
            id=server_id or 100 + number,
            name=f"honeydue-{number}",
            user_data=self.user_data(number, **changed),
            public_ipv4=self.public(number),
            public_ipv6=None,
            private_ipv4=f"10.10.1.{10 + number}",
            network_id=7,
            cores=4,
            memory_gb=8.0,
            disk_gb=80,
            location="nbg1",
            labels={},
        )


_AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "rules": [{"level": "Metadata"}],
}
_ADMISSION = {
    "apiVersion": "apiserver.config.k8s.io/v1",
    "kind": "AdmissionConfiguration",
    "plugins": [
        {
            "name": "PodSecurity",
            "configuration": {
                "apiVersion": "pod-security.admission.config.k8s.io/v1",
                "kind": "PodSecurityConfiguration",
                "defaults": {"enforce": "baseline", "enforce-version": "latest"},
                "exemptions": {"namespaces": ["kube-system"]},
            },
        }
    ],
}
