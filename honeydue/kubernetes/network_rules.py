"""Who may talk to whom: the namespace's NetworkPolicies as plain data.

K3s enforces them with its embedded kube-router controller. Default is deny, both ways; what follows
is the whole list of what is allowed. Traffic from a pod's own node (kubelet's probes) is always
allowed, by the NetworkPolicy API's own definition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network
from typing import Any, Final
from urllib.parse import urlsplit

from honeydue.kubernetes.catalogue import NAME, REDIS, WORKLOADS

Spec = dict[str, Any]

NODE_POD_PREFIX: Final = 24  # K3s' (and Kubernetes') default size of a node's share of the pod CIDR

# HTTPS (APNs, FCM, Backblaze B2) and APNs' alternative port.
ALWAYS_EXTERNAL: Final = frozenset({443, 2197})

LINK_LOCAL: Final = "169.254.0.0/16"  # holds 169.254.169.254: user_data, and so the cluster's CAs


def vtep_addresses(pod_cidr: IPv4Network) -> list[str]:
    """The address of `flannel.1` on every node that could ever be: `x.y.z.0/32` of each /24.

    Traefik runs in the host's network. Its packets to a pod on *another* node leave through
    flannel's VXLAN device and carry that device's address, the first one of the sending node's
    share of the pod CIDR, and not the node's private address (kube-router issue 332 describes the
    same). A replaced node gets the next free share, so today's three addresses would not be right
    for long; and as no pod is ever given a network's first address, all of them together still
    admit nodes only.
    """
    return [f"{share.network_address}/32" for share in pod_cidr.subnets(new_prefix=NODE_POD_PREFIX)]


def external_ports(
    environment: Mapping[str, str], *, redis_url: str | None = None
) -> tuple[int, ...]:
    """TCP ports of what is outside: each `*_PORT` of the env file, an external Redis', and HTTPS.

    The application's own `PORT` has no underscore before it and is left out.
    """
    ports = set(ALWAYS_EXTERNAL)
    ports |= {
        int(value)
        for key, value in environment.items()
        if key.endswith("_PORT") and value.isdigit()
    }
    if redis_url is not None:
        ports.add(urlsplit(redis_url).port or REDIS.port)
    return tuple(sorted(ports))


def network_policies(
    *,
    pod_cidr: IPv4Network,
    service_cidr: IPv4Network,
    network_cidr: IPv4Network,
    node_cidr: IPv4Network,
    ports: tuple[int, ...],
    redis: bool,
) -> dict[str, Spec]:
    """Name → spec of every policy; with `redis` also those of the in-cluster one."""
    trusted = [w.name for w in WORKLOADS if w.secrets]  # those with passwords to anything
    others = [w.name for w in WORKLOADS if not w.secrets]
    outside: Spec = {
        "ipBlock": {
            "cidr": "0.0.0.0/0",
            # Outside means outside: neither nodes nor their API server, etcd and kubelet, neither
            # pods nor services, nor the metadata service.
            "except": [
                *(str(c) for c in sorted({network_cidr, pod_cidr, service_cidr})),
                LINK_LOCAL,
            ],
        }
    }
    dns: Spec = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    }
    policies: dict[str, Spec] = {
        "default-deny": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
        "allow-dns": _egress(trusted + others, to=dns, ports=[("UDP", 53), ("TCP", 53)]),
        "allow-external": _egress(trusted, to=outside, ports=[("TCP", port) for port in ports]),
        "allow-https": _egress(others, to=outside, ports=[("TCP", 443)]),
    }
    # Traefik by its addresses, as policies cannot select pods in the host's network: the node's
    # private one (what host-gw or a masquerading kube-proxy would show) and flannel's.
    traefik = [{"ipBlock": {"cidr": str(node_cidr)}}]
    traefik += [{"ipBlock": {"cidr": cidr}} for cidr in vtep_addresses(pod_cidr)]
    for workload in WORKLOADS:
        if workload.port is not None:
            policies[f"allow-traefik-to-{workload.name}"] = {
                "podSelector": {"matchLabels": {NAME: workload.name}},
                "policyTypes": ["Ingress"],
                "ingress": [{"from": traefik, "ports": [_port("TCP", workload.port)]}],
            }
    if redis:
        policies["allow-clients-to-redis"] = {
            "podSelector": {"matchLabels": {NAME: REDIS.name}},
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "from": [{"podSelector": _any_of(trusted)}],
                    "ports": [_port("TCP", REDIS.port)],
                }
            ],
        }
        policies["allow-redis"] = _egress(
            trusted,
            to={"podSelector": {"matchLabels": {NAME: REDIS.name}}},
            ports=[("TCP", REDIS.port)],
        )
    return policies


def _egress(names: Sequence[str], *, to: Spec, ports: list[tuple[str, int]]) -> Spec:
    return {
        "podSelector": _any_of(names),
        "policyTypes": ["Egress"],
        "egress": [{"to": [to], "ports": [_port(protocol, port) for protocol, port in ports]}],
    }


def _any_of(names: Sequence[str]) -> Spec:
    return {"matchExpressions": [{"key": NAME, "operator": "In", "values": list(names)}]}


def _port(protocol: str, port: int) -> Spec:
    return {"protocol": protocol, "port": port}
