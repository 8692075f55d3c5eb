"""Kubernetes objects that K3s itself makes: the Node, its password, the packaged components. Pure
but for `install_packaged`."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import yaml
from kubernetes.utils.quantity import parse_quantity

from rehearsal.clouds.machines import Machine
from rehearsal.cluster.boot import ServerConfig
from rehearsal.cluster.clients import Api

LOCAL_PATH: Final = "local-path"
PROVISIONER: Final = "rancher.io/local-path"
USABLE_MEMORY: Final = 0.95
"""Of a server's nominal memory, what Linux reports: the kernel keeps some (8 GB: 7.6 GiB)."""

Object = dict[str, Any]
_quantity: Callable[[str], Decimal] = parse_quantity


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- the Node --------------------------------------------------------------------------------


def node(machine: Machine, config: ServerConfig) -> Object:
    """As kubelet and K3s's cloud controller register a server with embedded etcd.

    K3s v1.34 gives no `node-role.kubernetes.io/master` any more (k3s-io/k3s issue 11117), and its
    cloud controller knows neither region nor zone.
    """
    labels = {
        "beta.kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/instance-type": "k3s",
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/os": "linux",
        "kubernetes.io/hostname": config.node_name,
        "node-role.kubernetes.io/control-plane": "true",
        "node-role.kubernetes.io/etcd": "true",
        "node.kubernetes.io/instance-type": "k3s",
    }
    labels |= dict(_pair(label) for label in config.node_labels)
    annotations = {
        "k3s.io/hostname": config.node_name,
        "k3s.io/internal-ip": config.node_ip,
        "etcd.k3s.cattle.io/node-address": config.node_ip,
        "etcd.k3s.cattle.io/node-name": config.node_name,
    }
    if config.external_ip:
        annotations["k3s.io/external-ip"] = config.external_ip
    spec: Object = {"providerID": f"k3s://{config.node_name}"}
    if config.node_taints:
        spec["taints"] = [_taint(taint) for taint in config.node_taints]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": config.node_name, "labels": labels, "annotations": annotations},
        "spec": spec,
        "status": node_status(machine, config, "v1.34"),
    }


def node_status(machine: Machine, config: ServerConfig, version: str) -> Object:
    """`version`: K3s's, as the kubelet says it (v1.34.6+k3s1). kwok adds the conditions,
    and the kubelet its port."""
    memory = int(machine.memory_gb * 1024 * 1024 * USABLE_MEMORY)
    addresses = [{"type": "InternalIP", "address": config.node_ip}]
    if config.external_ip:
        addresses.append({"type": "ExternalIP", "address": config.external_ip})
    addresses.append({"type": "Hostname", "address": config.node_name})
    capacity = {
        "cpu": str(machine.cores),
        "memory": f"{memory}Ki",
        "pods": config.kubelet.get("max-pods", "110"),
        "ephemeral-storage": f"{machine.disk_gb * 1000**3 // 1024}Ki",
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
    }
    identity = str(uuid.uuid5(uuid.NAMESPACE_OID, f"server {machine.id}"))
    return {
        "addresses": addresses,
        "capacity": capacity,
        "allocatable": _allocatable(capacity, config),
        "nodeInfo": {
            "architecture": "amd64",
            "operatingSystem": "linux",
            "osImage": "Ubuntu 24.04 (rehearsal)",
            "kernelVersion": "rehearsal",
            "containerRuntimeVersion": "containerd://rehearsal",
            "kubeletVersion": version,
            "kubeProxyVersion": version,
            "machineID": identity.replace("-", ""),
            "systemUUID": identity,
            "bootID": str(uuid.uuid4()),
        },
    }


def _allocatable(capacity: dict[str, str], config: ServerConfig) -> dict[str, str]:
    """Capacity less kube-reserved and system-reserved. K3s's own eviction-hard names disks only,
    so nothing is kept back for evictions."""
    reserved = {"cpu": Decimal(0), "memory": Decimal(0)}
    for flag in ("kube-reserved", "system-reserved"):
        for item in filter(None, config.kubelet.get(flag, "").split(",")):
            resource, amount = _pair(item)
            if resource in reserved:
                reserved[resource] += _quantity(amount)
    millicores = (_quantity(capacity["cpu"]) - reserved["cpu"]) * 1000
    kibibytes = (_quantity(capacity["memory"]) - reserved["memory"]) / 1024
    return capacity | {"cpu": f"{int(millicores)}m", "memory": f"{int(kibibytes)}Ki"}


def voter_condition() -> Object:
    """K3s's word on this member; source: k3s-io/k3s pkg/etcd/etcd.go (EtcdIsVoter)."""
    return {
        "type": "EtcdIsVoter",
        "status": "True",
        "reason": "MemberNotLearner",
        "message": "Node is a voting member of the etcd cluster",
        "lastHeartbeatTime": now(),
        "lastTransitionTime": now(),
    }


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def _taint(text: str) -> Object:
    """`key=value:Effect`."""
    rest, _, effect = text.rpartition(":")
    key, value = _pair(rest)
    return {"key": key, "value": value, "effect": effect}


# --- the node password -----------------------------------------------------------------------


def password_hash(password: str) -> str:
    """K3s's form: $1:<salt>:<log2 N>:<r>:<p>:<hash>; source: pkg/authenticator/hash/scrypt.go."""
    return _hash(password, secrets.token_bytes(8))


def _hash(password: str, salt: bytes) -> str:
    digest = hashlib.scrypt(
        password.encode(), salt=salt, n=1 << 15, r=8, p=1, maxmem=64 * 1024**2, dklen=64
    )
    return f"$1:{salt.hex()}:15:8:1:{base64.b64encode(digest).decode().rstrip('=')}"


def password_fits(password: str, stored: str) -> bool:
    try:
        salt = bytes.fromhex(stored.split(":")[1])
    except (IndexError, ValueError):
        return False
    return hmac.compare_digest(_hash(password, salt), stored)


def password_secret(node_name: str, password: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "immutable": True,
        "metadata": {"name": password_secret_name(node_name), "namespace": "kube-system"},
        "data": {"hash": base64.b64encode(password_hash(password).encode()).decode()},
    }


def stored_hash(secret: Object) -> str:
    try:
        return base64.b64decode(secret["data"]["hash"]).decode()
    except (KeyError, ValueError):
        return ""


def password_secret_name(node_name: str) -> str:
    return f"{node_name}.node-password.k3s"


# --- packaged components ---------------------------------------------------------------------


def install_packaged(api: Api, definitions: Sequence[Path], disabled: frozenset[str]) -> None:
    """What K3s's manifests and its Traefik chart leave in a cluster, as far as programs see it:
    the custom resource definitions, `IngressClass traefik`, `StorageClass local-path`. The
    charts' own workloads (Traefik, CoreDNS, metrics-server) are not played."""
    for file in definitions:
        if file.name == "traefik.yaml" and "traefik" in disabled:
            continue
        for document in yaml.load_all(file.read_text(), yaml.CSafeLoader):
            if document:
                name = document["metadata"]["name"]
                path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
                api.apply(path, document)
    if "local-storage" not in disabled:
        api.apply(f"/apis/storage.k8s.io/v1/storageclasses/{LOCAL_PATH}", _storage_class())
    if "traefik" not in disabled:  # last: who finds it knows that all the others are there
        api.apply("/apis/networking.k8s.io/v1/ingressclasses/traefik", _ingress_class())


def packaged_path(disabled: frozenset[str]) -> str:
    """The object that `install_packaged` makes last."""
    if "traefik" not in disabled:
        return "/apis/networking.k8s.io/v1/ingressclasses/traefik"
    if "local-storage" not in disabled:
        return f"/apis/storage.k8s.io/v1/storageclasses/{LOCAL_PATH}"
    return "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/helmchartconfigs.helm.cattle.io"


def _ingress_class() -> Object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {
            "name": "traefik",
            "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"},
        },
        "spec": {"controller": "traefik.io/ingress-controller"},
    }


def _storage_class() -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": LOCAL_PATH,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def provisioned_volume(claim: Object) -> Object | None:
    """What local-path-provisioner makes for a claim that the scheduler has placed on a node; None
    for a claim that is not its, not placed yet, or bound."""
    annotations = claim["metadata"].get("annotations") or {}
    placed = annotations.get("volume.kubernetes.io/selected-node")
    spec = claim["spec"]
    if spec.get("storageClassName") != LOCAL_PATH or spec.get("volumeName") or not placed:
        return None
    metadata = claim["metadata"]
    name = f"pvc-{metadata['uid']}"
    here = [{"key": "kubernetes.io/hostname", "operator": "In", "values": [placed]}]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": name,
            "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER},
        },
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": LOCAL_PATH,
            "hostPath": {
                "path": f"/var/lib/rancher/k3s/storage/{name}_{metadata['namespace']}_"
                f"{metadata['name']}",
                "type": "DirectoryOrCreate",
            },
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": here}]}},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        },
    }
