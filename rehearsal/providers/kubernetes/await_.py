"""Waiting: until an object is ready, or gone. The decisions are in readiness.py.

The plugin watches; this polls once a second, which a rehearsal can afford and which survives the
loss of an API server without more code: an unanswered poll is just another line of progress.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rehearsal.engine.provider import Context
from rehearsal.providers.kubernetes import readiness
from rehearsal.providers.kubernetes.client import (
    ApiError,
    Client,
    Json,
    NoMatchError,
    UnreachableError,
)
from rehearsal.providers.kubernetes.readiness import Done, Failed, Status
from rehearsal.providers.kubernetes.values import annotations_of, pluck

SKIP_AWAIT: Final = "pulumi.com/skipAwait"
TIMEOUT_SECONDS: Final = "pulumi.com/timeoutSeconds"

_POLL_SECONDS: Final = 1.0
# How long the API server may not answer in the middle of a wait before the wait is given up.
_PATIENCE_SECONDS: Final = 120.0

# `apiVersion/kind`; other kinds are not awaited.
_AWAITED: Final = frozenset(
    [
        "apps/v1/Deployment",
        "apps/v1/StatefulSet",
        "apps/v1/DaemonSet",
        "networking.k8s.io/v1/Ingress",
        "batch/v1/Job",
        "v1/Service",
        "v1/Pod",
        "v1/PersistentVolume",
        "v1/PersistentVolumeClaim",
        "apiextensions.k8s.io/v1/CustomResourceDefinition",
    ]
)
# For every kind, to be ready and to be gone (provider/pkg/await/await.go).
_SECONDS: Final = 600.0


class NotReadyError(Exception):
    """The object exists but is not ready. `str()` is the whole report for the operator."""


@dataclass(frozen=True)
class Subject:
    """The object that is waited for: its kind, its address in the API, its name and namespace."""

    key: str  # apiVersion/kind
    path: str
    name: str
    namespace: str | None


def _seconds(inputs: Mapping[str, Any], ctx: Context) -> float:
    """Custom timeouts first, then the annotation, then the default."""
    if ctx.timeout:
        return ctx.timeout
    text = str(annotations_of(inputs).get(TIMEOUT_SECONDS, ""))
    return float(text) if text.isdigit() and int(text) > 0 else _SECONDS


def until_ready(client: Client, subject: Subject, inputs: Mapping[str, Any], ctx: Context) -> Json:
    """Waits and returns the live object. Raises NotReadyError with what is known of the cause."""
    if subject.key not in _AWAITED or annotations_of(inputs).get(SKIP_AWAIT) == "true":
        return client.request("GET", subject.path)
    limit = _seconds(inputs, ctx)
    try:
        _wait(lambda: _look(client, subject), limit, ctx)
    except _GivenUpError as error:
        raise NotReadyError("\n".join([str(error), *_findings(client, subject)])) from None
    return client.request("GET", subject.path)


def until_gone(
    client: Client, subject: Subject, uid: str | None, inputs: Mapping[str, Any], ctx: Context
) -> None:
    """Waits until the object with this uid is no more. Raises NotReadyError when it stays."""
    if annotations_of(inputs).get(SKIP_AWAIT) == "true":
        return
    limit = _seconds(inputs, ctx)

    def look() -> Status:
        try:
            live = client.request("GET", subject.path)
        except ApiError as error:
            if error.code == 404:
                return Done()
            raise
        if uid is not None and pluck(live, "metadata", "uid") != uid:
            return Done()  # already somebody else's object of the same name
        return readiness.Waiting(_what_keeps(live))

    try:
        _wait(look, limit, ctx)
    except _GivenUpError as error:
        raise NotReadyError(f"it is still there: {error}") from None


def _what_keeps(live: Mapping[str, Any]) -> str:
    kept = pluck(live, "metadata", "finalizers", default=[])
    kept = kept or pluck(live, "spec", "finalizers", default=[])
    for condition in pluck(live, "status", "conditions", default=[]):
        # A namespace says which objects, and which finalizers on them, it still waits for.
        remaining = {"NamespaceContentRemaining", "NamespaceFinalizersRemaining"}
        if condition.get("type") in remaining and condition.get("status") == "True":
            return f"waiting for its deletion: {condition.get('message')}"
    finalizers = f" (finalizers: {', '.join(kept)})" if kept else ""
    return f"waiting for its deletion{finalizers}"


class _GivenUpError(Exception):
    pass


def _wait(look: Callable[[], Status], seconds: float, ctx: Context) -> None:
    started = time.monotonic()
    silent_since: float | None = None
    last = ""
    while True:
        try:
            status = look()
            silent_since = None
        except UnreachableError as error:
            silent_since = silent_since or time.monotonic()
            status = readiness.Waiting(f"the API server does not answer: {error}")
            if time.monotonic() - silent_since > _PATIENCE_SECONDS:
                raise _GivenUpError(status.line) from None
        if isinstance(status, Done):
            return
        if isinstance(status, Failed):
            raise _GivenUpError(status.reason)
        if status.line != last:
            last = status.line
            ctx.progress(last)
        if ctx.cancelled():
            raise _GivenUpError(f"cancelled while {last}")
        if time.monotonic() - started >= seconds:
            raise _GivenUpError(f"timed out after {seconds:g} s while {last}")
        time.sleep(min(_POLL_SECONDS, seconds))


def _look(client: Client, subject: Subject) -> Status:  # noqa: PLR0911 - a table, one line a kind
    try:
        live = client.request("GET", subject.path)
    except ApiError as error:
        if error.code == 404:
            return Failed("it was deleted while it was waited for")
        raise
    if pluck(live, "metadata", "deletionTimestamp"):
        return Failed("it is being deleted by somebody else")
    match subject.key:
        case "apps/v1/Deployment":
            sets = _list(client, "apps/v1", "ReplicaSet", subject.namespace, _selector(live))
            return readiness.deployment_status(live, sets, _pods(client, subject, live))
        case "apps/v1/StatefulSet":
            return readiness.stateful_set_status(live, _pods(client, subject, live))
        case "apps/v1/DaemonSet":
            return readiness.daemon_set_status(live, _pods(client, subject, live))
        case "batch/v1/Job":
            return readiness.job_status(live, _pods(client, subject, live))
        case "v1/Service":
            return readiness.service_status(live, _slices(client, subject))
        case "networking.k8s.io/v1/Ingress":
            return readiness.ingress_status(
                live, _list(client, "v1", "Service", subject.namespace, "")
            )
        case "v1/PersistentVolumeClaim":
            return readiness.claim_status(live, _storage_class(client, live))
        case "v1/PersistentVolume":
            return readiness.volume_status(live)
        case "v1/Pod":
            return readiness.pod_status(live)
    return readiness.definition_status(live)


def _list(
    client: Client, api_version: str, kind: str, namespace: str | None, selector: str
) -> list[Json]:
    query = {"labelSelector": selector} if selector else None
    path = client.kind(api_version, kind).path(namespace)
    return client.request("GET", path, query=query).get("items") or []


def _selector(workload: Mapping[str, Any]) -> str:
    """`matchLabels` as a query; owners are checked too, so `matchExpressions` are not needed."""
    labels = pluck(workload, "spec", "selector", "matchLabels", default={})
    return ",".join(f"{k}={v}" for k, v in sorted(labels.items()))


def _pods(client: Client, subject: Subject, workload: Mapping[str, Any]) -> list[Json]:
    return _list(client, "v1", "Pod", subject.namespace, _selector(workload))


def _slices(client: Client, subject: Subject) -> list[Json]:
    return _list(
        client,
        "discovery.k8s.io/v1",
        "EndpointSlice",
        subject.namespace,
        f"kubernetes.io/service-name={subject.name}",
    )


def _storage_class(client: Client, claim: Mapping[str, Any]) -> Json | None:
    name = pluck(claim, "spec", "storageClassName")
    if not name:
        return None
    try:
        path = client.kind("storage.k8s.io/v1", "StorageClass").path(None, name)
        return client.request("GET", path)
    except ApiError:
        return None


# --- the report on what did not become ready ---


def _findings(client: Client, subject: Subject) -> list[str]:
    """Failing pods with their reasons, last log lines and events: as far as they can be had."""
    try:
        live = client.request("GET", subject.path)
        pods = _own_pods(client, subject, live)
        events = _list(client, "v1", "Event", subject.namespace, "")
    except (ApiError, NoMatchError, UnreachableError):
        return []  # the cause is reported; its details cannot be had
    lines: list[str] = []
    failing = [pod for pod in pods if not isinstance(readiness.pod_status(pod), Done)]
    for pod in failing[:5]:
        name = pluck(pod, "metadata", "name")
        trouble = readiness.pod_trouble(pod) or f"phase {pluck(pod, 'status', 'phase')}, not ready"
        node = pluck(pod, "spec", "nodeName")
        lines.append(f"pod {name}{f' on {node}' if node else ''}: {trouble}")
        lines += [f"  | {line}" for line in _last_log_lines(client, subject, pod)]
    if len(failing) > 5:
        lines.append(f"and {len(failing) - 5} more pods")
    names = {subject.name} | {pluck(pod, "metadata", "name") for pod in pods}
    if subject.key == "apps/v1/Deployment":
        sets = {o["name"] for pod in pods for o in pluck(pod, "metadata", "ownerReferences")}
        names |= sets
    about = readiness.warnings_about(events, frozenset(names))
    return lines + [f"event {event}" for event in about]


def _own_pods(client: Client, subject: Subject, live: Mapping[str, Any]) -> list[Json]:
    """The pods of a workload's newest revision (older ones are not what fails)."""
    if subject.key == "v1/Pod":
        return [dict(live)]
    if subject.key not in {
        "apps/v1/Deployment",
        "apps/v1/StatefulSet",
        "apps/v1/DaemonSet",
        "batch/v1/Job",
    }:
        return []
    pods = _pods(client, subject, live)
    if subject.key != "apps/v1/Deployment":
        return [pod for pod in pods if readiness.owned_by(pod, live)]
    revision = annotations_of(live).get(readiness.REVISION)
    sets = [
        rs
        for rs in _list(client, "apps/v1", "ReplicaSet", subject.namespace, _selector(live))
        if readiness.owned_by(rs, live) and annotations_of(rs).get(readiness.REVISION) == revision
    ]
    return [pod for pod in pods if any(readiness.owned_by(pod, rs) for rs in sets)]


def _last_log_lines(client: Client, subject: Subject, pod: Mapping[str, Any]) -> list[str]:
    """Of the container that ended last, or runs and is not ready; none when a kubelet has
    none."""
    statuses = pluck(pod, "status", "containerStatuses", default=[])
    culprit = next((c for c in statuses if not c.get("ready")), None)
    if culprit is None:
        return []
    again = bool(pluck(culprit, "lastState", "terminated"))
    query = {"container": str(culprit.get("name")), "tailLines": "5"}
    path = client.kind("v1", "Pod").path(subject.namespace, pluck(pod, "metadata", "name"))
    for previous in (again, False):
        try:
            extra = {"previous": "true"} if previous else {}
            text = client.text(f"{path}/log", {**query, **extra})
        except (ApiError, UnreachableError):
            continue
        if text.strip():
            return text.rstrip().splitlines()[-5:]
    return []
