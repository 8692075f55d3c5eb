"""Is this object ready? Pure decisions on objects as the API server answers them.

    deployment_status(obj, replica_sets, pods) -> Done | Waiting(line) | Failed(reason)

The conditions are those of pulumi-kubernetes (provider/pkg/await). Where ours differ, a comment
says so; the differences only make an outcome known sooner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rehearsal.providers.kubernetes.values import pluck

Object = Mapping[str, Any]
REVISION: Final = "deployment.kubernetes.io/revision"


@dataclass(frozen=True)
class Done:
    """Ready, or nothing to wait for."""


@dataclass(frozen=True)
class Waiting:
    """Not yet; `line` is for the live tree: "waiting for pods: 1 of 3 ready"."""

    line: str


@dataclass(frozen=True)
class Failed:
    """It will not become ready by itself."""

    reason: str


Status = Done | Waiting | Failed


def condition(obj: Object, type_: str) -> Object:
    for found in pluck(obj, "status", "conditions", default=[]):
        if found.get("type") == type_:
            return found  # type: ignore[no-any-return]
    return {}


def owned_by(obj: Object, owner: Object) -> bool:
    uid = pluck(owner, "metadata", "uid")
    return any(o.get("uid") == uid for o in pluck(obj, "metadata", "ownerReferences", default=[]))


def _observed(obj: Object) -> bool:
    """The controller has seen the last change of the spec; before that, the status is about the
    old one (a rollout that has not begun looks like one that is complete)."""
    return bool(
        pluck(obj, "status", "observedGeneration", default=0)
        >= pluck(obj, "metadata", "generation", default=0)
    )


_UNSEEN: Final = Waiting("waiting for the controller to see the change")


def deployment_status(  # noqa: PLR0911 - one return for each stage of a rollout
    deployment: Object, replica_sets: Sequence[Object], pods: Sequence[Object]
) -> Status:
    """The new revision's ReplicaSet has all its pods ready, and the rollout is complete.

    The plugin waits for its time-out even when the controller has given up the rollout
    (ProgressDeadlineExceeded); here that is the end.
    """
    if not _observed(deployment):
        return _UNSEEN
    progressing = condition(deployment, "Progressing")
    if progressing.get("reason") == "ProgressDeadlineExceeded":
        return Failed(f"[ProgressDeadlineExceeded] {progressing.get('message', '')}")
    failure = condition(deployment, "ReplicaFailure")
    revision = pluck(deployment, "metadata", "annotations", REVISION)
    current = next(
        (
            rs
            for rs in replica_sets
            if owned_by(rs, deployment)
            and pluck(rs, "metadata", "annotations", REVISION) == revision
        ),
        None,
    )
    wanted = pluck(deployment, "spec", "replicas", default=1)
    ready = pluck(current, "status", "readyReplicas", default=0)
    if revision is None or current is None:
        return Waiting("waiting for the new ReplicaSet")
    own = [pod for pod in pods if owned_by(pod, current)]
    trouble = first_trouble(own) or (failure.get("message") if failure else None)
    if ready < wanted:
        return Waiting(_with(f"waiting for pods: {ready} of {wanted} ready", trouble))
    updated = pluck(deployment, "status", "updatedReplicas", default=0)
    total = pluck(deployment, "status", "replicas", default=0)
    if updated < wanted or total > updated:
        return Waiting(f"waiting for the old pods to end: {max(total - updated, 0)} left")
    if wanted and condition(deployment, "Available").get("status") != "True":
        return Waiting("waiting for the pods to stay ready")
    if wanted and progressing and progressing.get("reason") != "NewReplicaSetAvailable":
        return Waiting("waiting for the rollout to be complete")
    return Done()


def stateful_set_status(stateful_set: Object, pods: Sequence[Object]) -> Status:
    """Every replica is ready and of the new revision (unless updates wait for deletion)."""
    if not _observed(stateful_set):
        return _UNSEEN
    wanted = pluck(stateful_set, "spec", "replicas", default=1)
    status = pluck(stateful_set, "status", default={})
    ready = status.get("readyReplicas", 0)
    own = [pod for pod in pods if owned_by(pod, stateful_set)]
    if ready < wanted:
        return Waiting(_with(f"waiting for pods: {ready} of {wanted} ready", first_trouble(own)))
    rolling = pluck(stateful_set, "spec", "updateStrategy", "type") != "OnDelete"
    if rolling and status.get("currentRevision") != status.get("updateRevision"):
        return Waiting(
            _with(
                f"waiting for the rollout: {status.get('updatedReplicas', 0)} of {wanted} updated",
                first_trouble(own),
            )
        )
    return Done()


def daemon_set_status(daemon_set: Object, pods: Sequence[Object]) -> Status:
    if not _observed(daemon_set):
        return _UNSEEN
    status = pluck(daemon_set, "status", default={})
    wanted = status.get("desiredNumberScheduled", 0)
    own = [pod for pod in pods if owned_by(pod, daemon_set)]
    rolling = pluck(daemon_set, "spec", "updateStrategy", "type") != "OnDelete"
    if rolling and (updated := status.get("updatedNumberScheduled", 0)) < wanted:
        return Waiting(
            _with(f"waiting for the rollout: {updated} of {wanted} nodes", first_trouble(own))
        )
    if (ready := status.get("numberReady", 0)) < wanted:
        return Waiting(_with(f"waiting for pods: {ready} of {wanted} ready", first_trouble(own)))
    return Done()


def service_status(service: Object, endpoint_slices: Sequence[Object]) -> Status:
    """A Service with a selector needs a pod to direct traffic to, a LoadBalancer an address.

    As with the plugin, pods that are not ready count, and a headless or ExternalName Service is
    done at once. Ours is done at once without a selector too: nothing would fill its endpoints.
    The plugin also waits ten seconds for the endpoints to settle; ours does not.
    """
    spec = pluck(service, "spec", default={})
    if spec.get("type") == "ExternalName" or spec.get("clusterIP") == "None":
        return Done()
    if spec.get("selector") and not any(s.get("endpoints") for s in endpoint_slices):
        labels = ", ".join(f"{k}={v}" for k, v in sorted(spec["selector"].items()))
        return Waiting(f"waiting for pods to direct traffic to ({labels})")
    if spec.get("type") == "LoadBalancer" and not _addresses(service):
        return Waiting("waiting for a load balancer's address")
    return Done()


def ingress_status(ingress: Object, services: Sequence[Object]) -> Status:
    """An ingress controller has published an address, and every backend Service exists."""
    present = {pluck(service, "metadata", "name") for service in services}
    for name in backends(ingress):
        if name not in present:
            return Waiting(f"waiting for the Service {name!r} that a rule names")
    if not _addresses(ingress):
        return Waiting("waiting for an ingress controller to publish an address")
    return Done()


def backends(ingress: Object) -> tuple[str, ...]:
    """The Services that an Ingress names, in order, each once."""
    found: dict[str, None] = {}
    candidates = [pluck(ingress, "spec", "defaultBackend")]
    for rule in pluck(ingress, "spec", "rules", default=[]):
        candidates += [p.get("backend") for p in pluck(rule, "http", "paths", default=[])]
    for candidate in candidates:
        if name := pluck(candidate, "service", "name"):
            found[name] = None
    return tuple(found)


def _addresses(obj: Object) -> list[Any]:
    return pluck(obj, "status", "loadBalancer", "ingress", default=[])  # type: ignore[no-any-return]


def pod_status(pod: Object) -> Status:
    phase = pluck(pod, "status", "phase")
    if phase == "Succeeded" or condition(pod, "Ready").get("status") == "True":
        return Done()
    trouble = pod_trouble(pod)
    if phase == "Failed":
        return Failed(trouble or "the pod failed")
    return Waiting(_with("waiting for the pod to be ready", trouble))


def job_status(job: Object, pods: Sequence[Object]) -> Status:
    if condition(job, "Complete").get("status") == "True":
        return Done()
    failed = condition(job, "Failed")
    if failed.get("status") == "True":
        return Failed(f"[{failed.get('reason', 'Failed')}] {failed.get('message', '')}")
    wanted = pluck(job, "spec", "completions", default=1)
    done = pluck(job, "status", "succeeded", default=0)
    own = [pod for pod in pods if owned_by(pod, job)]
    return Waiting(_with(f"waiting for the job: {done} of {wanted} complete", first_trouble(own)))


def claim_status(claim: Object, storage_class: Object | None) -> Status:
    """Bound, or of a class that binds only when a pod uses the claim."""
    phase = pluck(claim, "status", "phase")
    if phase == "Bound":
        return Done()
    if phase == "Lost":
        return Failed("the volume of the claim is lost")
    if pluck(storage_class, "volumeBindingMode") == "WaitForFirstConsumer":
        return Done()
    return Waiting("waiting for a volume")


def volume_status(volume: Object) -> Status:
    phase = pluck(volume, "status", "phase")
    if phase in {"Available", "Bound"}:
        return Done()
    return Failed("the volume failed") if phase == "Failed" else Waiting("waiting for the volume")


def definition_status(definition: Object) -> Status:
    """A CRD: its kind is served. (The plugin does not wait, but retries the first object of it.)"""
    refused = condition(definition, "NamesAccepted")
    if refused.get("status") == "False":
        return Failed(f"[{refused.get('reason')}] {refused.get('message')}")
    if condition(definition, "Established").get("status") == "True":
        return Done()
    return Waiting("waiting for the API server to serve the kind")


# --- what is wrong with a pod ---


def pod_trouble(pod: Object) -> str | None:
    """Why a pod does not become ready, in a line; None when nothing is known to be wrong."""
    status = pluck(pod, "status", default={})
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return f"{scheduled.get('reason', 'Unschedulable')}: {scheduled.get('message', '')}"
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or ():
            if trouble := _container_trouble(container):
                return f"container {container.get('name')}: {trouble}"
    if status.get("phase") == "Failed":
        return ": ".join(filter(None, (status.get("reason") or "Failed", status.get("message"))))
    return None


def _container_trouble(container: Object) -> str | None:
    waiting = pluck(container, "state", "waiting", default={})
    if waiting.get("reason") not in {None, "ContainerCreating", "PodInitializing"}:
        last = pluck(container, "lastState", "terminated")
        ended = f" (last exit code {last.get('exitCode')})" if last else ""
        message = f": {waiting['message']}" if waiting.get("message") else ""
        return f"{waiting['reason']}{message}{ended}"
    ended_now = pluck(container, "state", "terminated")
    if ended_now and ended_now.get("exitCode"):
        return f"{ended_now.get('reason') or 'Error'} (exit code {ended_now['exitCode']})"
    return None


def first_trouble(pods: Sequence[Object]) -> str | None:
    for pod in pods:
        if trouble := pod_trouble(pod):
            return f"{pluck(pod, 'metadata', 'name')}: {trouble}"
    return None


def warnings_about(events: Sequence[Object], names: frozenset[str], limit: int = 5) -> list[str]:
    """The latest warnings about these objects, oldest first: `FailedScheduling Pod/api-1: …`."""
    about = [
        event
        for event in events
        if event.get("type") == "Warning" and pluck(event, "involvedObject", "name") in names
    ]
    about.sort(key=_when)
    return [
        f"{event.get('reason')} {pluck(event, 'involvedObject', 'kind')}/"
        f"{pluck(event, 'involvedObject', 'name')}: {' '.join(str(event.get('message')).split())}"
        for event in about[-limit:]
    ]


def _when(event: Object) -> str:
    return str(
        event.get("lastTimestamp")
        or event.get("eventTime")
        or pluck(event, "metadata", "creationTimestamp", default="")
    )


def _with(line: str, trouble: str | None) -> str:
    return f"{line} ({trouble})" if trouble else line
