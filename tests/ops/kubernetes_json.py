"""Objects as the API server lists them, cut down to what their readers look at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from honeydue.kubernetes.catalogue import NAME, WORKLOADS, deployment

Json = dict[str, Any]

NOW = datetime(2026, 11, 22, 3, 0, 0, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
REPOSITORY = "gitea.treytartt.com/admin/honeydue-"


def ago(seconds: float) -> str:
    return f"{NOW - timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"


def image(service: str, digest: str = DIGEST) -> str:
    return f"{REPOSITORY}{service}@{digest}"


def manifest(service: str, digest: str = DIGEST) -> Json:
    """Metadata and spec as the program itself writes them."""
    workload = next(each for each in WORKLOADS if each.name == service)
    return deployment(
        workload,
        namespace="honeydue",
        image=image(service, digest),
        tag="237c6b8",
        config="honeydue-config-1",
        secrets="honeydue-secrets-1",
    )


def pod(service: str = "api", name: str = "", digest: str = DIGEST, **status: Any) -> Json:
    """`containers=[…]` are the containerStatuses; the rest is `status` as it is."""
    containers = status.pop("containers", [])
    node = status.pop("node", "honeydue-1")
    metadata = status.pop("metadata", {})
    return {
        "metadata": {
            "name": name or f"{service}-7d9c5b6f4-x2x7k",
            "namespace": "honeydue",
            "labels": {NAME: service},
            "creationTimestamp": ago(600),
            **metadata,
        },
        "spec": {**manifest(service, digest)["spec"]["template"]["spec"], "nodeName": node},
        "status": {"phase": "Running", "containerStatuses": containers, **status},
    }


def container(service: str = "api", **status: Any) -> Json:
    return {
        "name": service,
        "ready": False,
        "started": False,
        "restartCount": 0,
        "state": {},
        "lastState": {},
        **status,
    }


def well(service: str = "api", name: str = "", digest: str = DIGEST) -> Json:
    running = {"running": {"startedAt": ago(3600)}}
    return pod(
        service,
        name,
        digest,
        containers=[container(service, ready=True, started=True, state=running)],
        conditions=[{"type": "Ready", "status": "True", "lastTransitionTime": ago(3500)}],
    )


def waiting(reason: str, message: str = "", **status: Any) -> Json:
    return container(state={"waiting": {"reason": reason, "message": message}}, **status)


def terminated(code: int, lived: float, reason: str = "Error") -> Json:
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason,
            "startedAt": ago(60 + lived),
            "finishedAt": ago(60),
        }
    }


def crashing(code: int, lived: float, reason: str = "Error", restarts: int = 4) -> Json:
    message = (
        "back-off 1m20s restarting failed container=api pod=api-7d9c5b6f4-x2x7k_honeydue(3f1c)"
    )
    last = terminated(code, lived, reason)
    return waiting("CrashLoopBackOff", message, restartCount=restarts, lastState=last)


def pending(message: str, service: str = "api", reason: str = "Unschedulable") -> Json:
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    return pod(service, phase="Pending", conditions=[condition], node="")


def event(
    reason: str, message: str, about: str = "api-7d9c5b6f4-x2x7k", seconds: float = 30
) -> Json:
    return {
        "metadata": {"name": f"{about}.18", "namespace": "honeydue"},
        "involvedObject": {"kind": "Pod", "name": about, "namespace": "honeydue"},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "count": 4,
        "lastTimestamp": ago(seconds),
    }


def replicaset(message: str, service: str = "api") -> Json:
    return {
        "metadata": {"name": f"{service}-7d9c5b6f4", "labels": {NAME: service}},
        "spec": {"replicas": 1},
        "status": {
            "replicas": 0,
            "conditions": [
                {
                    "type": "ReplicaFailure",
                    "status": "True",
                    "reason": "FailedCreate",
                    "message": message,
                }
            ],
        },
    }


def deployed(service: str = "api", digest: str = DIGEST, **status: Any) -> Json:
    """A Deployment that is rolled out, but for what `status` says otherwise."""
    made = manifest(service, digest)
    spec = {**made["spec"], **status.pop("spec", {})}
    wanted = spec["replicas"]
    reason = status.pop("progressing", "NewReplicaSetAvailable")
    message = status.pop("message", "")
    return {
        "metadata": {**made["metadata"], "generation": 3},
        "spec": spec,
        "status": {
            "observedGeneration": 3,
            "replicas": wanted,
            "updatedReplicas": wanted,
            "readyReplicas": wanted,
            "availableReplicas": wanted,
            "conditions": [
                {
                    "type": "Progressing",
                    "status": str(reason != "ProgressDeadlineExceeded"),
                    "reason": reason,
                    "message": message,
                }
            ],
            **status,
        },
    }


def node(name: str = "honeydue-1", *, ready: str = "True", voter: str | None = "True") -> Json:
    ready_condition = {
        "type": "Ready",
        "status": ready,
        "lastTransitionTime": ago(86400 * 3),
        "message": "kubelet is posting ready status" if ready == "True" else "",
    }
    if ready == "Unknown":
        ready_condition["message"] = "Kubelet stopped posting node status."
    conditions = [ready_condition]
    if voter is not None:
        conditions.append({"type": "EtcdIsVoter", "status": voter})
    return {"metadata": {"name": name}, "status": {"conditions": conditions}}
