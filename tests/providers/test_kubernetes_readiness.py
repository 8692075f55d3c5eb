"""When a Kubernetes object counts as ready, and what is said while it is not."""

from __future__ import annotations

from typing import Any

import pytest

from rehearsal.providers.kubernetes import readiness
from rehearsal.providers.kubernetes.readiness import Done, Failed, Status, Waiting


def condition(type_: str, status: str = "True", **more: str) -> dict[str, str]:
    return {"type": type_, "status": status, **more}


def deployment(
    *, generation: int = 2, observed: int = 2, replicas: int = 3, **status: Any
) -> dict[str, Any]:
    complete = {
        "replicas": replicas,
        "updatedReplicas": replicas,
        "conditions": [
            condition("Available"),
            condition("Progressing", reason="NewReplicaSetAvailable"),
        ],
    }
    return {
        "metadata": {
            "uid": "d",
            "generation": generation,
            "annotations": {readiness.REVISION: "2"},
        },
        "spec": {"replicas": replicas},
        "status": {"observedGeneration": observed, **complete, **status},
    }


def replica_set(ready: int, revision: str = "2", uid: str = "rs2") -> dict[str, Any]:
    return {
        "metadata": {
            "uid": uid,
            "ownerReferences": [{"uid": "d"}],
            "annotations": {readiness.REVISION: revision},
        },
        "status": {"readyReplicas": ready},
    }


def pod(name: str = "api-1", owner: str = "rs2", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "ownerReferences": [{"uid": owner}]}, "status": status}


def pulling(image: str = "nope") -> dict[str, Any]:
    state = {"waiting": {"reason": "ImagePullBackOff", "message": f"Back-off pulling {image}"}}
    return {"name": "api", "ready": False, "state": state}


def test_a_complete_rollout_is_done() -> None:
    sets = [replica_set(0, "1", "rs1"), replica_set(3)]
    assert readiness.deployment_status(deployment(), sets, []) == Done()


def test_a_rollout_that_the_controller_has_not_seen_is_not_complete() -> None:
    status = readiness.deployment_status(deployment(generation=3), [replica_set(3)], [])
    assert status == Waiting("waiting for the controller to see the change")


def test_the_old_revisions_ready_pods_do_not_count() -> None:
    status = readiness.deployment_status(deployment(), [replica_set(3, "1", "rs1")], [])
    assert status == Waiting("waiting for the new ReplicaSet")


def test_waiting_says_how_many_pods_are_ready_and_what_is_wrong_with_one() -> None:
    pods = [pod("old", "rs1"), pod("api-1", containerStatuses=[pulling()])]
    status = readiness.deployment_status(deployment(), [replica_set(1)], pods)
    assert status == Waiting(
        "waiting for pods: 1 of 3 ready "
        "(api-1: container api: ImagePullBackOff: Back-off pulling nope)"
    )


def test_a_quota_that_forbids_pods_is_named() -> None:
    conditions = [condition("ReplicaFailure", reason="FailedCreate", message="exceeded quota")]
    status = readiness.deployment_status(deployment(conditions=conditions), [replica_set(0)], [])
    assert status == Waiting("waiting for pods: 0 of 3 ready (exceeded quota)")


def test_pods_of_the_old_revision_that_still_run_are_waited_for() -> None:
    status = readiness.deployment_status(deployment(replicas=3) | {}, [replica_set(3)], [])
    assert status == Done()
    unfinished = deployment()
    unfinished["status"]["replicas"] = 4
    status = readiness.deployment_status(unfinished, [replica_set(3)], [])
    assert status == Waiting("waiting for the old pods to end: 1 left")


def test_an_exceeded_progress_deadline_is_a_failure() -> None:
    given_up = condition(
        "Progressing", "False", reason="ProgressDeadlineExceeded", message="has timed out"
    )
    status = readiness.deployment_status(deployment(conditions=[given_up]), [replica_set(1)], [])
    assert status == Failed("[ProgressDeadlineExceeded] has timed out")


def test_a_deployment_scaled_to_nothing_is_done() -> None:
    assert readiness.deployment_status(deployment(replicas=0), [replica_set(0)], []) == Done()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"readyReplicas": 1, "currentRevision": "a", "updateRevision": "a"}, Done()),
        (
            {"currentRevision": "a", "updateRevision": "a"},
            Waiting("waiting for pods: 0 of 1 ready"),
        ),
        (
            {"readyReplicas": 1, "currentRevision": "a", "updateRevision": "b"},
            Waiting("waiting for the rollout: 0 of 1 updated"),
        ),
    ],
)
def test_a_stateful_set_needs_ready_pods_of_the_new_revision(
    status: dict[str, Any], expected: Status
) -> None:
    obj = {
        "metadata": {"uid": "s", "generation": 1},
        "spec": {"replicas": 1},
        "status": {"observedGeneration": 1, **status},
    }
    assert readiness.stateful_set_status(obj, []) == expected


def test_a_daemon_set_needs_its_pod_on_every_node() -> None:
    obj: dict[str, Any] = {
        "metadata": {"uid": "s", "generation": 1},
        "status": {
            "observedGeneration": 1,
            "desiredNumberScheduled": 3,
            "updatedNumberScheduled": 3,
            "numberReady": 2,
        },
    }
    assert readiness.daemon_set_status(obj, []) == Waiting("waiting for pods: 2 of 3 ready")
    obj["status"]["numberReady"] = 3
    assert readiness.daemon_set_status(obj, []) == Done()


SLICE = {"endpoints": [{"addresses": ["10.0.0.1"]}]}


@pytest.mark.parametrize(
    ("spec", "slices", "expected"),
    [
        ({"selector": {"app": "api"}}, [SLICE], Done()),
        (
            {"selector": {"app": "api"}},
            [{"endpoints": None}],
            Waiting("waiting for pods to direct traffic to (app=api)"),
        ),
        ({"selector": {"app": "redis"}, "clusterIP": "None"}, [], Done()),
        ({"type": "ExternalName"}, [], Done()),
        ({"clusterIP": "10.43.0.9"}, [], Done()),
        (
            {"selector": {"app": "api"}, "type": "LoadBalancer"},
            [SLICE],
            Waiting("waiting for a load balancer's address"),
        ),
    ],
)
def test_a_service_with_a_selector_needs_endpoints(
    spec: dict[str, Any], slices: list[Any], expected: Status
) -> None:
    assert readiness.service_status({"spec": spec}, slices) == expected


def test_an_ingress_needs_its_services_and_an_address() -> None:
    backend = {"service": {"name": "api"}}
    ingress: dict[str, Any] = {"spec": {"rules": [{"http": {"paths": [{"backend": backend}]}}]}}
    service = {"metadata": {"name": "api"}}
    assert readiness.ingress_status(ingress, []) == Waiting(
        "waiting for the Service 'api' that a rule names"
    )
    assert readiness.ingress_status(ingress, [service]) == Waiting(
        "waiting for an ingress controller to publish an address"
    )
    ingress["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}
    assert readiness.ingress_status(ingress, [service]) == Done()


def test_a_claim_of_a_class_that_waits_for_its_consumer_is_done() -> None:
    pending = {"status": {"phase": "Pending"}}
    late = {"volumeBindingMode": "WaitForFirstConsumer"}
    assert readiness.claim_status(pending, late) == Done()
    assert readiness.claim_status(pending, None) == Waiting("waiting for a volume")
    assert readiness.claim_status({"status": {"phase": "Bound"}}, None) == Done()


def test_a_job_ends_in_its_completion_or_in_its_failure() -> None:
    done = {"status": {"conditions": [condition("Complete")]}}
    failed = condition("Failed", reason="BackoffLimitExceeded", message="too many failures")
    assert readiness.job_status(done, []) == Done()
    assert readiness.job_status({"status": {"conditions": [failed]}}, []) == Failed(
        "[BackoffLimitExceeded] too many failures"
    )
    assert readiness.job_status({"metadata": {"uid": "j"}}, []) == Waiting(
        "waiting for the job: 0 of 1 complete"
    )


def test_a_custom_resource_definition_is_done_once_its_kind_is_served() -> None:
    assert readiness.definition_status({}) == Waiting(
        "waiting for the API server to serve the kind"
    )
    served = {"status": {"conditions": [condition("NamesAccepted"), condition("Established")]}}
    assert readiness.definition_status(served) == Done()
    refused = condition("NamesAccepted", "False", reason="ListKindConflict", message="in use")
    assert readiness.definition_status({"status": {"conditions": [refused]}}) == Failed(
        "[ListKindConflict] in use"
    )


def container(**more: Any) -> dict[str, Any]:
    return {"name": "api", **more}


@pytest.mark.parametrize(
    ("status", "trouble"),
    [
        ({"phase": "Running"}, None),
        (
            {"containerStatuses": [container(state={"waiting": {"reason": "ContainerCreating"}})]},
            None,
        ),
        (
            {
                "conditions": [
                    condition("PodScheduled", "False", reason="Unschedulable", message="0/3 nodes")
                ]
            },
            "Unschedulable: 0/3 nodes",
        ),
        (
            {
                "containerStatuses": [
                    container(
                        state={"waiting": {"reason": "CrashLoopBackOff"}},
                        lastState={"terminated": {"exitCode": 137}},
                    )
                ]
            },
            "container api: CrashLoopBackOff (last exit code 137)",
        ),
        (
            {"initContainerStatuses": [container(state={"terminated": {"exitCode": 2}})]},
            "container api: Error (exit code 2)",
        ),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "low on memory"},
            "Evicted: low on memory",
        ),
    ],
)
def test_what_is_wrong_with_a_pod_is_said_in_a_line(
    status: dict[str, Any], trouble: str | None
) -> None:
    assert readiness.pod_trouble({"status": status}) == trouble


def test_the_latest_warnings_about_an_object_come_last() -> None:
    def event(
        reason: str, when: str, name: str = "api-1", type_: str = "Warning"
    ) -> dict[str, Any]:
        return {
            "type": type_,
            "reason": reason,
            "message": "why\nand how",
            "lastTimestamp": when,
            "involvedObject": {"kind": "Pod", "name": name},
        }

    events = [
        event("Late", "2026-01-02T00:00:00Z"),
        event("Early", "2026-01-01T00:00:00Z"),
        event("Other", "2026-01-01T00:00:00Z", name="else"),
        event("Fine", "2026-01-01T00:00:00Z", type_="Normal"),
    ]
    assert readiness.warnings_about(events, frozenset({"api-1"})) == [
        "Early Pod/api-1: why and how",
        "Late Pod/api-1: why and how",
    ]
