"""A node's user_data: everything that turns Hetzner's Ubuntu image into a K3s manager, without ssh.

A pure function from `NodeBoot` to text; no pulumi here. The steps that need a shell are one script,
`node.sh`, which is the same on every node and is tested by itself.

The text holds the cluster's keys: it is a secret in Pulumi, and `node.sh metadata` keeps pods from
reading it back from Hetzner's metadata service.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Final

import yaml

from honeydue.versions import K3S_SHA256_AMD64, K3S_VERSION

LIMIT: Final = 32 * 1024
"""Bytes of user_data that Hetzner takes."""

TLS: Final = "/var/lib/rancher/k3s/server/tls"
SCRIPT: Final = "/usr/local/lib/honeydue/node.sh"
NETWORK_SECONDS: Final = 600  # Hetzner attaches the private NIC after the start, usually in seconds
FOUNDING_TRIES: Final = 12  # five seconds each
MEMBER_SECONDS: Final = 180  # etcd drops a member in seconds once a Node is gone

# The release's address needs its "+" escaped.
RELEASE: Final = (
    f"https://github.com/k3s-io/k3s/releases/download/{K3S_VERSION.replace('+', '%2B')}"
)


@dataclass(frozen=True, kw_only=True)
class S3:
    """Where etcd snapshots go; `endpoint` is a host without scheme."""

    endpoint: str
    bucket: str
    folder: str
    region: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    schedule: str
    retention: int  # per node, on its disk and in the bucket


@dataclass(frozen=True, kw_only=True)
class Registry:
    server: str
    username: str
    token: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class NodeBoot:
    """What one node must know. Addresses without prefix length; `tls_files` is PEM by path below
    K3s's `server/tls`; `peers` are the other managers' private addresses, all of them."""

    name: str
    founder: bool
    private_ip: IPv4Address
    public_ipv4: str
    peers: tuple[IPv4Address, ...]
    tls_sans: tuple[str, ...]
    pod_cidr: IPv4Network
    service_cidr: IPv4Network
    tls_files: Mapping[str, str] = field(repr=False)
    token: str = field(repr=False)
    supervisor_password: str = field(repr=False)
    node_password: str = field(repr=False)
    registry: Registry
    snapshots: S3 | None


class UserDataTooLargeError(ValueError):
    """More than Hetzner takes; the message says how much and what to do."""


def render(node: NodeBoot) -> str:
    """The `#cloud-config`. Raises UserDataTooLargeError above 32 KiB."""
    document = {
        # Ubuntu's default would replace root's key by a note to log in as `ubuntu`.
        "disable_root": False,
        "ssh_pwauth": False,
        # All but the last come with today's image; node.sh cannot do without them.
        "packages": ["curl", "iptables", "openssl", "unattended-upgrades"],
        "write_files": [_entry(file) for file in files(node)],
        "runcmd": [
            ["sysctl", "--system"],
            ["systemctl", "try-restart", "ssh"],
            ["systemctl", "daemon-reload"],
            # K3s says that it is ready only when it is: cloud-init need not wait for that.
            ["systemctl", "enable", "--now", "--no-block", "k3s.service"],
        ],
    }
    text = "#cloud-config\n" + _yaml(document)
    size = len(text.encode())
    if size > LIMIT:
        raise UserDataTooLargeError(
            f"{node.name}'s user_data has {size} bytes, Hetzner takes {LIMIT}: shorten what "
            "honeydue/k3s/cloud_init.py writes, or fetch the longest file at boot"
        )
    return text


# --- files -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class File:
    path: str
    content: str
    mode: str = "0644"
    exact: bool = False
    """Sent as base64: every byte counts (the token holds the hash of a file)."""


def files(node: NodeBoot) -> list[File]:
    """Every file that cloud-init writes, owned by root."""
    return [
        File(path=SCRIPT, content=_script(), mode="0755"),
        File(path="/etc/honeydue/node.env", content=node_env(node)),
        File(
            path="/etc/honeydue/supervisor.curl",
            content=f'user = "server:{node.supervisor_password}"\n',
            mode="0600",
        ),
        File(
            path="/etc/rancher/k3s/config.yaml",
            content=_yaml(k3s_config(node)),
            mode="0600",
        ),
        File(
            path="/etc/rancher/k3s/registries.yaml",
            content=_yaml(registries(node.registry)),
            mode="0600",
        ),
        File(path="/etc/rancher/k3s/admission.yaml", content=_yaml(ADMISSION), mode="0600"),
        File(path="/etc/rancher/k3s/audit-policy.yaml", content=_yaml(AUDIT_POLICY), mode="0600"),
        # Equal for a name for ever: K3s keeps a hash of it, and refuses a replaced node without.
        File(path="/etc/rancher/node/password", content=node.node_password, mode="0600"),
        *(
            File(path=f"{TLS}/{path}", content=pem, mode="0600", exact=True)
            for path, pem in sorted(node.tls_files.items())
        ),
        File(path="/etc/sysctl.d/90-kubelet.conf", content=SYSCTLS),
        File(path="/etc/ssh/sshd_config.d/10-honeydue.conf", content=SSHD),
        File(path="/etc/apt/apt.conf.d/52-honeydue", content=UPGRADES),
        File(path="/etc/systemd/system/k3s.service", content=K3S_UNIT),
    ]


def node_env(node: NodeBoot) -> str:
    """`node.sh`'s settings, as shell assignments. No secret."""
    values = {
        "NODE_NAME": node.name,
        "FOUNDER": "true" if node.founder else "false",
        "PRIVATE_IP": str(node.private_ip),
        "PEERS": " ".join(str(peer) for peer in node.peers),
        "K3S_VERSION": K3S_VERSION,
        "K3S_SHA256": K3S_SHA256_AMD64 or "",
        "K3S_URL": RELEASE,
        "NETWORK_SECONDS": str(NETWORK_SECONDS),
        "FOUNDING_TRIES": str(FOUNDING_TRIES),
        "MEMBER_SECONDS": str(MEMBER_SECONDS),
    }
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items())


def k3s_config(node: NodeBoot) -> dict[str, Any]:
    """/etc/rancher/k3s/config.yaml. What must be equal on all servers does not depend on the node.

    `flannel-iface` and, when a peer answers, `server` come from `node.sh` as drop-ins beside it.
    """
    config: dict[str, Any] = {
        "node-name": node.name,
        "token": node.token,
        # IPv4 alone: Hetzner's private networks have no IPv6, and a node's addresses must be of
        # the cluster's one family.
        "node-ip": str(node.private_ip),
        "advertise-address": str(node.private_ip),
        "node-external-ip": node.public_ipv4,
        "tls-san": list(node.tls_sans),
        "cluster-cidr": str(node.pod_cidr),
        "service-cidr": str(node.service_cidr),
        # Traefik takes ports 80 and 443 of each node itself; Cloudflare is the load balancer.
        "disable": ["servicelb"],
        "secrets-encryption": True,
        "protect-kernel-defaults": True,
        "write-kubeconfig-mode": "0600",
        "kube-apiserver-arg": [
            "admission-control-config-file=/etc/rancher/k3s/admission.yaml",
            "audit-policy-file=/etc/rancher/k3s/audit-policy.yaml",
            "audit-log-path=/var/lib/rancher/k3s/server/logs/audit.log",
            "audit-log-maxage=30",
            "audit-log-maxbackup=10",
            "audit-log-maxsize=100",
            "service-account-extend-token-expiration=false",
        ],
        "kube-controller-manager-arg": ["terminated-pod-gc-threshold=100"],
        "kubelet-arg": [
            "streaming-connection-idle-timeout=5m",
            # What honeydue/kubernetes/capacity.py counts as the node's own: K3s with etcd, then
            # Ubuntu. Without it a full node starves its own control plane.
            "kube-reserved=cpu=750m,memory=2048Mi",
            "system-reserved=cpu=250m,memory=512Mi",
        ],
    }
    if node.founder:
        config["cluster-init"] = True
    if node.snapshots:
        config |= {
            "etcd-snapshot-schedule-cron": node.snapshots.schedule,
            "etcd-snapshot-retention": node.snapshots.retention,
            "etcd-s3": True,
            # K3s counts what lies in the bucket over all nodes (k3s-io/k3s pull request 8177), and
            # by a number of its own, five unless given (12669). Per node, so that it means the
            # same as on a disk.
            "etcd-s3-retention": node.snapshots.retention * (1 + len(node.peers)),
            "etcd-s3-endpoint": node.snapshots.endpoint,
            "etcd-s3-region": node.snapshots.region,
            "etcd-s3-bucket": node.snapshots.bucket,
            "etcd-s3-folder": node.snapshots.folder,
            "etcd-s3-access-key": node.snapshots.access_key,
            "etcd-s3-secret-key": node.snapshots.secret_key,
        }
    return config


def registries(registry: Registry) -> dict[str, Any]:
    """/etc/rancher/k3s/registries.yaml: containerd's login. The pull secret in the namespace does
    the same for the workloads; this one also serves what has none, and a node that boots alone."""
    return {
        "configs": {
            registry.server: {"auth": {"username": registry.username, "password": registry.token}}
        }
    }


# The app's namespace asks for `restricted` by its labels; this is the floor for all the others.
# kube-system is K3s's own (its Traefik uses the host's network) and must start in an empty cluster.
ADMISSION: Final[Mapping[str, Any]] = {
    "apiVersion": "apiserver.config.k8s.io/v1",
    "kind": "AdmissionConfiguration",
    "plugins": [
        {
            "name": "PodSecurity",
            "configuration": {
                "apiVersion": "pod-security.admission.config.k8s.io/v1",
                "kind": "PodSecurityConfiguration",
                "defaults": {
                    "enforce": "baseline",
                    "enforce-version": "latest",
                    "audit": "restricted",
                    "audit-version": "latest",
                    "warn": "restricted",
                    "warn-version": "latest",
                },
                "exemptions": {
                    "usernames": [],
                    "runtimeClasses": [],
                    "namespaces": ["kube-system"],
                },
            },
        }
    ],
}

# Who did what, never the content of a secret, and without the cluster's talk to itself.
AUDIT_POLICY: Final[Mapping[str, Any]] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*", "/version"]},
        {
            "level": "None",
            "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"],
            "verbs": ["get", "list", "watch"],
        },
        {
            "level": "None",
            "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}],
        },
        {"level": "None", "resources": [{"group": "", "resources": ["events"]}]},
        {
            "level": "Metadata",
            "resources": [
                {"group": "", "resources": ["secrets", "configmaps", "serviceaccounts/token"]},
                {"group": "authentication.k8s.io", "resources": ["tokenreviews"]},
            ],
        },
        {"level": "Request", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "Metadata"},
    ],
}

# What the kubelet insists on with protect-kernel-defaults; set before K3s starts, or it stops.
SYSCTLS: Final = """\
vm.panic_on_oom = 0
vm.overcommit_memory = 1
kernel.panic = 10
kernel.panic_on_oops = 1
kernel.keys.root_maxkeys = 1000000
kernel.keys.root_maxbytes = 25000000
"""

SSHD: Final = """\
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowUsers root
X11Forwarding no
"""

# Security updates only, and no reboot: three managers that reboot in the same night lose quorum.
# A pending one shows as /var/run/reboot-required: reboot by hand, or raise the node's generation.
UPGRADES: Final = """\
APT::Periodic::Update-Package-Lists "1";
APT::Periodic::Unattended-Upgrade "1";
#clear Unattended-Upgrade::Allowed-Origins;
Unattended-Upgrade::Allowed-Origins {
  "${distro_id}:${distro_codename}-security";
};
Unattended-Upgrade::Automatic-Reboot "false";
"""

# As K3s's own installer writes it, but for our steps before the start; they may take long, and a
# failed one is tried again, for ever. The metadata service is closed before there is any pod.
K3S_UNIT: Final = f"""\
[Unit]
Description=K3s
Documentation=https://docs.k3s.io
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
KillMode=process
Delegate=yes
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s
ExecStartPre=-/sbin/modprobe br_netfilter
ExecStartPre=-/sbin/modprobe overlay
ExecStartPre={SCRIPT} metadata
ExecStartPre={SCRIPT} install
ExecStartPre={SCRIPT} network
ExecStartPre={SCRIPT} join
ExecStart=/usr/local/bin/k3s server

[Install]
WantedBy=multi-user.target
"""


def _script() -> str:
    return Path(__file__).with_name("node.sh").read_text(encoding="utf-8")


def _entry(file: File) -> dict[str, str]:
    entry = {"path": file.path, "permissions": file.mode}
    if file.exact:
        encoded = base64.b64encode(file.content.encode()).decode()
        return entry | {"encoding": "b64", "content": encoded}
    return entry | {"content": file.content}


# --- YAML ------------------------------------------------------------------------------------


# What YAML 1.2 reads as a number and PyYAML (1.1) does not, so that it would leave off the quotes:
# `004e12` or `00489`, as a B2 key id may be. K3s reads its files with a YAML library of Go.
_GOS_NUMBER: Final = re.compile(
    r"[-+]?([0-9_]+(\.[0-9_]*)?|\.[0-9_]+)([eE][-+]?[0-9_]+)?|0o[0-7_]+"
)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, so that a person can read what a node was told."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    style = "|" if "\n" in value else "'" if _GOS_NUMBER.fullmatch(value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def _yaml(value: Mapping[str, Any] | Sequence[Any]) -> str:
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6))
