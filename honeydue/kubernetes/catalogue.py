"""What runs in the namespace: one table, and the manifests that follow from it.

Everything here is plain data in Kubernetes' own spelling, so that a golden file reads as what
`kubectl get -o yaml` shows. Where a name is only known later (a Secret's, say), the program passes
a Pulumi output in its place: hence `Text`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from honeydue.images.references import TAG_ANNOTATION

Text = Any  # a str, or the program's Output of one
Manifest = dict[str, Any]

NAME: Final = "app.kubernetes.io/name"
PULL_SECRET: Final = "gitea-credentials"

SERVING: Final = "honeydue-serving"
BACKGROUND: Final = "honeydue-background"
PRIORITIES: Final[Mapping[str, tuple[int, str]]] = {
    # Both far below system-cluster-critical (2,000,000,000): Traefik and DNS go first.
    SERVING: (100_000, "What users wait for: the API and the Redis that it needs"),
    BACKGROUND: (10_000, "What can wait while a node is missing: worker and admin panel"),
}

PROBE_SECONDS: Final = 5  # period of the startup and readiness probes
ROLLOUT_SECONDS: Final = 600  # a rollout without progress for so long has failed


@dataclass(frozen=True, kw_only=True)
class Health:
    """How a serving container is judged.

    Startup and readiness ask over HTTP. Liveness only opens a TCP connection: a pod that is
    saturated, or whose database is away, answers HTTP late or with 503 and must leave the Service,
    but killing it would throw away its work and load the others. Only a process that no longer
    accepts connections is beyond help.
    """

    path: str
    startup_failures: int  # times PROBE_SECONDS is the longest boot that is waited for


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One Deployment. `memory_mib` is request and limit at once; CPU is requested, never limited
    (a CPU limit throttles a pod while the node idles)."""

    name: Literal["api", "worker", "admin"]
    replicas: int
    port: int | None  # None: nothing listens, so there is no Service, no probe and no policy for it
    health: Health | None
    singleton: bool = False  # at most one at any time, even during a rollout (docs/adr/0006)
    secrets: bool  # whether it sees honeydue-secrets (the book restarts only api and worker for it)
    user: int  # numeric, since kubelet cannot tell that a named user is not root
    cpu_millis: int
    memory_mib: int
    writable: Mapping[str, str]  # volume → path; everything else is read-only
    priority: str
    grace_seconds: int

    @property
    def surge(self) -> int:
        """Pods above `replicas` that a rollout may add."""
        return 0 if self.singleton else 1


@dataclass(frozen=True, kw_only=True)
class Redis:
    """The in-cluster Redis: sizes that the arithmetic below needs, in one place with the others."""

    name: str = "redis"
    port: int = 6379
    cpu_millis: int = 100
    memory_mib: int = 384
    data_mib: int = 256  # maxmemory; the rest is the AOF rewrite's copy-on-write and buffers
    disk: str = "5Gi"
    user: int = 999
    group: int = 1000
    grace_seconds: int = 60  # it writes its data out on SIGTERM


REDIS: Final = Redis()

WORKLOADS: Final = (
    Workload(
        name="api",
        replicas=3,
        port=8000,
        # MigrateWithLock lets one first boot migrate at a time: the third waits up to 240 s.
        health=Health(path="/api/health/", startup_failures=48),
        secrets=True,
        user=1000,
        cpu_millis=250,
        memory_mib=512,
        writable={"tmp": "/tmp"},
        priority=SERVING,
        grace_seconds=45,
    ),
    Workload(
        name="worker",
        replicas=1,  # the Asynq scheduler is a singleton
        port=None,
        # It serves nothing that could be asked. It exits when it cannot work, and minReadySeconds
        # keeps a pod that crashes at boot from counting as a finished rollout.
        health=None,
        singleton=True,
        secrets=True,
        user=1000,
        cpu_millis=200,
        memory_mib=512,
        writable={"tmp": "/tmp"},
        priority=BACKGROUND,
        grace_seconds=60,  # Asynq hands unfinished tasks back to the queue after 8 s; room for more
    ),
    Workload(
        name="admin",
        replicas=2,
        port=3000,
        health=Health(
            path="/", startup_failures=24
        ),  # Next.js serves at the root; /admin/ is a 404
        secrets=False,
        user=1001,
        cpu_millis=100,
        memory_mib=384,
        writable={"tmp": "/tmp", "next-cache": "/app/.next/cache"},
        priority=BACKGROUND,
        grace_seconds=45,
    ),
)

GATEKEEPER: Final = WORKLOADS[0].name  # rolls first; the others only once it is healthy

PRE_STOP_SECONDS: Final = 10
"""Between "terminating" and SIGTERM: Traefik needs that long to see that the endpoint is gone."""

CONTAINER_SECURITY: Final[Manifest] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


def labels(name: str) -> dict[str, str]:
    """The labels of everything that belongs to workload `name`."""
    return {
        NAME: name,
        "app.kubernetes.io/part-of": "honeydue",
        "app.kubernetes.io/managed-by": "pulumi",
    }


def pod_security(*, user: int, group: int) -> Manifest:
    """The pod's half of Pod Security `restricted`."""
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": group,
        "fsGroup": group,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def resources(*, cpu_millis: int, memory_mib: int) -> Manifest:
    """Memory request = limit: the scheduler's sum is the truth, and nothing is evicted for it."""
    return {
        "requests": {"cpu": f"{cpu_millis}m", "memory": f"{memory_mib}Mi"},
        "limits": {"memory": f"{memory_mib}Mi"},
    }


def deployment(
    workload: Workload, *, namespace: Text, image: Text, tag: str, config: Text, secrets: Text
) -> Manifest:
    """Metadata and spec of the Deployment.

    `config` and `secrets` are the names of its ConfigMap and the Secret: a new content is a new
    name and so, by the pod template, a rollout. `image` is a digest; the tag that it was pushed
    under stands beside it, outside of the pod template, where a change rolls nothing.
    """
    env_from: list[Manifest] = [{"configMapRef": {"name": config}}]
    if workload.secrets:
        env_from.append({"secretRef": {"name": secrets}})
    return {
        "metadata": {
            "name": workload.name,
            "namespace": namespace,
            "labels": labels(workload.name),
            # What `kubectl rollout history` lists beside each revision.
            "annotations": {
                "kubernetes.io/change-cause": image,
                **({TAG_ANNOTATION: tag} if tag else {}),
            },
        },
        "spec": {
            "replicas": workload.replicas,
            "revisionHistoryLimit": 10,
            "progressDeadlineSeconds": ROLLOUT_SECONDS,
            "minReadySeconds": 10 if workload.health is None else 5,
            "selector": {"matchLabels": {NAME: workload.name}},
            "strategy": _strategy(workload),
            "template": {
                "metadata": {"labels": labels(workload.name)},
                "spec": _pod(workload, image=image, env_from=env_from),
            },
        },
    }


def service(workload: Workload, *, namespace: Text) -> Manifest:
    """Metadata and spec of the ClusterIP Service in front of a workload that listens."""
    return {
        "metadata": {
            "name": workload.name,
            "namespace": namespace,
            "labels": labels(workload.name),
        },
        "spec": {
            "type": "ClusterIP",
            "selector": {NAME: workload.name},
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def _strategy(workload: Workload) -> Manifest:
    if workload.singleton:
        # A surge would start the new scheduler beside the old one (docs/adr/0006).
        return {"type": "Recreate"}
    return {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def _pod(workload: Workload, *, image: Text, env_from: list[Manifest]) -> Manifest:
    container: Manifest = {
        "name": workload.name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",  # a digest is the same for ever
        "envFrom": env_from,
        "resources": resources(cpu_millis=workload.cpu_millis, memory_mib=workload.memory_mib),
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [{"name": v, "mountPath": path} for v, path in workload.writable.items()],
    }
    if workload.port is not None:
        container["ports"] = [{"name": "http", "containerPort": workload.port, "protocol": "TCP"}]
        # The env file is shared; the port is each workload's own, and `env` wins over `envFrom`.
        container["env"] = [{"name": "PORT", "value": str(workload.port)}]
        # Kubernetes' own sleep: needs no shell in the image.
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}}
    if workload.health is not None:
        ask = {"httpGet": {"path": workload.health.path, "port": "http"}, "timeoutSeconds": 3}
        container["startupProbe"] = {
            **ask,
            "periodSeconds": PROBE_SECONDS,
            "failureThreshold": workload.health.startup_failures,
        }
        container["readinessProbe"] = {**ask, "periodSeconds": PROBE_SECONDS, "failureThreshold": 3}
        container["livenessProbe"] = {
            "tcpSocket": {"port": "http"},
            "timeoutSeconds": 3,
            "periodSeconds": 10,
            "failureThreshold": 6,
        }
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # else API_PORT=tcp://… and the like would be set
        "imagePullSecrets": [{"name": PULL_SECRET}],
        "priorityClassName": workload.priority,
        "terminationGracePeriodSeconds": workload.grace_seconds,
        "securityContext": pod_security(user=workload.user, group=workload.user),
        "containers": [container],
        "volumes": [{"name": v, "emptyDir": {"sizeLimit": "256Mi"}} for v in workload.writable],
    }
    if workload.replicas > 1:
        pod["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "DoNotSchedule",
                # A lost or cordoned node is tainted, and must not count as an empty place that
                # forbids the others a second pod.
                "nodeTaintsPolicy": "Honor",
                "labelSelector": {"matchLabels": {NAME: workload.name}},
                # Counts each revision by itself, so that a rollout ends as evenly as it began.
                "matchLabelKeys": ["pod-template-hash"],
            }
        ]
    return pod
