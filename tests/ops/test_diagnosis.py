"""What the operator is told of each way in which pods fail: one golden file, in their own words.

The messages are Kubernetes 1.34's and containerd's own, as clusters show them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.diagnosis import Finding, diagnose
from ops.masking import MASK, hiding
from tests.ops.kubernetes_json import (
    NOW,
    Json,
    ago,
    container,
    crashing,
    deployed,
    event,
    image,
    node,
    pending,
    pod,
    replicaset,
    terminated,
    waiting,
    well,
)

GOLDEN = Path(__file__).parent / "golden" / "diagnosis.txt"


@dataclass
class Seen:
    """What `kubectl get -o json` shows in one case."""

    pods: list[Json] = field(default_factory=list)
    events: list[Json] = field(default_factory=list)
    deployments: list[Json] = field(default_factory=list)
    replicasets: list[Json] = field(default_factory=list)
    nodes: list[Json] = field(default_factory=list)

    def findings(self, **more: Any) -> list[Finding]:
        return diagnose(*self.parts, nodes=self.nodes, now=NOW, **more)

    @property
    def parts(self) -> list[list[Json]]:
        return [self.pods, self.events, self.deployments, self.replicasets]


REF = image("api")
FAILED = f'failed to pull and unpack image "{REF}": failed to resolve reference "{REF}": '
MANIFEST = "https://gitea.treytartt.com/v2/admin/honeydue-api/manifests/sha256:" + "a" * 64


def pulling(cause: str, reason: str = "ImagePullBackOff") -> Seen:
    """As kubelet writes it since 1.31: the cause in the status too."""
    message = f'Back-off pulling image "{REF}": ErrImagePull: {cause}'
    return Seen(pods=[pod(phase="Pending", containers=[waiting(reason, message)])])


def pulling_as_before(cause: str) -> Seen:
    """As kubelet wrote it until then: the cause stands in an event alone."""
    status = waiting("ImagePullBackOff", f'Back-off pulling image "{REF}"')
    return Seen(
        pods=[pod(phase="Pending", containers=[status])],
        events=[
            event("Failed", f'Failed to pull image "{REF}": {cause}', seconds=90),
            event("Failed", "Error: ErrImagePull", seconds=60),
            event("BackOff", f'Back-off pulling image "{REF}"', seconds=10),
        ],
    )


def running(seconds: float, *events: Json, **status: Any) -> Seen:
    state = {"running": {"startedAt": ago(seconds)}}
    ready = {"type": "Ready", "status": "False", "lastTransitionTime": ago(seconds)}
    return Seen(
        pods=[pod(containers=[container(state=state, **status)], conditions=[ready])],
        events=list(events),
    )


GET = 'Get "http://10.42.1.5:8000/api/health/": '
REFUSED = GET + "dial tcp 10.42.1.5:8000: connect: connection refused"
SLOW = GET + "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
NONE_FIT = "preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."

CASES: dict[str, Seen] = {
    "all is well": Seen(pods=[well()], deployments=[deployed()], nodes=[node()]),
    # --- image pull
    "pull: the token has expired": pulling(
        FAILED + "failed to authorize: failed to fetch oauth token: unexpected status from GET "
        "request to https://gitea.treytartt.com/v2/token?account=admin&scope=repository%3Aadmin"
        "%2Fhoneydue-api%3Apull&service=container_registry: 401 Unauthorized"
    ),
    "pull: no right to it": pulling(
        FAILED + "pull access denied, repository does not exist or may require authorization: "
        "server message: insufficient_scope: authorization failed"
    ),
    "pull: the image is gone": pulling(
        f'rpc error: code = NotFound desc = failed to pull and unpack image "{REF}": failed to '
        f'resolve reference "{REF}": {REF}: not found'
    ),
    "pull: the image is gone, an older kubelet": pulling_as_before(
        f"rpc error: code = NotFound desc = {FAILED}{REF}: not found"
    ),
    "pull: the registry refuses connections": pulling(
        FAILED + f'failed to do request: Head "{MANIFEST}": dial tcp 203.0.113.9:443: connect: '
        "connection refused"
    ),
    "pull: the registry does not answer": pulling(
        FAILED + f'failed to do request: Head "{MANIFEST}": dial tcp 203.0.113.9:443: i/o timeout'
    ),
    "pull: the registry's proxy answers for it": pulling(
        FAILED + f"unexpected status from HEAD request to {MANIFEST}: 502 Bad Gateway"
    ),
    "pull: its name does not resolve": pulling(
        FAILED + f'failed to do request: Head "{MANIFEST}": dial tcp: lookup gitea.treytartt.com '
        "on 127.0.0.53:53: no such host"
    ),
    "pull: its certificate": pulling(
        FAILED + f'failed to do request: Head "{MANIFEST}": tls: failed to verify certificate: '
        "x509: certificate has expired or is not yet valid"
    ),
    "pull: the wrong platform": pulling(
        f'failed to pull and unpack image "{REF}": no match for platform in manifest: not found',
        "ErrImagePull",
    ),
    "pull: the disk is full": pulling(
        f'failed to pull and unpack image "{REF}": failed to extract layer sha256:1f: write '
        "/var/lib/rancher/k3s/agent/containerd/x: no space left on device"
    ),
    "pull: words that nobody has seen": pulling("the moon is in the way"),
    # --- crashes
    "crash: at once": Seen(pods=[pod(containers=[crashing(2, 1)])]),
    "crash: after the migration": Seen(pods=[pod(containers=[crashing(1, 95)])]),
    "crash: it has just died, and does not wait yet": Seen(
        pods=[pod(containers=[container(state=terminated(1, 0), restartCount=1)])]
    ),
    "crash: it ends as if done": Seen(pods=[pod(containers=[crashing(0, 3, "Completed")])]),
    "crash: the liveness probe": Seen(
        pods=[pod(containers=[crashing(137, 400)])],
        events=[event("Killing", "Container api failed liveness probe, will be restarted")],
    ),
    "crash: the startup probe, after all of its tries": Seen(
        pods=[pod(containers=[crashing(137, 250, restarts=2)])],
        events=[
            event("Unhealthy", "Startup probe failed: " + REFUSED),
            event("Killing", "Container api failed startup probe, will be restarted"),
        ],
    ),
    "crash: killed from outside": Seen(pods=[pod(containers=[crashing(137, 400)])]),
    "crash: three pods of one service": Seen(
        pods=[pod(name=f"api-7d9c5b6f4-{n}", containers=[crashing(2, 1)]) for n in "abc"]
    ),
    "memory: killed for it": Seen(pods=[pod(containers=[crashing(137, 300, "OOMKilled")])]),
    "memory: killed, and back already": Seen(
        pods=[
            pod(
                containers=[
                    container(
                        ready=True,
                        started=True,
                        restartCount=1,
                        state={"running": {"startedAt": ago(900)}},
                        lastState=terminated(137, 300, "OOMKilled"),
                    )
                ]
            )
        ]
    ),
    # --- not ready
    "boot: the migration lock, at 200 s": running(
        200, event("Unhealthy", "Startup probe failed: " + REFUSED)
    ),
    "boot: the third pod in the queue, at 235 s": running(
        235, event("Unhealthy", "Startup probe failed: HTTP probe failed with statuscode: 503")
    ),
    "boot: beyond its budget": running(290, event("Unhealthy", "Startup probe failed: " + REFUSED)),
    "boot: again, after the probe killed it": running(
        60, event("Unhealthy", "Startup probe failed: " + REFUSED), restartCount=1
    ),
    "never ready: 503": running(
        400,
        event("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503"),
        started=True,
    ),
    "never ready: 404": running(
        400,
        event("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 404"),
        started=True,
    ),
    "never ready: 500": running(
        400,
        event("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 500"),
        started=True,
    ),
    "never ready: refused": running(
        400, event("Unhealthy", "Readiness probe failed: " + REFUSED), started=True
    ),
    "never ready: it does not answer": running(
        400, event("Unhealthy", "Readiness probe failed: " + SLOW), started=True
    ),
    "never ready: the event is gone after its hour": running(7200, started=True),
    "it has only just started": running(8, started=True),
    # --- pending
    "pending: memory": Seen(
        pods=[pending(f"0/3 nodes are available: 3 Insufficient memory. {NONE_FIT}")]
    ),
    "pending: cpu": Seen(
        pods=[pending(f"0/3 nodes are available: 3 Insufficient cpu. {NONE_FIT}")]
    ),
    "pending: memory, and the spread rule": Seen(
        pods=[
            pending(
                "0/3 nodes are available: 1 Insufficient memory, 2 node(s) didn't match pod "
                "topology spread constraints. preemption: 0/3 nodes are available: 1 No "
                "preemption victims found for incoming pod, 2 Preemption is not helpful for "
                "scheduling."
            )
        ]
    ),
    "pending: the spread rule": Seen(
        pods=[
            pending(
                "0/3 nodes are available: 3 node(s) didn't match pod topology spread constraints."
            )
        ]
    ),
    "pending: a node is gone": Seen(
        pods=[
            pending(
                "0/3 nodes are available: 1 node(s) had untolerated taint "
                "{node.kubernetes.io/unreachable: }, 2 node(s) didn't match pod topology spread "
                "constraints."
            )
        ],
        nodes=[node("honeydue-2", ready="Unknown")],
    ),
    "pending: a node is cordoned": Seen(
        pods=[
            pending(
                "0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) didn't match "
                "pod topology spread constraints."
            )
        ]
    ),
    "pending: Redis' disk is on a lost node": Seen(
        pods=[
            pending(
                "0/3 nodes are available: 1 node(s) had untolerated taint "
                "{node.kubernetes.io/unreachable: }, 2 node(s) didn't match PersistentVolume's "
                "node affinity."
            )
        ]
    ),
    # --- the API server refuses the pod
    "refused: the admission policy": Seen(
        replicasets=[
            replicaset(
                'pods "api-7d9c5b6f4-" is forbidden: ValidatingAdmissionPolicy '
                "'honeydue-images-pods' with binding 'honeydue-images-pods' denied request: "
                "docker.io/library/busybox:latest may not run here"
            )
        ]
    ),
    "refused: a quota": Seen(
        replicasets=[
            replicaset(
                'pods "api-7d9c5b6f4-qk7zd" is forbidden: exceeded quota: honeydue, requested: '
                "requests.memory=512Mi, used: requests.memory=3Gi, limited: requests.memory=3Gi"
            )
        ]
    ),
    "refused: Pod Security": Seen(
        replicasets=[
            replicaset(
                'pods "api-7d9c5b6f4-qk7zd" is forbidden: violates PodSecurity '
                '"restricted:v1.34": allowPrivilegeEscalation != false'
            )
        ]
    ),
    "refused: the PriorityClass is gone": Seen(
        replicasets=[
            replicaset(
                'pods "api-7d9c5b6f4-" is forbidden: no PriorityClass with name honeydue-serving '
                "was found"
            )
        ]
    ),
    # --- creating
    "creating: the Secret is missing": Seen(
        pods=[
            pod(
                phase="Pending",
                containers=[
                    waiting(
                        "CreateContainerConfigError", 'secret "honeydue-secrets-1f2e" not found'
                    )
                ],
            )
        ]
    ),
    "creating: the ConfigMap of a volume is missing": Seen(
        pods=[pod(phase="Pending", containers=[waiting("ContainerCreating")])],
        events=[
            event(
                "FailedMount",
                'MountVolume.SetUp failed for volume "config" : configmap "redis-config-9d" not '
                "found",
            )
        ],
    ),
    "creating: a key of the Secret is missing": Seen(
        pods=[
            pod(
                phase="Pending",
                containers=[
                    waiting(
                        "CreateContainerConfigError",
                        "couldn't find key password in Secret honeydue/redis-1f",
                    )
                ],
            )
        ]
    ),
    "creating: it would run as root": Seen(
        pods=[
            pod(
                phase="Pending",
                containers=[
                    waiting(
                        "CreateContainerConfigError",
                        "container has runAsNonRoot and image will run as root (pod: "
                        '"api-7d9c5b6f4-x2x7k_honeydue(3f)", container: api)',
                    )
                ],
            )
        ]
    ),
    "creating: its command is not there": Seen(
        pods=[
            pod(
                containers=[
                    waiting(
                        "RunContainerError",
                        "failed to create containerd task: failed to create shim task: OCI runtime "
                        'create failed: runc create failed: exec: "/app/api": stat /app/api: no '
                        "such file or directory",
                    )
                ]
            )
        ]
    ),
    "creating: the image is being pulled": Seen(
        pods=[
            pod(
                phase="Pending",
                startTime=ago(20),
                containers=[waiting("ContainerCreating")],
            )
        ],
        events=[event("Pulling", f'Pulling image "{REF}"')],
    ),
    "creating: for far too long": Seen(
        pods=[pod(phase="Pending", startTime=ago(900), containers=[waiting("ContainerCreating")])]
    ),
    # --- ending
    "terminating: in its grace period": Seen(pods=[pod(metadata={"deletionTimestamp": ago(-30)})]),
    "terminating: for long": Seen(pods=[pod(metadata={"deletionTimestamp": ago(600)})]),
    "terminating: on a lost node": Seen(
        pods=[pod(metadata={"deletionTimestamp": ago(600)})],
        nodes=[node("honeydue-1", ready="Unknown")],
    ),
    "its node is lost": Seen(pods=[well()], nodes=[node("honeydue-1", ready="Unknown")]),
    "evicted": Seen(
        pods=[
            pod(
                phase="Failed",
                reason="Evicted",
                message="The node was low on resource: memory. Threshold quantity: 100Mi, "
                "available: 61Mi.",
            )
        ]
    ),
    # --- Deployments
    "deadline exceeded": Seen(
        pods=[pod(containers=[crashing(2, 1)]), well(name="api-old-1")],
        deployments=[
            deployed(
                progressing="ProgressDeadlineExceeded",
                message='ReplicaSet "api-7d9c5b6f4" has timed out progressing.',
            )
        ],
    ),
    "paused": Seen(deployments=[deployed(spec={"paused": True})]),
}


def told(findings: list[Finding]) -> str:
    if not findings:
        return "    nothing\n"
    lines = []
    for each in findings:
        mark = "" if each.grave else "   (passes)"
        lines += [
            f"    {each.service}: {each.symptom}{mark}  {', '.join(each.pods)}".rstrip(),
            *([f"        said    {each.said}"] if each.said else []),
            f"        likely  {each.cause}",
            f"        do      {each.todo}",
        ]
    return "\n".join(lines) + "\n"


def test_what_is_told_of_each_case_is_what_the_golden_file_says() -> None:
    text = "\n".join(f"{name}\n{told(seen.findings())}" for name, seen in CASES.items())
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), f"differs from {GOLDEN}; if meant: GOLDEN=write"


NORMAL = {
    "all is well",
    "memory: killed, and back already",
    "boot: the migration lock, at 200 s",
    "boot: the third pod in the queue, at 235 s",
    "it has only just started",
    "creating: the image is being pulled",
    "terminating: in its grace period",
    "evicted",
    "paused",
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_grave_and_what_only_passes(name: str) -> None:
    assert any(each.grave for each in CASES[name].findings()) is (name not in NORMAL)


@pytest.mark.parametrize("name", CASES)
def test_every_finding_names_its_service_and_says_what_to_do(name: str) -> None:
    for each in CASES[name].findings():
        assert each.service == "api"
        assert each.cause
        assert each.todo
        assert "{" not in each.cause + each.todo


def test_the_three_reasons_of_a_failed_pull_are_told_apart() -> None:
    causes = {
        CASES[f"pull: {name}"].findings()[0].cause
        for name in ("the token has expired", "the image is gone", "the registry does not answer")
    }
    assert len(causes) == 3


def test_an_older_kubelet_leads_to_the_same_finding_by_its_events() -> None:
    new = CASES["pull: the image is gone"].findings()[0]
    old = CASES["pull: the image is gone, an older kubelet"].findings()[0]
    assert (old.cause, old.todo) == (new.cause, new.todo)


def test_a_pod_of_k3s_is_not_rolled_back_by_our_verbs() -> None:
    metadata = {"namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}
    coredns = pod(name="coredns-1", metadata=metadata, containers=[crashing(1, 1)])
    (found,) = Seen(pods=[coredns]).findings()
    assert found.service == "kube-dns"
    assert "python -m ops" not in found.todo
    assert "kubectl -n kube-system logs coredns-1 --previous" in found.todo


@pytest.mark.parametrize(
    ("seconds", "grave"), [(5, False), (239, False), (269, False), (271, True)]
)
def test_a_first_boot_is_no_failure_within_the_240_seconds_of_its_probe(
    seconds: float, grave: bool
) -> None:
    """And half a minute more: kubelet counts from its first try."""
    said = event("Unhealthy", "Startup probe failed: " + REFUSED)
    (found,) = running(seconds, said).findings()
    assert found.grave is grave
    assert ("migration lock" in found.cause) is not grave


def test_a_value_that_kubernetes_quotes_is_masked() -> None:
    seen = pulling('Get "https://admin:hunter2-canary@gitea/v2/": 401 Unauthorized')
    assert "hunter2-canary" in seen.findings()[0].said
    (found,) = seen.findings(hide=hiding(["hunter2-canary"]))
    assert "hunter2-canary" not in found.said
    assert MASK in found.said


# --- whatever it is given ------------------------------------------------------------------------

CANARY = "canary-9f8e7d6c"
WORDS = st.sampled_from(
    [
        "",
        "True",
        "False",
        "Running",
        "Pending",
        "Failed",
        "api",
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "CreateContainerConfigError",
        "OOMKilled",
        "PodScheduled",
        "Ready",
        "Unhealthy",
        "Progressing",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59Z",
        "2026-11-22T03:00:00Z",
        "2026-11-22T03:00:00",
        "{service} {0} %s \\",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def mutated(draw: Callable[[Any], Any], value: Any) -> Any:
    """`value` with some of its parts dropped or replaced by something else."""
    fate = draw(st.integers(0, 30))
    if fate == 0:
        return draw(VALUES)
    if isinstance(value, dict):
        return {key: mutated(draw, item) for key, item in value.items() if draw(st.integers(0, 30))}
    if isinstance(value, list):
        return [mutated(draw, item) for item in value]
    return value


@st.composite
def damaged(draw: Callable[[Any], Any]) -> Seen:
    seen = CASES[draw(st.sampled_from(sorted(CASES)))]
    # Through JSON, as it comes: and no case is changed for the next test.
    parts = json.loads(json.dumps([*seen.parts, seen.nodes]))
    return Seen(*(mutated(draw, part) for part in parts))


@given(damaged())
@settings(max_examples=200, deadline=None)
def test_nothing_that_an_api_server_may_say_makes_it_fail(seen: Seen) -> None:
    for each in seen.findings():
        assert each.cause
        assert each.todo


@given(st.tuples(VALUES, VALUES, VALUES, VALUES))
@settings(max_examples=100, deadline=None)
def test_not_even_what_no_api_server_would_say(parts: tuple[Any, Any, Any, Any]) -> None:
    diagnose(*parts, now=NOW)


def with_canary(value: Any) -> Any:
    """The same, with a secret wherever a program may keep one: environments, annotations,
    arguments, the log that kubelet puts into a termination message."""
    if isinstance(value, list):
        return [with_canary(item) for item in value]
    if not isinstance(value, dict):
        return value
    made = {key: with_canary(item) for key, item in value.items()}
    if "containers" in made:
        for each in made["containers"]:
            each["env"] = [{"name": "SECRET_KEY", "value": CANARY}]
            each["args"] = [f"--key={CANARY}"]
    if "exitCode" in made:
        made["message"] = f"panic: postgres://honeydue:{CANARY}@db/honeydue"
    if "namespace" in made:
        made["annotations"] = {"key": CANARY}
    return made


@pytest.mark.parametrize("name", CASES)
def test_no_value_of_an_environment_is_ever_told(name: str) -> None:
    seen = CASES[name]
    found = Seen(*map(with_canary, [*seen.parts, seen.nodes])).findings()
    assert CANARY not in told(found)
    assert told(found) == told(seen.findings())
