"""The Kubernetes provider against a real API server, with real controllers and a kwok node."""

from __future__ import annotations

import copy
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from honeydue.kubernetes.admission_policy import policies
from honeydue.kubernetes.provider import FIELD_OWNER
from honeydue.versions import PINNED_IMAGES
from ops.api import FIELD_MANAGER
from ops.daily import RESTARTED
from rehearsal.engine.provider import UNKNOWN, Context, Diff, Properties, ProviderError
from rehearsal.providers.kubernetes import KubernetesProvider, await_
from rehearsal.providers.kubernetes.client import APPLY, MERGE, Client
from rehearsal.providers.kubernetes.kubeconfig import parse
from rehearsal.providers.kubernetes.values import has_unknown, wire
from tests.program.cluster_program import declared
from tests.providers import api_server

pytestmark = pytest.mark.cluster

NAMESPACE = "kubernetes:core/v1:Namespace"
CONFIG_MAP = "kubernetes:core/v1:ConfigMap"
SECRET = "kubernetes:core/v1:Secret"
SERVICE = "kubernetes:core/v1:Service"
DEPLOYMENT = "kubernetes:apps/v1:Deployment"
STATEFUL_SET = "kubernetes:apps/v1:StatefulSet"
INGRESS = "kubernetes:networking.k8s.io/v1:Ingress"
HELM_CHART_CONFIG = "kubernetes:helm.cattle.io/v1:HelmChartConfig"


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with api_server.running(tmp_path_factory.mktemp("kubernetes")) as text:
        yield text


@pytest.fixture
def provider(kubeconfig: str, monkeypatch: pytest.MonkeyPatch) -> KubernetesProvider:
    for name in os.environ:
        if name.startswith("PULUMI_K8S_"):
            monkeypatch.delenv(name)
    made = KubernetesProvider({"kubeconfig": kubeconfig, "clusterIdentifier": "test"})
    made.retry_seconds = ()
    return made


@pytest.fixture
def api(kubeconfig: str) -> Client:
    """The operator's own hands: kubectl, so to speak."""
    return Client(parse({"kubeconfig": kubeconfig}))


@pytest.fixture
def namespace(provider: KubernetesProvider) -> str:
    """A namespace of the test's own. It stays: the cluster goes at the end anyway."""
    name = f"test-{secrets.token_hex(4)}"
    inputs, failures = provider.check(NAMESPACE, None, {"metadata": {"name": name}})
    assert not failures
    assert provider.create(NAMESPACE, inputs, context())[0] == name
    return name


class Lines(list[str]):
    """Progress lines, from whichever thread."""


class Clock:
    """Of a wait: it stands still until `seen`, and one look later its time is over."""

    def __init__(self, seen: Callable[[], bool]) -> None:
        self._seen, self._times = seen, 0
        self.sleep = time.sleep

    def monotonic(self) -> float:
        self._times += self._seen()
        return 3600.0 * max(self._times - 1, 0)


def context(
    *, dry_run: bool = False, timeout: float | None = None, lines: Lines | None = None
) -> Context:
    sink = lines if lines is not None else Lines()
    return Context(
        urn="urn:pulumi:test::honeydue::type::thing",
        dry_run=dry_run,
        timeout=timeout,
        progress=sink.append,
    )


def checked(provider: KubernetesProvider, type_: str, inputs: Properties) -> Properties:
    result, failures = provider.check(type_, None, inputs)
    assert failures == []
    return result


def deployment(namespace: str, *, image: str = "registry/api:1", replicas: int = 2) -> Properties:
    labels = {"app.kubernetes.io/name": "api"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "api", "namespace": namespace, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "securityContext": {},
                    "containers": [
                        {
                            "name": "api",
                            "image": image,
                            "env": [{"name": "LOG", "value": "info"}],
                            "ports": [{"containerPort": 8000}],
                            "resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}},
                        }
                    ],
                },
            },
        },
    }


def config_map(namespace: str, **data: str) -> Properties:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "config", "namespace": namespace},
        "data": data or {"A": "1"},
    }


def test_a_deployment_rolls_out_previews_as_unchanged_and_rolls_again(
    provider: KubernetesProvider, namespace: str
) -> None:
    inputs = checked(provider, DEPLOYMENT, deployment(namespace))
    lines = Lines()
    id_, outputs = provider.create(DEPLOYMENT, inputs, context(lines=lines))
    assert id_ == f"{namespace}/api"
    assert outputs["status"]["readyReplicas"] == 2
    assert all(line.startswith("waiting for ") for line in lines)
    assert provider.diff(DEPLOYMENT, id_, inputs, outputs, inputs) == Diff()

    new = deployment(namespace, image="registry/api:2", replicas=3)
    change = provider.diff(DEPLOYMENT, id_, inputs, outputs, new)
    assert change == Diff(("spec.replicas", "spec.template.spec.containers[0].image"))
    preview = provider.update(DEPLOYMENT, id_, inputs, outputs, new, context(dry_run=True))
    assert preview["spec"]["replicas"] == 3
    assert preview["spec"]["revisionHistoryLimit"] == 10  # the server's own default
    assert preview["status"] is UNKNOWN
    assert not has_unknown(preview["metadata"])  # else whatever names its namespace is replaced
    after = provider.update(DEPLOYMENT, id_, inputs, outputs, new, context())
    assert after["status"]["readyReplicas"] == 3
    assert after["__fieldManager"] == outputs["__fieldManager"]
    assert provider.diff(DEPLOYMENT, id_, new, after, new) == Diff()

    seen = provider.read(DEPLOYMENT, id_, new, after, context())
    assert seen is not None
    assert seen[0] == new
    assert provider.diff(DEPLOYMENT, id_, *seen, new) == Diff()


def test_a_create_preview_asks_the_server_without_making_anything(
    provider: KubernetesProvider, namespace: str
) -> None:
    id_, outputs = provider.create(CONFIG_MAP, config_map(namespace), context(dry_run=True))
    assert id_ == ""
    assert outputs["metadata"]["namespace"] == namespace
    assert outputs["metadata"]["uid"] is UNKNOWN
    assert provider.read(CONFIG_MAP, f"{namespace}/config", {}, {}, context()) is None


def test_a_preview_in_a_namespace_that_is_not_there_yet_is_the_inputs(
    provider: KubernetesProvider,
) -> None:
    _, outputs = provider.create(CONFIG_MAP, config_map("nowhere"), context(dry_run=True))
    assert outputs["data"] == {"A": "1"}


def test_a_preview_of_what_the_server_would_refuse_fails(
    provider: KubernetesProvider, namespace: str
) -> None:
    wrong = deployment(namespace)
    wrong["spec"]["selector"]["matchLabels"] = {"app": "other"}
    with pytest.raises(ProviderError, match=r"would not be created: .*selector"):
        provider.create(DEPLOYMENT, wrong, context(dry_run=True))


def test_an_object_that_exists_is_an_error_unless_it_may_be_taken_over(
    provider: KubernetesProvider, kubeconfig: str, namespace: str
) -> None:
    inputs = config_map(namespace)
    provider.create(CONFIG_MAP, inputs, context())
    with pytest.raises(ProviderError, match=r"already exists\. .*UPSERT_EXISTING_OBJECTS=true"):
        provider.create(CONFIG_MAP, inputs, context())
    taker = KubernetesProvider({"kubeconfig": kubeconfig, "upsertExistingObjects": "true"})
    id_, outputs = taker.create(CONFIG_MAP, inputs, context())
    assert taker.diff(CONFIG_MAP, id_, inputs, outputs, inputs) == Diff()


@pytest.mark.parametrize(("manager", "conflicts"), [(FIELD_OWNER, False), ("", True)])
def test_what_a_killed_up_has_made_is_taken_over_and_then_changed_like_any_other(
    kubeconfig: str, namespace: str, manager: str, conflicts: bool
) -> None:
    """The plugin makes up a manager at each create, and what the first one owns would stay its own:
    neither to be changed without a conflict, nor ever to be dropped."""
    inputs = config_map(namespace, A="1", B="2")
    new = config_map(namespace, A="9")
    if manager:
        annotations = {"pulumi.com/patchFieldManager": manager}
        inputs["metadata"]["annotations"] = new["metadata"]["annotations"] = annotations
    for _ in ("killed before its state was written", "run again"):
        taker = KubernetesProvider({"kubeconfig": kubeconfig, "upsertExistingObjects": True})
        id_, outputs = taker.create(CONFIG_MAP, inputs, context())
    if conflicts:
        with pytest.raises(ProviderError, match=r'conflict with "pulumi-kubernetes-.*data\.A'):
            taker.update(CONFIG_MAP, id_, inputs, outputs, new, context())
        return
    after = taker.update(CONFIG_MAP, id_, inputs, outputs, new, context())
    assert after["data"] == {"A": "9"}
    assert taker.diff(CONFIG_MAP, id_, new, after, new) == Diff()


def test_another_field_manager_takes_the_fields_of_the_one_before(
    provider: KubernetesProvider, api: Client, namespace: str
) -> None:
    inputs = config_map(namespace)
    id_, outputs = provider.create(CONFIG_MAP, inputs, context())
    new = config_map(namespace)
    new["metadata"]["annotations"] = {"pulumi.com/patchFieldManager": FIELD_OWNER}
    after = provider.update(CONFIG_MAP, id_, inputs, outputs, new, context())
    assert after["__fieldManager"] == FIELD_OWNER
    live = api.request("GET", f"/api/v1/namespaces/{namespace}/configmaps/config")
    assert {entry["manager"] for entry in live["metadata"]["managedFields"]} == {FIELD_OWNER}
    assert live["data"] == new["data"]


def test_what_kubectl_edit_changed_is_found_by_a_refresh_and_put_right(
    provider: KubernetesProvider, api: Client, namespace: str
) -> None:
    inputs = config_map(namespace, A="1", B="2")
    id_, outputs = provider.create(CONFIG_MAP, inputs, context())
    path = f"/api/v1/namespaces/{namespace}/configmaps/config"
    edit = {"data": {"A": "edited"}}
    api.request(
        "PATCH", path, query={"fieldManager": "kubectl-edit"}, body=edit, content_type=MERGE
    )
    seen = provider.read(CONFIG_MAP, id_, inputs, outputs, context())
    assert seen is not None
    assert seen[0]["data"] == {"A": "edited", "B": "2"}
    assert provider.diff(CONFIG_MAP, id_, *seen, inputs).changed == ("data.A",)
    after = provider.update(CONFIG_MAP, id_, *seen, inputs, context())
    assert after["data"] == {"A": "1", "B": "2"}


@pytest.mark.parametrize(("manager", "stays"), [(FIELD_MANAGER, True), ("kubectl-rollout", False)])
def test_a_restart_by_ops_is_neither_undone_nor_repeated_by_the_next_up(
    provider: KubernetesProvider, api: Client, namespace: str, manager: str, stays: bool
) -> None:
    """One by kubectl is: an `up` that changes an annotation of the Deployment rolls its pods."""
    inputs = deployment(namespace, replicas=0)
    id_, outputs = provider.create(DEPLOYMENT, inputs, context())
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/api"
    at = {RESTARTED: "2026-11-22T03:00:00Z"}
    restart = {"spec": {"template": {"metadata": {"annotations": at}}}}
    api.request("PATCH", path, query={"fieldManager": manager}, body=restart, content_type=MERGE)
    seen = provider.read(DEPLOYMENT, id_, inputs, outputs, context())
    assert seen is not None
    assert provider.diff(DEPLOYMENT, id_, *seen, inputs).changed == ()
    tagged = copy.deepcopy(inputs)
    tagged["metadata"]["annotations"] = {"honeydue.com/image-tag": "237c6b8"}
    after = provider.update(DEPLOYMENT, id_, *seen, tagged, context())
    assert after["spec"]["template"]["metadata"].get("annotations") == (at if stays else None)


def test_what_kubectl_scale_changed_is_a_conflict_with_its_mend(
    provider: KubernetesProvider, api: Client, namespace: str
) -> None:
    inputs = deployment(namespace, replicas=1)
    id_, outputs = provider.create(DEPLOYMENT, inputs, context())
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/api/scale"
    scale = {"spec": {"replicas": 2}}  # (0 is left out of a Scale and so owned by nobody)
    api.request("PATCH", path, query={"fieldManager": "kubectl"}, body=scale, content_type=MERGE)
    seen = provider.read(DEPLOYMENT, id_, inputs, outputs, context())
    assert seen is not None
    assert provider.diff(DEPLOYMENT, id_, *seen, inputs).changed == ("spec.replicas",)
    with pytest.raises(
        ProviderError, match=r'conflict with "kubectl".*spec\.replicas.*patchForce'
    ) as refused:
        provider.update(DEPLOYMENT, id_, *seen, inputs, context())
    # As the plugin's: the state gets the new inputs over this, so the next `up` tries them again.
    assert refused.value.id == id_
    assert refused.value.outputs is not None
    assert refused.value.outputs["spec"]["replicas"] == 2
    forced = copy.deepcopy(inputs)
    forced["metadata"]["annotations"] = {"pulumi.com/patchForce": "true"}
    assert provider.update(DEPLOYMENT, id_, *seen, forced, context())["spec"]["replicas"] == 1


def test_a_field_that_the_program_drops_is_dropped_from_the_object(
    provider: KubernetesProvider, namespace: str
) -> None:
    old = config_map(namespace)
    old["metadata"]["labels"] = {"gone": "soon", "stays": "here"}
    id_, outputs = provider.create(CONFIG_MAP, old, context())
    new = config_map(namespace)
    new["metadata"]["labels"] = {"stays": "here"}
    after = provider.update(CONFIG_MAP, id_, old, outputs, new, context())
    assert after["metadata"]["labels"] == {"stays": "here"}


def test_a_deployment_that_fails_is_kept_and_its_pods_are_named(
    provider: KubernetesProvider, api: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = Lines()

    def seen() -> bool:
        events = api.request("GET", f"/api/v1/namespaces/{namespace}/events")["items"]
        reasons = {event["reason"] for event in events}
        return "Unschedulable" in "".join(lines) and "FailedScheduling" in reasons

    inputs = deployment(namespace, replicas=1)
    inputs["spec"]["template"]["spec"]["nodeSelector"] = {"disk": "of-gold"}
    monkeypatch.setattr(await_, "time", Clock(seen))
    with pytest.raises(ProviderError) as failure:
        provider.create(DEPLOYMENT, inputs, context(timeout=3, lines=lines))
    message = str(failure.value)
    assert "timed out after 3 s while waiting for pods: 0 of 1 ready" in message
    assert "pod api-" in message
    assert "Unschedulable" in message
    assert "event FailedScheduling Pod/api-" in message
    assert failure.value.id == f"{namespace}/api"
    assert failure.value.outputs is not None
    assert failure.value.outputs["metadata"]["name"] == "api"


def test_an_exceeded_deadline_ends_the_wait(provider: KubernetesProvider, namespace: str) -> None:
    inputs = deployment(namespace, replicas=1)
    inputs["spec"]["progressDeadlineSeconds"] = 1
    inputs["spec"]["template"]["spec"]["nodeSelector"] = {"disk": "of-gold"}
    with pytest.raises(ProviderError, match=r"\[ProgressDeadlineExceeded\]"):
        provider.create(DEPLOYMENT, inputs, context(timeout=600))


def test_a_cancelled_wait_keeps_the_object(provider: KubernetesProvider, namespace: str) -> None:
    inputs = deployment(namespace, replicas=1)
    inputs["spec"]["template"]["spec"]["nodeSelector"] = {"disk": "of-gold"}
    pressed = threading.Event()

    def interrupt(_line: str) -> None:
        pressed.set()

    ctx = Context(urn="urn:a::b", progress=interrupt, cancelled=pressed.is_set)
    with pytest.raises(ProviderError, match="cancelled while waiting") as failure:
        provider.create(DEPLOYMENT, inputs, ctx)
    assert failure.value.id == f"{namespace}/api"


def service(namespace: str, **metadata: Any) -> Properties:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "api", "namespace": namespace, **metadata},
        "spec": {
            "selector": {"app.kubernetes.io/name": "api"},
            "ports": [{"name": "http", "port": 80, "targetPort": 8000}],
        },
    }


def test_a_service_waits_for_endpoints_unless_told_otherwise(
    provider: KubernetesProvider, namespace: str
) -> None:
    with pytest.raises(ProviderError, match="waiting for pods to direct traffic to"):
        provider.create(SERVICE, service(namespace), context(timeout=1))
    skipped = service(namespace, annotations={"pulumi.com/skipAwait": "true"})
    skipped["metadata"]["name"] = "other"
    id_, outputs = provider.create(SERVICE, skipped, context())
    assert provider.diff(SERVICE, id_, skipped, outputs, skipped) == Diff()


def test_a_service_with_pods_is_ready_and_keeps_its_address_through_an_update(
    provider: KubernetesProvider, namespace: str
) -> None:
    provider.create(DEPLOYMENT, deployment(namespace, replicas=1), context())
    inputs = service(namespace)
    preview = provider.create(SERVICE, inputs, context(dry_run=True))[1]
    assert preview["spec"]["clusterIP"] is UNKNOWN
    id_, outputs = provider.create(SERVICE, inputs, context())
    new = copy.deepcopy(inputs)
    new["spec"]["ports"][0]["port"] = 8080
    after = provider.update(SERVICE, id_, inputs, outputs, new, context())
    assert after["spec"]["clusterIP"] == outputs["spec"]["clusterIP"]
    assert after["spec"]["ports"][0]["port"] == 8080
    assert provider.diff(SERVICE, id_, new, after, new) == Diff()


def test_an_ingress_waits_for_its_services_and_then_for_an_address(
    provider: KubernetesProvider, api: Client, namespace: str
) -> None:
    backend = {"service": {"name": "api", "port": {"number": 80}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    inputs: Properties = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {"rules": [{"host": "api.test", "http": {"paths": [path]}}]},
    }
    with pytest.raises(ProviderError, match="waiting for the Service 'api' that a rule names"):
        provider.create(INGRESS, inputs, context(timeout=1))
    api.request("POST", f"/api/v1/namespaces/{namespace}/services", body=service(namespace))
    status = {"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}}
    address = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/web/status"
    new = copy.deepcopy(inputs)
    new["metadata"]["labels"] = {"seen": "true"}
    with pytest.raises(ProviderError, match="waiting for an ingress controller"):
        provider.update(INGRESS, f"{namespace}/web", inputs, inputs, new, context(timeout=1))
    api.request("PATCH", address, body=status, content_type=MERGE)
    after = provider.update(INGRESS, f"{namespace}/web", inputs, inputs, new, context())
    assert after["status"] == status["status"]


def test_a_stateful_set_becomes_ready_and_is_deleted(
    provider: KubernetesProvider, namespace: str
) -> None:
    inputs = deployment(namespace, replicas=1)
    inputs["kind"] = "StatefulSet"
    inputs["spec"]["serviceName"] = "redis"
    id_, outputs = provider.create(STATEFUL_SET, inputs, context())
    assert outputs["status"]["readyReplicas"] == 1
    new = copy.deepcopy(inputs)
    new["spec"]["template"]["spec"]["containers"][0]["image"] = "registry/redis:2"
    after = provider.update(STATEFUL_SET, id_, inputs, outputs, new, context())
    assert after["status"]["currentRevision"] == after["status"]["updateRevision"]
    provider.delete(STATEFUL_SET, id_, new, after, context())
    assert provider.read(STATEFUL_SET, id_, new, after, context()) is None


def test_a_secrets_values_reach_the_cluster_and_no_message(
    provider: KubernetesProvider, namespace: str
) -> None:
    canary = "canary-7f3a"
    inputs: Properties = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "keys", "namespace": namespace},
        "immutable": True,
        "stringData": {"KEY": canary},
    }
    lines = Lines()
    id_, outputs = provider.create(SECRET, inputs, context(lines=lines))
    assert provider.diff(SECRET, id_, inputs, outputs, inputs) == Diff()
    seen = provider.read(SECRET, id_, inputs, outputs, context(lines=lines))
    assert seen is not None
    assert seen[0] == inputs
    wrong = {**inputs, "stringData": {f"bad key {canary}": canary}}
    wrong["metadata"] = {"name": "other", "namespace": namespace}
    with pytest.raises(ProviderError) as refusal:
        provider.create(SECRET, wrong, context(lines=lines))
    assert canary not in str(refusal.value)
    assert canary not in "".join(lines)


def test_a_custom_resource_is_made_without_waiting_and_an_unknown_kind_is_named(
    provider: KubernetesProvider,
) -> None:
    inputs = checked(
        provider,
        HELM_CHART_CONFIG,
        {
            "metadata": {"name": "traefik", "namespace": "kube-system"},
            "spec": {"valuesContent": "deployment:\n  kind: DaemonSet\n"},
        },
    )
    id_, outputs = provider.create(HELM_CHART_CONFIG, inputs, context())
    assert provider.diff(HELM_CHART_CONFIG, id_, inputs, outputs, inputs) == Diff()
    with pytest.raises(ProviderError, match='no matches for kind "Middleware"'):
        provider.create(
            "kubernetes:traefik.io/v1alpha1:Middleware",
            {"apiVersion": "traefik.io/v1alpha1", "kind": "Middleware", "metadata": {"name": "m"}},
            context(),
        )


def test_a_field_that_a_custom_resource_does_not_have_is_said_in_the_progress(
    provider: KubernetesProvider, namespace: str
) -> None:
    lines = Lines()
    provider.create(
        HELM_CHART_CONFIG,
        {
            "apiVersion": "helm.cattle.io/v1",
            "kind": "HelmChartConfig",
            "metadata": {"name": "typo", "namespace": namespace},
            "spec": {"valuesContents": "a: 1"},
        },
        context(lines=lines),
    )
    assert 'warning: unknown field "spec.valuesContents"' in lines


def test_an_object_without_a_name_gets_one_and_keeps_it(
    provider: KubernetesProvider, namespace: str
) -> None:
    declared = {"metadata": {"namespace": namespace}, "data": {"A": "1"}}
    inputs = checked(provider, CONFIG_MAP, declared)
    id_, outputs = provider.create(CONFIG_MAP, inputs, context())
    name = outputs["metadata"]["name"]
    assert name.startswith("thing-")
    assert len(name) == len("thing-") + 8
    again, _ = provider.check(CONFIG_MAP, inputs, declared)
    assert provider.diff(CONFIG_MAP, id_, inputs, outputs, again) == Diff()
    changed, _ = provider.check(CONFIG_MAP, inputs, {**declared, "data": {"A": "2"}})
    result = provider.diff(CONFIG_MAP, id_, inputs, outputs, changed)
    assert result.replaces == ("data.A",)
    assert not result.delete_before_replace


def test_deleting_waits_for_finalizers_and_says_which(
    provider: KubernetesProvider, api: Client, namespace: str
) -> None:
    inputs = config_map(namespace)
    inputs["metadata"] |= {"finalizers": ["honeydue.test/hold"]}
    id_, outputs = provider.create(CONFIG_MAP, inputs, context())
    with pytest.raises(ProviderError, match=r"was not deleted.*honeydue\.test/hold"):
        provider.delete(CONFIG_MAP, id_, inputs, outputs, context(timeout=1))
    path = f"/api/v1/namespaces/{namespace}/configmaps/config"
    api.request("PATCH", path, body={"metadata": {"finalizers": None}}, content_type=MERGE)
    provider.delete(CONFIG_MAP, id_, inputs, outputs, context())


def test_deleting_what_is_gone_is_no_error(provider: KubernetesProvider, namespace: str) -> None:
    provider.delete(CONFIG_MAP, f"{namespace}/never", config_map(namespace), {}, context())


def test_a_namespace_is_gone_when_its_deletion_returns(
    provider: KubernetesProvider, namespace: str
) -> None:
    provider.create(CONFIG_MAP, config_map(namespace), context())
    inputs = {"metadata": {"name": namespace}}
    provider.delete(NAMESPACE, namespace, inputs, {}, context())
    assert provider.read(NAMESPACE, namespace, inputs, {}, context()) is None


def test_reachability_is_decided_once(kubeconfig: str) -> None:
    nowhere = re.sub(r"https://[\d.]+:", "https://127.0.0.77:", kubeconfig)
    provider = KubernetesProvider({"kubeconfig": nowhere})
    for _ in range(2):
        with pytest.raises(ProviderError, match="unreachable"):
            provider.delete(CONFIG_MAP, "default/a", {}, {}, context())


def test_a_replacement_previews_where_existing_objects_are_taken_over(
    kubeconfig: str, namespace: str
) -> None:
    taker = KubernetesProvider({"kubeconfig": kubeconfig, "upsertExistingObjects": True})
    fixed = {**config_map(namespace), "immutable": True}
    taker.create(CONFIG_MAP, fixed, context())
    new = {**config_map(namespace, A="2"), "immutable": True}
    assert taker.create(CONFIG_MAP, new, context(dry_run=True))[1]["data"] == {"A": "2"}


# --- the program's own objects ---


def test_the_api_server_keeps_every_object_as_the_program_spells_it(
    api: Client, provider: KubernetesProvider
) -> None:
    """So no preview shows a difference that is none, however a plugin of some version compares: all
    that the server adds are fields that the program does not name."""
    objects = [r.inputs for r in declared(strict=True) if r.type.startswith("kubernetes:")]
    objects += [
        {"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, **each}
        for made in policies(server="registry.test", namespace="admin", pinned=PINNED_IMAGES)
        for kind, each in (
            ("ValidatingAdmissionPolicy", made.policy),
            ("ValidatingAdmissionPolicyBinding", made.binding),
        )
    ]
    (home,) = (each for each in objects if each["kind"] == "Namespace")
    provider.create(NAMESPACE, home, context())
    for inputs in objects:
        kind = api.kind(inputs["apiVersion"], inputs["kind"])
        path = kind.path(inputs["metadata"].get("namespace"), inputs["metadata"]["name"])
        query = {"fieldManager": "test", "dryRun": "All", "force": "true"}
        kept = api.request("PATCH", path, query=query, body=wire(inputs), content_type=APPLY)
        assert _named_in(inputs, kept) == inputs, path


def _named_in(inputs: Any, kept: Any) -> Any:
    """Of what the server keeps all that the inputs name."""
    if isinstance(inputs, dict) and isinstance(kept, dict):
        return {key: _named_in(value, kept.get(key)) for key, value in inputs.items()}
    if isinstance(inputs, list) and isinstance(kept, list) and len(inputs) == len(kept):
        return [_named_in(one, other) for one, other in zip(inputs, kept, strict=True)]
    return kept


# --- what a lost create has made ---


def test_a_lost_create_is_found_by_its_name_when_this_provider_made_it(
    provider: KubernetesProvider, namespace: str, api: Client
) -> None:
    data = {"metadata": {"name": "lost", "namespace": namespace}, "data": {"a": "1"}}
    inputs = checked(provider, CONFIG_MAP, data)
    assert provider.find(CONFIG_MAP, inputs, context()) is None
    id_, outputs = provider.create(CONFIG_MAP, inputs, context())
    assert provider.find(CONFIG_MAP, inputs, context()) == (id_, outputs)
    # The engine then updates it, and its fields stay one manager's.
    changed = checked(provider, CONFIG_MAP, {**data, "data": {"b": "2"}})
    updated = provider.update(CONFIG_MAP, id_, inputs, outputs, changed, context())
    assert updated["data"] == {"b": "2"}

    path = f"/api/v1/namespaces/{namespace}/configmaps"
    kubectls = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kubectls"}}
    api.request("POST", path, query={"fieldManager": "kubectl-create"}, body=kubectls)
    theirs = {**inputs, "metadata": {"name": "kubectls", "namespace": namespace}}
    assert provider.find(CONFIG_MAP, theirs, context()) is None
    assert provider.find(NAMESPACE, checked(provider, NAMESPACE, {}), context()) is None
