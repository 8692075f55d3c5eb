"""The command lines of one node's programs, as K3s composes them from its configuration. Pure.

K3s runs these as goroutines of one process; the flags are its own (pkg/daemons/control/server.go,
pkg/etcd/etcd.go) but for what a node on a loopback address needs, each with its reason here.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from rehearsal.cluster.binaries import Binaries
from rehearsal.cluster.boot import TLS, Disk, ServerConfig

API_PORT: Final = 6443
ETCD_PORT: Final = 2379
ETCD_PEER_PORT: Final = 2380
CRED: Final = "/var/lib/rancher/k3s/server/cred"
ETCD_DATA: Final = "/var/lib/rancher/k3s/server/db/etcd"

LISTENING: Final = frozenset(
    "bind-address secure-port listen-peer-urls listen-client-urls listen-metrics-urls".split()  # noqa: SIM905 - a list of words
)
"""Extra arguments that are not passed on: nothing of a rehearsal listens but on loopback."""


@dataclass(frozen=True)
class Layout:
    """Where one node is: its loopback address, its disk, its configuration, the programs."""

    address: str
    disk: Disk
    config: ServerConfig
    binaries: Binaries

    def tls(self, name: str) -> str:
        return str(self.disk.path(f"{TLS}/{name}"))

    def peer_url(self) -> str:
        return f"https://{self.address}:{ETCD_PEER_PORT}"


def etcd(at: Layout, member: str, initial_cluster: Mapping[str, str], joining: bool) -> list[str]:
    """`initial_cluster`: member name → peer URL, this one included; ignored once data is there."""
    client, peer = f"https://{at.address}:{ETCD_PORT}", at.peer_url()
    flags = {
        "name": member,
        "data-dir": str(at.disk.path(ETCD_DATA)),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": ",".join(f"{name}={url}" for name, url in initial_cluster.items()),
        "initial-cluster-state": "existing" if joining else "new",
        "cert-file": at.tls("etcd/server-client.crt"),
        "key-file": at.tls("etcd/server-client.key"),
        "trusted-ca-file": at.tls("etcd/server-ca.crt"),
        "client-cert-auth": "true",
        "peer-cert-file": at.tls("etcd/peer-server-client.crt"),
        "peer-key-file": at.tls("etcd/peer-server-client.key"),
        "peer-trusted-ca-file": at.tls("etcd/peer-ca.crt"),
        "peer-client-cert-auth": "true",
        # K3s takes 500 and 5000 ms: a failover would take long here.
        "heartbeat-interval": "200",
        "election-timeout": "2000",
        "snapshot-count": "10000",
        "log-level": "warn",
        # A rehearsal loses power only together with the page cache; fsync of three members on
        # one disk is what makes etcd slow on a laptop.
        "unsafe-no-fsync": "true",
    }
    return [str(at.binaries.etcd), *_flags(flags), *_extra(at, "etcd")]


def api_server(at: Layout) -> list[str]:
    config = at.config
    issuer = f"https://kubernetes.default.svc.{config.cluster_domain}"
    flags = {
        "bind-address": at.address,
        "secure-port": str(API_PORT),
        "advertise-address": config.node_ip,
        # The `kubernetes` Service would otherwise get a loopback endpoint, which is refused.
        "endpoint-reconciler-type": "none",
        "allow-privileged": "true",
        "anonymous-auth": "false",
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "profiling": "false",
        "service-cluster-ip-range": config.service_cidr,
        "service-node-port-range": config.node_ports,
        "service-account-issuer": issuer,
        "api-audiences": f"{issuer},k3s",
        "service-account-key-file": at.tls("service.key"),
        "service-account-signing-key-file": at.tls("service.key"),
        "client-ca-file": at.tls("client-ca.crt"),
        "tls-cert-file": at.tls("serving-kube-apiserver.crt"),
        "tls-private-key-file": at.tls("serving-kube-apiserver.key"),
        "requestheader-client-ca-file": at.tls("request-header-ca.crt"),
        "requestheader-allowed-names": "system:auth-proxy",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-username-headers": "X-Remote-User",
        "proxy-client-cert-file": at.tls("client-auth-proxy.crt"),
        "proxy-client-key-file": at.tls("client-auth-proxy.key"),
        "etcd-servers": f"https://{at.address}:{ETCD_PORT}",
        "etcd-cafile": at.tls("etcd/server-ca.crt"),
        "etcd-certfile": at.tls("etcd/client.crt"),
        "etcd-keyfile": at.tls("etcd/client.key"),
        # A node's private address is on no interface here: `kubectl logs` must not leave this
        # machine in search of it. The external one is loopback.
        "kubelet-preferred-address-types": "ExternalIP",
        "kubelet-certificate-authority": at.tls("server-ca.crt"),
        "kubelet-client-certificate": at.tls("client-kube-apiserver.crt"),
        "kubelet-client-key": at.tls("client-kube-apiserver.key"),
    }
    if config.secrets_encryption:
        flags["encryption-provider-config"] = str(at.disk.path(f"{CRED}/encryption-config.json"))
    return [
        str(at.binaries.kube("kube-apiserver")),
        *_flags(flags),
        *_extra(at, "kube-apiserver"),
    ]


def controller_manager(at: Layout) -> list[str]:
    config = at.config
    kubeconfig = str(at.disk.path(f"{CRED}/controller.kubeconfig"))
    flags = {
        "kubeconfig": kubeconfig,
        "authentication-kubeconfig": kubeconfig,
        "authorization-kubeconfig": kubeconfig,
        "bind-address": at.address,
        "allocate-node-cidrs": "true",
        "cluster-cidr": config.cluster_cidr,
        "service-cluster-ip-range": config.service_cidr,
        "service-account-private-key-file": at.tls("service.key"),
        "root-ca-file": at.tls("server-ca.crt"),
        "cluster-signing-cert-file": at.tls("client-ca.crt"),
        "cluster-signing-key-file": at.tls("client-ca.key"),
        "use-service-account-credentials": "true",
        "profiling": "false",
        # As K3s: routes and service load balancers are the cloud controller's.
        "controllers": "*,tokencleaner,-service,-route,-cloud-node-lifecycle",
    }
    return [
        str(at.binaries.kube("kube-controller-manager")),
        *_flags(flags),
        *_extra(at, "kube-controller-manager"),
    ]


def scheduler(at: Layout) -> list[str]:
    kubeconfig = str(at.disk.path(f"{CRED}/scheduler.kubeconfig"))
    flags = {
        "kubeconfig": kubeconfig,
        "authentication-kubeconfig": kubeconfig,
        "authorization-kubeconfig": kubeconfig,
        "bind-address": at.address,
        "profiling": "false",
    }
    return [
        str(at.binaries.kube("kube-scheduler")),
        *_flags(flags),
        *_extra(at, "kube-scheduler"),
    ]


def kwok(at: Layout) -> list[str]:
    """Keeps this node's conditions and lease, and no other's: without it the node turns NotReady.

    Only its stages of nodes: what becomes of pods is decided by rehearsal/kubelet, since kwok's
    make every pod Ready, whatever its image is."""
    flags = {
        "kubeconfig": str(at.disk.path(f"{CRED}/kwok.kubeconfig")),
        "manage-single-node": at.config.node_name,
        "node-name": at.config.node_name,
        "node-ip": at.config.node_ip,
        "node-port": "0",  # the kubelet's own is another's (rehearsal/kubelet/logs.py)
        "cidr": at.config.cluster_cidr,
        "node-lease-duration-seconds": "40",
    }
    stages = [stage for stage in at.binaries.stages if stage.name.startswith("node-")]
    chosen = [word for stage in stages for word in ("--config", str(stage))]
    return [str(at.binaries.kwok), *_flags(flags), *chosen]


def _flags(flags: Mapping[str, str]) -> list[str]:
    return [f"--{flag}={value}" for flag, value in flags.items()]


def _extra(at: Layout, program: str) -> list[str]:
    """config.yaml's `<program>-arg`s, last: the last of two equal flags wins, as in K3s. Paths
    are the node's own, so they are looked for on its disk."""
    extra = []
    for argument in at.config.arguments[program]:
        flag, has_value, value = argument.partition("=")
        if flag in LISTENING:
            continue
        if flag == "admission-control-config-file":
            value = f"{CRED}/admission-config.json"
        if value.startswith("/"):
            value = str(at.disk.path(value))
        extra.append(f"--{flag}{has_value}{value}")
    return extra


# --- files that K3s composes -----------------------------------------------------------------


def encryption_config(config: ServerConfig) -> bytes:
    """The same on every server. K3s makes a random key and shares it through its bootstrap data,
    which the token encrypts; here the key is derived from the token, to the same effect."""
    key = hashlib.sha256(b"secrets-encryption:" + config.token.password.encode()).digest()
    provider = {
        config.encryption_provider: {
            "keys": [{"name": "aescbckey", "secret": base64.b64encode(key).decode()}]
        }
    }
    return json.dumps(
        {
            "kind": "EncryptionConfiguration",
            "apiVersion": "apiserver.config.k8s.io/v1",
            "resources": [{"resources": ["secrets"], "providers": [provider, {"identity": {}}]}],
        }
    ).encode()


def kubeconfig(at: Layout, client: str) -> bytes:
    """A kubeconfig (JSON is YAML) of this node's API server for the client certificate `client`."""
    user = {"client-certificate": at.tls(f"{client}.crt"), "client-key": at.tls(f"{client}.key")}
    cluster = {
        "server": f"https://{at.address}:{API_PORT}",
        "certificate-authority": at.tls("server-ca.crt"),
    }
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "local", "cluster": cluster}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "local", "context": {"cluster": "local", "user": "user"}}],
            "current-context": "local",
        }
    ).encode()


def admission_config(document: Any, disk: Disk) -> bytes:
    """The admission file with its plugins' absolute paths found on the node's disk."""
    for plugin in (document or {}).get("plugins") or []:
        path = plugin.get("path")
        if isinstance(path, str) and path.startswith("/"):
            plugin["path"] = str(disk.path(path))
    return json.dumps(document).encode()
