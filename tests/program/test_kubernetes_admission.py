"""The admission policies: what the program declares. Whether they hold, tests/rehearsal/
test_admission.py asks a real API server."""

from __future__ import annotations

import asyncio
import re
import runpy
from typing import Any

import pulumi
import pytest

from honeydue import settings as honeydue_settings
from honeydue.kubernetes import admission
from honeydue.kubernetes.admission_policy import SHAPES, policies
from honeydue.versions import PINNED_IMAGES, REDIS_IMAGE
from tests.settings import sample

from .cluster_program import IMAGES, agrees_with_golden, containers, workloads
from .production import cloudflare_says, vendor
from .recording import Recorded, Recording, record
from .test_whole_program import MAIN

OURS = policies(server="gitea.treytartt.com", namespace="admin", pinned=PINNED_IMAGES)

POLICY = "kubernetes:admissionregistration.k8s.io/v1:ValidatingAdmissionPolicy"
BINDING = f"{POLICY}Binding"


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Recording:
    monkeypatch.setattr(
        honeydue_settings, "load", lambda: sample.settings(sample.config("redis", sample.GONE))
    )
    return record(lambda: runpy.run_path(str(MAIN)), outputs=vendor, call=cloudflare_says)


def test_the_policies_are_what_the_golden_file_says() -> None:
    agrees_with_golden("admission-policies.yaml", [one.policy for one in OURS])


@pytest.mark.parametrize("image", PINNED_IMAGES)
def test_what_is_pinned_is_pinned_by_digest(image: str) -> None:
    assert re.fullmatch(r"[^@]+@sha256:[0-9a-f]{64}", image)
    assert ":latest" not in image


def test_a_pinned_image_without_a_digest_is_a_bug_that_names_its_place() -> None:
    with pytest.raises(ValueError, match=r"redis:8 is pinned without .*honeydue/versions\.py"):
        policies(server="r", namespace="n", pinned=["redis:8"])


@pytest.mark.parametrize("workload", workloads().values(), ids=workloads())
def test_what_the_program_runs_is_its_own_or_pinned(workload: Recorded) -> None:
    for container in containers(workload):
        assert container["image"] in {*IMAGES.values(), *PINNED_IMAGES}


def test_every_kind_that_a_trusted_controller_makes_pods_of_is_itself_looked_at() -> None:
    """Otherwise a template of that kind would be a way around the policies."""
    makes_out_of = {
        "replicaset-controller": "replicasets",
        "replication-controller": "replicationcontrollers",
        "statefulset-controller": "statefulsets",
        "daemon-set-controller": "daemonsets",
        "job-controller": "jobs",
        "deployment-controller": "deployments",
        "cronjob-controller": "cronjobs",
    }
    trusted = {maker for shape in SHAPES for maker in shape.makers}
    looked_at = {r for shape in SHAPES for _, resources, _ in shape.rules for r in resources}
    assert {makes_out_of[maker] for maker in trusted} <= looked_at


@pytest.mark.parametrize("one", OURS, ids=lambda one: one.name)
def test_it_fails_closed_and_denies(one: Any) -> None:
    assert one.policy["spec"]["failurePolicy"] == "Fail"
    assert one.binding["spec"] == {"policyName": one.name, "validationActions": ["Deny"]}


@pytest.mark.parametrize(
    "field", ["containers", "initContainers", "ephemeralContainers", "volumes"]
)
@pytest.mark.parametrize("one", OURS, ids=lambda one: one.name)
def test_every_place_that_names_an_image_is_looked_at(one: Any, field: str) -> None:
    """Image volumes are off in Kubernetes 1.34, so that the rehearsal's API server cannot be asked
    about them; but they will come with an upgrade."""
    images = one.policy["spec"]["variables"][0]["expression"]
    assert re.search(rf"\.\??{field}\b", images)


def test_the_registry_of_the_settings_is_the_one_that_is_admitted(whole: Recording) -> None:
    for policy in whole.all(POLICY):
        (refused,) = (v for v in policy.inputs["spec"]["variables"] if v["name"] == "refused")
        assert 'i.startsWith("gitea.treytartt.com/admin/honeydue-")' in refused["expression"]
        assert REDIS_IMAGE in refused["expression"]


def test_each_policy_is_bound_once_it_is_there(whole: Recording) -> None:
    for policy in whole.all(POLICY):
        name = policy.inputs["metadata"]["name"]
        (binding,) = (b for b in whole.all(BINDING) if b.inputs["spec"]["policyName"] == name)
        assert policy.urn in binding.depends_on
    assert len(whole.all(POLICY)) == len(whole.all(BINDING)) == len(SHAPES)


def test_they_change_in_place_and_go_with_the_program(whole: Recording) -> None:
    for resource in (*whole.all(POLICY), *whole.all(BINDING)):
        assert resource.provider
        assert not resource.retain_on_delete
        assert not resource.delete_before_replace
        assert resource.inputs["metadata"]["labels"]["app.kubernetes.io/part-of"] == "honeydue"


def test_whatever_makes_pods_comes_after_every_policy(whole: Recording) -> None:
    """A changed pin or registry has to be allowed before it is asked for."""
    rules = {resource.urn for resource in (*whole.all(POLICY), *whole.all(BINDING))}
    makers = [*whole.all("Deployment"), *whole.all("StatefulSet")]
    assert len(makers) == 4
    for maker in makers:
        assert rules <= whole.closure(maker)


def settled(monkeypatch: pytest.MonkeyPatch, outputs: dict[str, Any] | None) -> list[float]:
    """How long the hook waits."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    args = pulumi.ResourceHookArgs(urn="", id="", name="", type="", new_outputs=outputs)
    asyncio.run(admission.settle(args))
    return waits


@pytest.mark.parametrize("outputs", [{"metadata": {"generation": 2}}, {"metadata": {}}, None])
def test_a_changed_policy_is_given_time_to_come_into_force(
    monkeypatch: pytest.MonkeyPatch, outputs: dict[str, Any] | None
) -> None:
    assert settled(monkeypatch, outputs) == [admission.SETTLE_SECONDS]


def test_a_first_policy_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settled(monkeypatch, {"metadata": {"generation": 1.0}}) == []
