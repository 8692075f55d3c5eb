"""What is wrong with the pods, what is the likely cause, and which verb mends it.

Pure: Kubernetes' own JSON in, findings out. The texts are matched as kubelet, containerd, the
scheduler and the controllers of Kubernetes 1.34 write them; what none of the tables knows is still
told, in Kubernetes' words. Nothing here raises, whatever it is given, and no value of an
environment is looked at. Kubernetes' words can quote anything: `hide` masks them.

A first boot that waits for the migration lock is no failure: as long as the startup probe has tries
left, a pod is booting (Finding.grave is False).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from honeydue.kubernetes.catalogue import NAME

Json = Any

OURS: Final = "honeydue"  # the namespace
AT_ONCE: Final = 30.0  # seconds; who ends sooner has not begun to work
SETTLING: Final = 30.0  # seconds in which a pod may be what it should not stay
CREATING: Final = 180.0  # seconds for a container to come up, image pull included
_LONGEST: Final = 300  # characters of Kubernetes' own words
_REPEATED: Final = re.compile(
    r"(?:Back-off pulling image|Failed to pull image|failed to pull and unpack image|"
    r'failed to resolve reference) "[^"]*": |ErrImagePull: |rpc error: code = \w+ desc = '
)
_DIGEST: Final = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, with all the pods that have it.

    `symptom` is Kubernetes' own word where it has one; `said` its own sentence, "" if none.
    `grave`: False for what is expected to pass by itself."""

    service: str
    pods: tuple[str, ...]
    symptom: str
    said: str
    cause: str
    todo: str
    grave: bool = True


@dataclass(frozen=True)
class _Rule:
    pattern: str
    cause: str
    todo: str


_BOOT: Final = "the migration lock, the database and Redis are what a boot waits for: "
LOGS: Final = "python -m ops logs {service} --previous"
BACK: Final = "python -m ops rollback"
LOGIN: Final = (
    "python -m ops registry import deploy/registry.env, then `up`: it renews the pull secret and "
    "rolls nothing"
)

# What kubelet says when an image cannot be had; the first that fits. The words are containerd's
# (core/remotes/docker: resolver.go, authorizer.go, pusher.go) and Go's (net, crypto/tls).
_PULL: Final = (
    _Rule(
        r"no space left on device",
        "the node's disk is full",
        "free it on the node: k3s crictl rmi --prune; it will do this itself above 85 %",
    ),
    _Rule(
        r"no match for platform|exec format error",
        "the image was built for another architecture than the nodes' (linux/amd64)",
        "python -m ops deploy, which builds for linux/amd64; until then: " + BACK,
    ),
    _Rule(
        r"\b401\b|Unauthorized|no basic auth credentials|failed to authorize|denied|"
        r"insufficient_scope|\b403\b|Forbidden",
        "the pull secret is wrong or its token has expired (a registry also says so of an image "
        "that is not there)",
        LOGIN + "; then python -m ops images list, to see that the image is there",
    ),
    _Rule(
        r"\b429\b|toomanyrequests|Too Many Requests",
        "the registry limits the number of pulls",
        "wait: kubelet asks again, at most five minutes apart",
    ),
    _Rule(
        r"x509:|certificate (?:signed|has expired|is not)|tls: ",
        "the registry's certificate is not accepted by the node",
        "look at the registry's certificate; kubelet asks again by itself once it is right",
    ),
    _Rule(
        r"no such host|server misbehaving|Temporary failure in name resolution",
        "the node cannot resolve the registry's name",
        "look at DNS of that name and at the node; kubelet asks again by itself",
    ),
    _Rule(
        r"connection refused|i/o timeout|no route to host|network is unreachable|EOF|"
        r"connection reset|deadline exceeded|Client\.Timeout|TLS handshake timeout|"
        r"\b50[0234]\b|Bad Gateway|Service Unavailable|Internal Server Error|RegistryUnavailable",
        "the registry is down, or out of the node's reach",
        "bring the registry back: kubelet asks again by itself, and what runs goes on running",
    ),
    _Rule(
        r"not found|NotFound|manifest unknown|repository does not exist|name unknown",
        "the image is gone from the registry, or was never pushed",
        "python -m ops images list shows what is there; " + BACK + ", or python -m ops deploy to "
        "push it anew",
    ),
    _Rule(
        r"InvalidImageName|couldn't parse image|invalid reference",
        "the image's reference is not readable",
        "python -m ops config show: look at `images` and `registry`",
    ),
)

# CreateContainerConfigError, CreateContainerError, FailedMount, FailedCreatePodSandBox
_CREATE: Final = (
    _Rule(
        r"(?P<kind>[Ss]ecret|[Cc]onfig[Mm]ap) \"(?P<name>[^\"]+)\" not found",
        "the {kind} {name}, which the pod names, is not in the cluster",
        "`up` (or python -m ops deploy) makes it anew; if an old revision wants it: " + BACK,
    ),
    _Rule(
        r"references non-existent (?P<kind>secret|config) key: (?P<name>\S+)|"
        r"couldn't find key (?P<key>\S+) in (?:Secret|ConfigMap) (?P<place>\S+)",
        "a key that the pod needs is missing in its Secret or ConfigMap",
        "python -m ops config show, and set what is missing (python -m ops secret set KEY)",
    ),
    _Rule(
        r"runAsNonRoot|runs? as root",
        "the image runs as root, which this namespace does not allow",
        "give its Dockerfile a numeric USER; until then: " + BACK,
    ),
    _Rule(
        r"executable file not found|no such file or directory|permission denied|exec format error",
        "the image's command cannot be started",
        "look at ENTRYPOINT in the Dockerfile, and at the platform; until then: " + BACK,
    ),
    _Rule(
        r"cni|network|sandbox",
        "the node's pod network does not come up",
        "python -m ops status shows the nodes; on that one: journalctl -u k3s",
    ),
    _Rule(
        r"FailedAttachVolume|MountVolume|Unable to attach or mount|timed out waiting",
        "a volume of the pod cannot be mounted",
        "the node may be gone or its disk broken: look at the nodes above",
    ),
)

# FailedScheduling: the scheduler lists its reasons with how many nodes each holds for.
_SCHEDULE: Final = (
    _Rule(
        r"volume node affinity conflict|didn't match PersistentVolume's node affinity",
        "its disk is on a node that is gone or cordoned (a local disk does not move)",
        "bring that node back (`up` makes a lost server anew); docs/rebuild.md, One node",
    ),
    _Rule(
        r"Insufficient (?P<what>memory|cpu)(?=.*topology spread)",
        "not enough {what} is free where the spread rule would allow it",
        "are all three nodes Ready? see the nodes above; else a node is full: lower requests, or "
        "give the nodes a larger serverType",
    ),
    _Rule(
        r"Insufficient (?P<what>memory|cpu|ephemeral-storage)",
        "not enough {what} is free on any node",
        "are all three nodes Ready? see the nodes above; else lower the requests, or give the "
        "nodes a larger serverType",
    ),
    _Rule(
        r"untolerated taint \{node\.kubernetes\.io/(?:unreachable|not-ready)|node\(s\) were unreach"
        r"|untolerated taint \{node\.kubernetes\.io/network-unavailable",
        "a node is gone, and the others may not take its pod",
        "see the nodes above; a lost server is made anew by `up`",
    ),
    _Rule(
        r"were unschedulable|untolerated taint \{node\.kubernetes\.io/unschedulable",
        "a node is cordoned, and the others may not take the pod",
        "kubectl uncordon NODE, when its work is done",
    ),
    _Rule(
        r"-pressure",
        "a node is short of disk or memory and takes no pods",
        "look at that node: df -h, free -m; kubelet frees images by itself",
    ),
    _Rule(
        r"topology spread constraints",
        "the spread rule forbids the places that are left (a node is missing or full)",
        "see the nodes above; with all three Ready the scheduler finds a place by itself",
    ),
    _Rule(
        r"too many pods|Too many pods",
        "the nodes hold as many pods as they may (110 each)",
        "kubectl get pods -A: something makes far too many",
    ),
    _Rule(
        r"persistentvolumeclaim|PersistentVolumeClaim",
        "its volume is not there yet",
        "kubectl -n kube-system logs deploy/local-path-provisioner: it makes the volume",
    ),
)

# ReplicaFailure/FailedCreate: the API server's own refusal of a pod.
_REFUSED: Final = (
    _Rule(
        r"honeydue-images-",
        "the admission policy refuses the image: not ours by digest, and not pinned",
        "deploy with python -m ops deploy, not kubectl set image; docs/adr/0008-admission.md",
    ),
    _Rule(
        r"exceeded quota",
        "the namespace's quota is used up",
        "kubectl -n honeydue describe quota: raise it, or end what uses it",
    ),
    _Rule(
        r"violates PodSecurity",
        "the pod asks for more than Pod Security `restricted` allows",
        "the program's own pods never do: " + BACK + ", and look at the last change of the program",
    ),
    _Rule(
        r"[Pp]riority ?[Cc]lass",
        "the PriorityClass that the pod names is not in the cluster",
        "`up` makes it anew",
    ),
    _Rule(
        r"service ?account",
        "the namespace has no service account yet",
        "wait some seconds; if it stays: is the namespace being deleted?",
    ),
    _Rule(
        r"is being terminated|NamespaceTerminating",
        "the namespace is being deleted",
        "when it is gone, `up` makes it and everything in it anew",
    ),
    _Rule(
        r"failed calling webhook|denied the request|ValidatingAdmissionPolicy",
        "an admission rule of the cluster refuses the pod",
        "kubectl get validatingadmissionpolicies,validatingwebhookconfigurations",
    ),
    _Rule(
        r"context deadline exceeded|etcdserver|timed out|timeout",
        "the API server or etcd is too slow, or has no quorum",
        "see nodes and etcd above; the controller tries again by itself",
    ),
)

# What a failed readiness probe says (k8s.io/kubernetes, pkg/probe/http), and what it means.
_READINESS: Final = (
    (
        r"statuscode: 404",
        "it answers 404 at the probe's path: the path has moved, or another image runs",
    ),
    (
        r"statuscode: 50[234]",
        "it runs and answers 502 to 504: the database or Redis is away",
    ),
    (
        r"statuscode: (?:30\d|400|421)",
        "it answers with a redirect or refuses the probe's Host: a check of hosts in the settings",
    ),
    (r"statuscode: \d+", "it runs, but answers the readiness probe with an error"),
    (
        r"connection refused",
        "nothing listens on its port: it still boots, or listens on another one (PORT)",
    ),
    (
        r"deadline exceeded|Client\.Timeout|i/o timeout|timed out",
        "it does not answer within 3 s: overloaded, or it waits for the database",
    ),
)

_EXITS: Final[Mapping[int, str]] = {
    1: "it ended with an error of its own",
    2: "it panicked, or was called wrongly",
    126: "its command may not be executed",
    127: "its command is not in the image",
    128: "its command cannot be started",
    134: "it aborted",
    137: "it was killed",
    139: "it crashed (segmentation fault)",
    143: "it was told to end",
    255: "it ended with an error of its own",
}

_PULL_REASONS: Final = {
    "ImagePullBackOff",
    "ErrImagePull",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
}
_CREATE_REASONS: Final = {
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "StartError",
    "PreStartHookError",
    "PostStartHookError",
}


def diagnose(
    pods: Sequence[Json],
    events: Sequence[Json],
    deployments: Sequence[Json],
    replicasets: Sequence[Json],
    *,
    now: datetime,
    nodes: Sequence[Json] = (),
    hide: Callable[[str], str] = str,
) -> list[Finding]:
    """Grave findings first, then by service. Finished pods that something replaced are left out."""
    told = Events(events)
    lost = {text(dig(node, "metadata", "name")) for node in items(nodes) if not is_ready(node)}
    found: list[Finding] = []
    for pod in items(pods):
        found += _Pod(pod, told, lost, now).findings()
    for replicaset in items(replicasets):
        found += _replicaset(replicaset, told)
    for deployment in items(deployments):
        found += _deployment(deployment, bool(found))
    hidden = [replace(each, said=short(hide(each.said))) for each in _merged(found)]
    return sorted(hidden, key=lambda each: (not each.grave, each.service, each.symptom))


# --- pods ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pod:
    pod: Json
    told: Events
    lost: set[str]
    """Nodes that are not Ready."""
    now: datetime

    def findings(self) -> Iterator[Finding]:
        phase = text(dig(self.pod, "status", "phase"))
        placed = _condition(self.pod, "PodScheduled")
        ends = moment(dig(self.pod, "metadata", "deletionTimestamp"))
        if ends is not None:
            yield from self._ending(ends)
        elif phase == "Failed":
            yield self._ended()
        elif phase == "Running" and self._node in self.lost:
            yield self._finding(
                "NodeLost",
                "",
                f"its node {self._node} is not Ready; after five minutes of that the pod is made "
                "anew elsewhere",
                "see the nodes above; a lost server is made anew by `up`",
            )
        elif phase in ("Pending", "") and text(dig(placed, "status")) == "False":
            reason = text(dig(placed, "reason"))
            yield self._by(
                _SCHEDULE,
                "Pending" if reason in ("", "Unschedulable") else reason,
                text(dig(placed, "message")),
                ("no node takes the pod", "see the nodes above"),
            )
        elif phase != "Succeeded":
            found = [each for status in self._containers for each in self._container(status)]
            yield from found or (self._creating() if phase in ("Pending", "") else ())

    # One case each

    def _ending(self, ends: datetime) -> Iterator[Finding]:
        """`ends`: when the grace period is over, not when the delete was asked for."""
        if self._node in self.lost:
            yield self._finding(
                "Terminating",
                "",
                f"its node {self._node} is gone, so nobody can say that it has ended",
                "bring the node back, or `up`: when the Node object goes, so does the pod",
            )
        elif _seconds(self.now, ends) > SETTLING:
            yield self._finding(
                "Terminating",
                f"should have ended {ago(self.now, ends)} ago",
                "it does not end within its grace period, or a finalizer or its volume holds it",
                f"kubectl -n {self._namespace} delete pod {self._name} --grace-period=0 --force, "
                "once sure that it is not working",
            )

    def _ended(self) -> Finding:
        reason = text(dig(self.pod, "status", "reason")) or "Failed"
        return self._finding(
            reason,
            text(dig(self.pod, "status", "message")),
            "the node ended it: it was short of memory or disk"
            if reason in ("Evicted", "Preempting", "NodeAffinity", "OutOfmemory", "OutOfcpu")
            else "it ended, and its controller has made another one",
            f"only its record is left: kubectl -n {self._namespace} delete pod {self._name}",
            grave=False,
        )

    def _container(self, status: Json) -> Iterator[Finding]:
        reason = text(dig(status, "state", "waiting", "reason"))
        said = text(dig(status, "state", "waiting", "message"))
        ended = dig(status, "state", "terminated") or dig(status, "lastState", "terminated")
        # A container that died a moment ago is "terminated" before it waits for its restart.
        down = reason == "CrashLoopBackOff" or number(
            dig(status, "state", "terminated", "exitCode")
        )
        if reason in _PULL_REASONS:
            # Newer kubelets repeat the cause in the container's status; older ones tell it in an
            # event only.
            if not _says(_PULL, said):
                said = self.told.last(self._name, "Failed", "ailed to pull") or said
            yield self._by(
                _PULL,
                reason,
                said,
                ("the image cannot be pulled", "python -m ops images list: is it there?"),
            )
        elif reason in _CREATE_REASONS:
            look = f"kubectl -n {self._namespace} describe pod {self._name}"
            mend = f"{look}; until it is mended: {BACK}"
            otherwise = "the container cannot be made as the pod wants it", mend
            yield self._by(_CREATE, reason, said, otherwise)
        elif text(dig(ended, "reason")) == "OOMKilled" and self._recent(ended, status):
            yield self._finding(
                "OOMKilled",
                _restarts(number(dig(status, "restartCount"))).removeprefix("; "),
                f"it needs more memory than its limit ({self._limit(status)})",
                f"{BACK}, if the last release is new; else raise memory_mib in "
                "honeydue/kubernetes/catalogue.py",
                grave=dig(status, "ready") is not True,
            )
        elif down:
            yield self._crashed(status, ended)
        elif dig(status, "state", "running") is not None and dig(status, "ready") is not True:
            yield self._not_ready(status)

    def _recent(self, ended: Json, status: Json) -> bool:
        """Whether it is down for it, or came back from it within the hour."""
        over = moment(dig(ended, "finishedAt"))
        return dig(status, "ready") is not True or (
            over is not None and _seconds(self.now, over) < 3600
        )

    def _crashed(self, status: Json, ended: Json) -> Finding:
        code = number(dig(ended, "exitCode"))
        began, over = moment(dig(ended, "startedAt")), moment(dig(ended, "finishedAt"))
        lived = _seconds(over, began) if began and over else 0.0
        what = _EXITS.get(code, "it ended" if code else "it ended as if its work were done")
        times = number(dig(status, "restartCount"))
        said = f"exit code {code} after {_span(lived)}: {what}{_restarts(times)}"
        killed = self.told.last(self._name, "Killing")
        if "startup probe" in killed:
            last = self.told.last(self._name, "Unhealthy", "Startup probe")
            budget = _span(self._budget(status))
            cause = f"it did not answer within the {budget} of its startup probe{_because(last)}"
            todo = _BOOT + LOGS
        elif "liveness probe" in killed:
            cause, todo = "it no longer accepted connections, and was restarted", LOGS
        elif code == 137:
            cause = "it was killed from outside: its node was short of memory, or it did not end"
            todo = "see the nodes above; " + LOGS
        elif lived > AT_ONCE:
            cause = "it boots and then ends: cache, Redis connection, or code after the migration"
            todo = LOGS + "; if only the new release does so: " + BACK
        else:
            cause = (
                "it does not start: a panic, a missing or wrong setting, or the database refuses it"
            )
            todo = LOGS + " says why; until it is mended: " + BACK
        return self._finding("CrashLoopBackOff", said, cause, todo)

    def _not_ready(self, status: Json) -> Finding:
        began = moment(dig(status, "state", "running", "startedAt"))
        age = _seconds(self.now, began) if began else 0.0
        if self._budget(status) and dig(status, "started") is not True:
            return self._booting(status, age)
        last = self.told.last(self._name, "Unhealthy", "Readiness probe")
        since = moment(dig(_condition(self.pod, "Ready"), "lastTransitionTime"))
        young = age < SETTLING or (since is not None and _seconds(self.now, since) < SETTLING)
        if young and not last:
            cause = "normal: it has only just started"
            return self._finding("starting", f"for {_span(age)}", cause, "wait", grave=False)
        fits = (cause for pattern, cause in _READINESS if re.search(pattern, last))
        cause = next(fits, "its readiness probe does not pass, so it gets no traffic")
        return self._finding("NotReady", last, cause, "python -m ops logs {service}")

    def _booting(self, status: Json, age: float) -> Finding:
        """Its startup probe has not passed yet. Failures of it are what waiting looks like."""
        last = _because(self.told.last(self._name, "Unhealthy", "Startup probe"))
        times, budget = number(dig(status, "restartCount")), self._budget(status)
        if age <= budget + SETTLING and not times:
            return self._finding(
                "booting",
                f"for {_span(age)} of at most {_span(budget)}{last}",
                "normal: a first boot waits for the migration lock, one pod after the other",
                "wait",
                grave=False,
            )
        return self._finding(
            "NotReady",
            f"booting for {_span(age)}{_restarts(times)}{last}",
            f"it did not boot within the {_span(budget)} of its startup probe, or ended while "
            "booting",
            _BOOT + LOGS,
        )

    def _creating(self) -> Iterator[Finding]:
        """Scheduled, and no container has a fault of its own: what keeps it from being made?"""
        for reason in ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"):
            if said := self.told.last(self._name, reason):
                mend = f"kubectl -n {self._namespace} describe pod {self._name}"
                otherwise = "the node cannot make the container", mend
                yield self._by(_CREATE, "ContainerCreating", said, otherwise)
                return
        began = moment(dig(self.pod, "status", "startTime"))
        began = began or moment(dig(self.pod, "metadata", "creationTimestamp"))
        age = _seconds(self.now, began) if began else 0.0
        pulling = self.told.last(self._name, "Pulling")
        if age > CREATING:
            yield self._finding(
                "ContainerCreating",
                f"for {_span(age)}",
                "the node still pulls its image" if pulling else "the node has not made it",
                f"kubectl -n {self._namespace} describe pod {self._name}; is the node Ready?",
            )
        else:
            cause = "normal: its image is being pulled" if pulling else "normal: it is being made"
            yield self._finding("starting", f"for {_span(age)}", cause, "wait", grave=False)

    # What is known of it

    @property
    def _name(self) -> str:
        return text(dig(self.pod, "metadata", "name"))

    @property
    def _namespace(self) -> str:
        return text(dig(self.pod, "metadata", "namespace")) or OURS

    @property
    def _node(self) -> str:
        return text(dig(self.pod, "spec", "nodeName"))

    @property
    def _containers(self) -> Iterator[Json]:
        for kind in ("initContainerStatuses", "containerStatuses"):
            yield from items(dig(self.pod, "status", kind))

    def _spec(self, status: Json) -> Json:
        return _spec_of(self.pod, status)

    def _budget(self, status: Json) -> float:
        return probe_budget(self.pod, status)

    def _limit(self, status: Json) -> str:
        limit = dig(self._spec(status), "resources", "limits", "memory")
        return text(limit) or "the node's memory"

    def _finding(
        self, symptom: str, said: str, cause: str, todo: str, *, grave: bool = True
    ) -> Finding:
        service = service_of(self.pod)
        if self._namespace != OURS and grave:
            # K3s's own (DNS, Traefik): no verb of ours rolls them back or knows their boot.
            look = f"kubectl -n {self._namespace}"
            todo = f"{look} describe pod {self._name}; {look} logs {self._name} --previous"
            cause = "K3s runs it, and not this program: " + (
                "its own log says why" if symptom == "CrashLoopBackOff" else cause
            )
        return Finding(
            service=service,
            pods=(self._name,) if self._name else (),
            symptom=symptom,
            said=said,
            cause=cause,
            todo=todo.replace("{service}", service),
            grave=grave,
        )

    def _by(
        self, rules: Sequence[_Rule], symptom: str, said: str, otherwise: tuple[str, str]
    ) -> Finding:
        return self._finding(symptom, said, *_match(rules, f"{symptom} {said}", *otherwise))


# --- what makes pods ----------------------------------------------------------------------------


def _replicaset(replicaset: Json, told: Events) -> Iterator[Finding]:
    wanted = number(dig(replicaset, "spec", "replicas"))
    if not wanted or number(dig(replicaset, "status", "replicas")) >= wanted:
        return
    failure = _condition(replicaset, "ReplicaFailure")
    said = text(dig(failure, "message")) if text(dig(failure, "status")) == "True" else ""
    said = said or told.last(text(dig(replicaset, "metadata", "name")), "FailedCreate")
    if not said:
        return
    cause, todo = _match(
        _REFUSED, said, "the API server refuses to make the pod", "see its own words above"
    )
    yield Finding(
        service=service_of(replicaset),
        pods=(),
        symptom="FailedCreate",
        said=said,
        cause=cause,
        todo=todo,
    )


def _deployment(deployment: Json, explained: bool) -> Iterator[Finding]:
    service = text(dig(deployment, "metadata", "name"))
    progress = _condition(deployment, "Progressing")
    if dig(deployment, "spec", "paused") is True:
        yield Finding(
            service=service,
            pods=(),
            symptom="paused",
            said="",
            cause="its rollout was paused by hand: a new release waits here, until `up` gives up",
            todo=f"python -m ops resume {service}",
            grave=False,
        )
    elif text(dig(progress, "reason")) == "ProgressDeadlineExceeded":
        yield Finding(
            service=service,
            pods=(),
            symptom="ProgressDeadlineExceeded",
            said=text(dig(progress, "message")),
            cause="the rollout stands still: its new pods do not become ready, so the old ones "
            "stay" + ("; why stands beside" if explained else ""),
            todo=f"{BACK}, or mend the cause and python -m ops deploy",
        )


# --- Kubernetes' JSON, whatever it is -----------------------------------------------------------


class Told(NamedTuple):
    """One event; `times`: how often it has happened."""

    when: datetime
    said: str
    reason: str
    times: int


class Events:
    """Warnings and others by the object that they are about; the newest message counts."""

    def __init__(self, events: Sequence[Json]) -> None:
        self._by: dict[str, list[Told]] = {}
        oldest = datetime.min.replace(tzinfo=UTC)
        for event in items(events):
            about = text(dig(event, "involvedObject", "name")) or text(
                dig(event, "regarding", "name")
            )
            when = (
                moment(dig(event, "series", "lastObservedTime"))
                or moment(dig(event, "lastTimestamp"))
                or moment(dig(event, "eventTime"))
                or moment(dig(event, "metadata", "creationTimestamp"))
                or oldest
            )
            said = text(dig(event, "message")) or text(dig(event, "note"))
            times = number(dig(event, "series", "count")) or number(dig(event, "count")) or 1
            told = Told(when, said, text(dig(event, "reason")), times)
            self._by.setdefault(about, []).append(told)

    def last(self, about: str, reason: str, beginning: str = "") -> str:
        """The newest message; `beginning`: what must stand in it. "" when there is none."""
        fits = self._fits(about, reason, beginning)
        return max(fits).said if fits else ""

    def count(self, about: str, reason: str, beginning: str = "") -> int:
        """How often it happened."""
        return sum(each.times for each in self._fits(about, reason, beginning))

    def of(self, about: str) -> list[Told]:
        """All of one object, oldest first."""
        return sorted(self._by.get(about, ()))

    def _fits(self, about: str, reason: str, beginning: str) -> list[Told]:
        known = self._by.get(about, ())
        return [each for each in known if each.reason == reason and beginning in each.said]


def dig(value: Json, *keys: str) -> Json:
    """`value[a][b]…`, or None where there is no such thing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def items(value: Json) -> Sequence[Json]:
    return value if isinstance(value, list | tuple) else ()


def text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def number(value: Json) -> int:
    """Bounded, so that arithmetic with it cannot overflow."""
    return max(-(10**9), min(value, 10**9)) if isinstance(value, int) else 0


def moment(value: Json) -> datetime | None:
    """RFC 3339, as Kubernetes writes it (seconds, or microseconds for `MicroTime`)."""
    try:
        found = datetime.fromisoformat(text(value))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def probe_budget(pod: Json, status: Json) -> float:
    """Seconds that the startup probe gives a container; 0 without one."""
    probe = dig(_spec_of(pod, status), "startupProbe")
    if not isinstance(probe, dict):
        return 0.0
    # Kubernetes' own defaults, which the API server always writes in.
    every = number(dig(probe, "periodSeconds")) or 10
    tries = number(dig(probe, "failureThreshold")) or 3
    return float(number(dig(probe, "initialDelaySeconds")) + every * tries)


def _spec_of(pod: Json, status: Json) -> Json:
    """The container of the pod's spec that this is the status of."""
    everyone = items(dig(pod, "spec", "containers"))
    return next((each for each in everyone if dig(each, "name") == dig(status, "name")), None)


def is_ready(node: Json) -> bool:
    return text(dig(_condition(node, "Ready"), "status")) == "True"


def service_of(thing: Json) -> str:
    """By the label that the catalogue gives to all of a service; else its own name."""
    labels = dig(thing, "metadata", "labels")
    named = text(dig(labels, NAME)) or text(dig(labels, "k8s-app"))  # the latter: K3s's CoreDNS
    return named or text(dig(thing, "metadata", "name"))


def is_of(thing: Json, service: str) -> bool:
    """By the catalogue's label alone."""
    return bool(dig(thing, "metadata", "labels", NAME) == service)


def _condition(thing: Json, kind: str) -> Json:
    conditions = items(dig(thing, "status", "conditions"))
    return next((c for c in conditions if text(dig(c, "type")) == kind), None)


# --- words --------------------------------------------------------------------------------------


def _match(rules: Sequence[_Rule], said: str, else_: str, todo: str) -> tuple[str, str]:
    for rule in rules:
        if found := re.search(rule.pattern, said, re.DOTALL):
            # The templates are ours; what is put in is never read as one.
            named = {key: value or "" for key, value in found.groupdict().items()}
            return rule.cause.format(**named), rule.todo
    return else_, todo


def _says(rules: Sequence[_Rule], said: str) -> bool:
    return any(re.search(rule.pattern, said) for rule in rules)


def _restarts(times: int) -> str:
    return {0: "", 1: "; restarted once"}.get(times, f"; restarted {times} times")


def _because(said: str) -> str:
    return f" ({said})" if said else ""


def _merged(found: Sequence[Finding]) -> list[Finding]:
    """One finding for all the pods of a service that have the same."""
    by: dict[tuple[str, str, str, bool], Finding] = {}
    for each in found:
        key = (each.service, each.symptom, each.cause, each.grave)
        known = by.get(key)
        by[key] = each if known is None else replace(known, pods=(*known.pods, *each.pods))
    return list(by.values())


def short(said: str) -> str:
    """One line. What containers' runtimes repeat at each level is left out, and of what is still
    too long the middle: the cause stands last."""
    line = _DIGEST.sub(r"\1…", _REPEATED.sub("", " ".join(said.split())))
    half = _LONGEST // 2
    return line if len(line) <= _LONGEST else f"{line[:half]} … {line[-half:]}"


def _seconds(later: datetime, earlier: datetime) -> float:
    return (later - earlier).total_seconds()


def _span(seconds: float) -> str:
    """`45 s`, `4 min`, `2 h`, `3 d`."""
    for size, unit, many in ((86400, "d", 2), (3600, "h", 2), (60, "min", 5)):
        if seconds >= many * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} s"


def ago(now: datetime, then: datetime) -> str:
    """How long ago, in words."""
    return _span(max(timedelta(), now - then).total_seconds())
