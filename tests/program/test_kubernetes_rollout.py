"""How pods are judged, replaced, spread and ended, so that nobody notices a deploy or a drain."""

from __future__ import annotations

import pytest

from honeydue.kubernetes.catalogue import NAME, PRIORITIES, WORKLOADS

from .cluster_program import containers, declared, pod, selects, template, workloads
from .recording import Recorded

every_workload = pytest.mark.parametrize("workload", workloads().values(), ids=workloads())
every_deployment = pytest.mark.parametrize(
    "workload",
    [w for w in workloads().values() if w.type.endswith(":Deployment")],
    ids=[name for name, w in workloads().items() if w.type.endswith(":Deployment")],
)


@every_workload
def test_whatever_listens_has_three_probes_and_liveness_only_opens_a_connection(
    workload: Recorded,
) -> None:
    for container in containers(workload):
        probes = {key for key in container if key.endswith("Probe")}
        if container.get("ports"):
            assert probes == {"startupProbe", "readinessProbe", "livenessProbe"}
            assert "tcpSocket" in container["livenessProbe"]
        else:
            # Then there is nothing to ask; the rollout waits for the pod to stay up instead.
            assert probes == set()
            assert workload.inputs["spec"]["minReadySeconds"] >= 10


def test_a_first_boot_may_wait_240_seconds_for_the_migration_lock() -> None:
    (api,) = containers(workloads()["api"])
    probe = api["startupProbe"]
    assert probe["failureThreshold"] == 48
    assert probe["failureThreshold"] * probe["periodSeconds"] == 240


def test_the_admin_panel_is_asked_at_its_root() -> None:
    (admin,) = containers(workloads()["admin"])
    assert admin["startupProbe"]["failureThreshold"] == 24
    for probe in ("startupProbe", "readinessProbe"):
        assert admin[probe]["httpGet"] == {"path": "/", "port": "http"}


@every_workload
def test_no_probe_shows_a_password_in_the_process_list(workload: Recorded) -> None:
    for container in containers(workload):
        assert "sh" not in container.get("command", [])
        for key in ("startupProbe", "readinessProbe", "livenessProbe"):
            command = container.get(key, {}).get("exec", {}).get("command", [])
            assert command in ([], ["redis-cli", "-e", "ping"])


@every_deployment
def test_a_rollout_takes_none_away_before_a_new_one_is_ready(workload: Recorded) -> None:
    spec = workload.inputs["spec"]
    if workload.inputs["metadata"]["name"] == "worker":
        assert spec["strategy"] == {"type": "Recreate"}, "two schedulers at once (docs/adr/0006)"
        assert spec["replicas"] == 1
    else:
        assert spec["strategy"] == {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
        }
        assert spec["replicas"] >= 2


@every_deployment
def test_a_rollout_has_ten_minutes_ten_revisions_and_a_patient_pulumi(workload: Recorded) -> None:
    spec = workload.inputs["spec"]
    assert spec["progressDeadlineSeconds"] == 600
    assert spec["revisionHistoryLimit"] == 10
    create, update, _ = workload.custom_timeouts
    for patience in (create, update):
        seconds = int(patience.removesuffix("s"))
        assert seconds > spec["progressDeadlineSeconds"], "Kubernetes must give up first"
    (probe,) = [c.get("startupProbe") for c in containers(workload)]
    if probe:
        boot = probe["failureThreshold"] * probe["periodSeconds"]
        assert boot < spec["progressDeadlineSeconds"]


@every_workload
def test_pods_are_labelled_and_selected_by_name(workload: Recorded) -> None:
    name = workload.inputs["metadata"]["name"]
    assert workload.inputs["spec"]["selector"] == {"matchLabels": {NAME: name}}
    for labels in (workload.inputs["metadata"]["labels"], template(workload)["metadata"]["labels"]):
        assert labels[NAME] == name
        assert labels["app.kubernetes.io/part-of"] == "honeydue"


@every_workload
def test_replicas_of_one_revision_stand_on_different_nodes(workload: Recorded) -> None:
    name = workload.inputs["metadata"]["name"]
    constraints = pod(workload).get("topologySpreadConstraints", [])
    if workload.inputs["spec"]["replicas"] == 1:
        assert constraints == []
        return
    (constraint,) = constraints
    assert constraint["topologyKey"] == "kubernetes.io/hostname"
    assert constraint["maxSkew"] == 1
    assert constraint["matchLabelKeys"] == ["pod-template-hash"]
    assert selects(constraint["labelSelector"], name)
    # Else a dead node would count as empty, and its pods could go nowhere.
    assert constraint["nodeTaintsPolicy"] == "Honor"


@every_workload
def test_whatever_is_behind_a_service_waits_before_it_stops(workload: Recorded) -> None:
    grace = pod(workload)["terminationGracePeriodSeconds"]
    assert 30 <= grace <= 120
    for container in containers(workload):
        if container.get("ports"):
            sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            assert 5 <= sleep <= grace - 20, "the rest of the grace period is for the work itself"


def test_a_priority_whose_value_changes_takes_nothing_along() -> None:
    # It keeps its name, so it is deleted before it is made again, and so would be whatever has a
    # property from it: everything in the namespace, once.
    classes = {c.urn for c in declared().all("kubernetes:scheduling.k8s.io/v1:PriorityClass")}
    assert classes
    for r in declared():
        for properties, urns in r.property_dependencies.items():
            assert not urns & classes, f"{r.name}.{properties}"


def test_worker_and_admin_roll_only_when_the_api_is_healthy() -> None:
    api = workloads()["api"]
    for name in ("worker", "admin"):
        assert api.urn in workloads()[name].depends_on
        assert workloads()[name].urn not in declared().closure(api)


@every_workload
def test_a_workload_waits_for_its_priority(workload: Recorded) -> None:
    chosen = pod(workload)["priorityClassName"]
    (its,) = (
        c
        for c in declared().all("kubernetes:scheduling.k8s.io/v1:PriorityClass")
        if c.inputs["metadata"]["name"] == chosen
    )
    assert its.urn in workload.depends_on


@every_workload
def test_every_workload_has_a_priority_that_exists(workload: Recorded) -> None:
    classes = {
        c.inputs["metadata"]["name"]: c.inputs
        for c in declared().all("kubernetes:scheduling.k8s.io/v1:PriorityClass")
    }
    assert set(classes) == set(PRIORITIES)
    chosen = classes[pod(workload)["priorityClassName"]]
    assert 0 < chosen["value"] < 1_000_000_000, "above are the system's own"
    assert "globalDefault" not in chosen, "what names no class stays at zero"


@every_workload
def test_a_drain_takes_at_most_one_and_never_hangs(workload: Recorded) -> None:
    name = workload.inputs["metadata"]["name"]
    budgets = [
        b.inputs["spec"]
        for b in declared().all("kubernetes:policy/v1:PodDisruptionBudget")
        if selects(b.inputs["spec"]["selector"], name)
    ]
    (budget,) = budgets  # two budgets over one pod make every eviction an error
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    if name == "worker":
        assert budget["minAvailable"] == 0
    else:
        assert budget["maxUnavailable"] == 1


@every_workload
def test_each_workload_listens_on_its_own_port_whatever_the_shared_env_file_says(
    workload: Recorded,
) -> None:
    ports = {w.name: w.port for w in WORKLOADS}
    name = workload.inputs["metadata"]["name"]
    if ports.get(name) is None:
        return
    (container,) = containers(workload)
    assert {"name": "PORT", "value": str(ports[name])} in container["env"]
