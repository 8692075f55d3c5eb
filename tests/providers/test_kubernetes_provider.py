"""The Kubernetes provider without a cluster: options, checks, and when none answers."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rehearsal.engine.provider import UNKNOWN, Context, Properties, ProviderError
from rehearsal.providers import load
from rehearsal.providers.kubernetes import KubernetesProvider
from rehearsal.providers.kubernetes.kubeconfig import parse
from tests.providers import api_server

NAMESPACE = "kubernetes:core/v1:Namespace"
DEPLOYMENT = "kubernetes:apps/v1:Deployment"
CONFIG_MAP = "kubernetes:core/v1:ConfigMap"
HELM_CHART_CONFIG = "kubernetes:helm.cattle.io/v1:HelmChartConfig"


@pytest.fixture(autouse=True)
def _no_options_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("PULUMI_K8S_"):
            monkeypatch.delenv(name)


def context(*, dry_run: bool = False) -> Context:
    return Context(urn="urn:pulumi:test::honeydue::type::config", dry_run=dry_run)


def kubeconfig_of(port: int) -> str:
    return f"""
current-context: a
contexts: [{{name: a, context: {{cluster: a, user: a}}}}]
clusters: [{{name: a, cluster: {{server: "https://127.0.0.1:{port}"}}}}]
users: [{{name: a, user: {{token: secret-token}}}}]
"""


@pytest.fixture
def nobody_listens() -> Iterator[str]:
    """A kubeconfig of a port of loopback that refuses connections: it is held, so that nobody else
    can have it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield kubeconfig_of(held.getsockname()[1])


@pytest.fixture
def unreachable(nobody_listens: str) -> KubernetesProvider:
    return KubernetesProvider({"kubeconfig": nobody_listens})


def checked(type_: str, inputs: Properties) -> Properties:
    result, failures = KubernetesProvider({"kubeconfig": UNKNOWN}).check(type_, None, inputs)
    assert failures == []
    return result


def failures_of(type_: str, inputs: Properties) -> list[tuple[str, str]]:
    _, failures = KubernetesProvider({"kubeconfig": UNKNOWN}).check(type_, None, inputs)
    return [(failure.property, failure.reason) for failure in failures]


# --- configuration ---


@pytest.mark.parametrize("kubeconfig", ["", "  \n", None])
def test_an_empty_kubeconfig_is_refused_instead_of_using_the_laptops_context(
    kubeconfig: str | None,
) -> None:
    with pytest.raises(ProviderError, match=r"kubeconfig: it is empty.*\$KUBECONFIG"):
        KubernetesProvider({"kubeconfig": kubeconfig})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("secret-word", "it is no YAML or JSON object"),
        ("a: [secret-word", "it is no YAML or JSON object"),
        ("{}", "it has no current-context"),
        ("current-context: a", "it has no context 'a'"),
        (
            "{current-context: a, contexts: [{name: a, context: {cluster: b}}]}",
            "its cluster 'b' is missing or has no server",
        ),
        (kubeconfig_of(1).replace("token:", "exec:"), "it uses 'exec'"),
        (
            kubeconfig_of(1).replace("token: ", "client-key-data: secret-"),
            "its client-key-data is not base64",
        ),
    ],
)
def test_an_unusable_kubeconfig_is_refused_without_quoting_it(text: str, why: str) -> None:
    with pytest.raises(ProviderError) as refusal:
        parse({"kubeconfig": text})
    assert str(refusal.value).startswith(f"kubeconfig: {why}")
    assert "secret" not in str(refusal.value)


def test_the_client_key_is_in_no_message_and_on_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))  # writing a file there would fail
    text = api_server.credentials(tmp_path, 6443)
    before = sorted(tmp_path.iterdir())
    connection = parse({"kubeconfig": text})
    connection.tls()
    assert sorted(tmp_path.iterdir()) == before
    assert "PRIVATE" not in repr(connection)


def test_a_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    text = api_server.kubeconfig_text("https://127.0.0.1:1", b"no PEM", b"x", b"y")
    with pytest.raises(ProviderError, match="certificate-authority-data is no PEM certificate"):
        parse({"kubeconfig": text}).tls()
    good = api_server.credentials(tmp_path, 1)
    ca = (tmp_path / "ca.crt").read_bytes()
    assert good
    text = api_server.kubeconfig_text("https://127.0.0.1:1", ca, ca, b"no key")
    with pytest.raises(ProviderError, match="no matching PEM pair"):
        parse({"kubeconfig": text}).tls()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("renderYamlToDirectory", "/tmp/x"),
        ("kubeConfig", "x"),
        ("enableServerSideApply", "false"),
        ("skipUpdateUnreachable", True),
    ],
)
def test_an_option_that_is_unknown_or_unsupported_is_refused_by_name(
    option: str, value: Any
) -> None:
    with pytest.raises(ProviderError, match=option):
        KubernetesProvider({"kubeconfig": UNKNOWN, option: value})


def test_the_package_is_loaded_by_name() -> None:
    assert isinstance(load("kubernetes", {"kubeconfig": UNKNOWN}), KubernetesProvider)


# --- check ---


def test_a_misspelt_property_is_a_failure_with_the_near_name() -> None:
    spec = {"selector": {}, "template": {"spec": {"containers": [{"name": "a", "imagee": "b"}]}}}
    found = failures_of(DEPLOYMENT, {"metadata": {"name": "x"}, "spec": spec})
    path = "spec.template.spec.containers[0].imagee"
    assert found == [(path, "unknown property; did you mean 'image'?")]


def test_a_missing_and_a_wrongly_typed_property_are_failures() -> None:
    spec = {"template": {}, "replicas": "3"}
    found = failures_of(DEPLOYMENT, {"metadata": {"name": "x"}, "spec": spec})
    assert ("spec.selector", "is required") in found
    assert ("spec.replicas", "must be a whole number, not a string") in found


@pytest.mark.parametrize(
    "type_",
    [
        "kubernetes:networking.k8s.io/v1:Ingress",
        "kubernetes:networking.k8s.io/v1:NetworkPolicy",
        "kubernetes:policy/v1:PodDisruptionBudget",
        "kubernetes:scheduling.k8s.io/v1:PriorityClass",
        "kubernetes:rbac.authorization.k8s.io/v1:RoleBinding",
        "kubernetes:admissionregistration.k8s.io/v1:ValidatingAdmissionPolicy",
        "kubernetes:batch/v1:Job",
    ],
)
def test_the_sdks_own_declaration_is_found_for_every_group(type_: str) -> None:
    found = failures_of(type_, {"metadata": {"name": "x"}, "nonsense": 1})
    assert ("nonsense", "unknown property") in found


def test_a_kind_that_the_sdk_does_not_have_is_a_failure() -> None:
    ((path, reason),) = failures_of("kubernetes:apps/v1:Deploiment", {})
    assert path == ""
    assert "not a type" in reason


@pytest.mark.parametrize(
    "type_",
    [
        "kubernetes:helm.sh/v3:Release",
        "kubernetes:apps/v1:DeploymentPatch",
        "kubernetes:core/v1:PodList",
    ],
)
def test_what_is_no_plain_object_is_refused(type_: str) -> None:
    assert "does not support" in failures_of(type_, {})[0][1]


def test_a_custom_resource_may_have_any_fields() -> None:
    inputs = checked(
        HELM_CHART_CONFIG, {"metadata": {"name": "traefik"}, "spec": {"valuesContent": "a: 1"}}
    )
    assert inputs["apiVersion"] == "helm.cattle.io/v1"
    assert inputs["kind"] == "HelmChartConfig"


def test_no_label_is_added_and_only_an_autonamed_object_is_annotated() -> None:
    assert checked(NAMESPACE, {"metadata": {"name": "a"}})["metadata"] == {"name": "a"}
    annotations = checked(NAMESPACE, {})["metadata"]["annotations"]
    assert annotations == {"pulumi.com/autonamed": "true"}


def test_the_providers_namespace_is_given_to_namespaced_kinds_only() -> None:
    provider = KubernetesProvider({"kubeconfig": UNKNOWN, "namespace": "honeydue"})
    made, _ = provider.check(CONFIG_MAP, None, {"metadata": {"name": "a"}})
    assert made["metadata"]["namespace"] == "honeydue"
    made, _ = provider.check(NAMESPACE, None, {"metadata": {"name": "a"}})
    assert "namespace" not in made["metadata"]


def test_generate_name_and_annotations_without_effect_here_are_refused() -> None:
    metadata = {"generateName": "a-", "annotations": {"pulumi.com/waitFor": "jsonpath={.x}"}}
    paths = [path for path, _ in failures_of(CONFIG_MAP, {"metadata": metadata})]
    assert paths == ["metadata.generateName", 'metadata.annotations["pulumi.com/waitFor"]']


# --- no cluster ---


def test_a_change_of_the_provider_itself_is_judged_by_the_provider(
    unreachable: KubernetesProvider, nobody_listens: str
) -> None:
    old = {"kubeconfig": nobody_listens, "clusterIdentifier": "a"}
    new = {**old, "clusterIdentifier": "b"}
    change = unreachable.diff("pulumi:providers:kubernetes", "id", old, old, new)
    assert change.replaces == ("clusterIdentifier",)


def config_map(name: str = "a") -> Properties:
    return checked(CONFIG_MAP, {"metadata": {"name": name}, "data": {"A": "1"}})


def test_an_unknown_kubeconfig_previews_everything_without_a_cluster() -> None:
    provider = KubernetesProvider({"kubeconfig": UNKNOWN, "clusterIdentifier": "honeydue"})
    id_, outputs = provider.create(CONFIG_MAP, config_map(), context(dry_run=True))
    assert id_ == ""
    assert outputs["data"] == {"A": "1"}
    assert outputs["metadata"]["name"] == "a"
    assert outputs["metadata"]["uid"] is UNKNOWN


def test_a_refused_connection_previews_a_create_in_silence(unreachable: KubernetesProvider) -> None:
    _, outputs = unreachable.create(CONFIG_MAP, config_map(), context(dry_run=True))
    assert outputs["data"] == {"A": "1"}


def test_an_unchanged_program_previews_as_unchanged_while_the_cluster_is_down(
    unreachable: KubernetesProvider,
) -> None:
    inputs = config_map()
    assert unreachable.diff(CONFIG_MAP, "default/a", inputs, inputs, inputs).changed == ()


def test_up_names_the_cluster_that_cannot_be_reached(unreachable: KubernetesProvider) -> None:
    with pytest.raises(
        ProviderError,
        match=r"^configured Kubernetes cluster is unreachable: https://127\.0\.0\.1:\d+: .*refused",
    ) as error:
        unreachable.create(CONFIG_MAP, config_map(), context())
    assert "secret-token" not in str(error.value)


def test_refresh_and_destroy_name_the_mend_for_a_lost_cluster(
    unreachable: KubernetesProvider,
) -> None:
    inputs = config_map()
    with pytest.raises(ProviderError, match="PULUMI_K8S_DELETE_UNREACHABLE=true"):
        unreachable.read(CONFIG_MAP, "default/a", inputs, inputs, context())
    with pytest.raises(ProviderError, match="PULUMI_K8S_DELETE_UNREACHABLE=true"):
        unreachable.delete(CONFIG_MAP, "default/a", inputs, inputs, context())


def test_delete_unreachable_drops_a_lost_clusters_objects(
    nobody_listens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULUMI_K8S_DELETE_UNREACHABLE", "true")
    provider = KubernetesProvider({"kubeconfig": nobody_listens})
    inputs = config_map()
    assert provider.read(CONFIG_MAP, "default/a", inputs, inputs, context()) is None
    provider.delete(CONFIG_MAP, "default/a", inputs, inputs, context())


def test_the_providers_own_option_wins_over_the_environment(
    nobody_listens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULUMI_K8S_DELETE_UNREACHABLE", "true")
    inputs = {"kubeconfig": nobody_listens, "deleteUnreachable": "false"}
    with pytest.raises(ProviderError, match="unreachable"):
        KubernetesProvider(inputs).read(CONFIG_MAP, "default/a", {}, {}, context())


def test_there_are_no_functions(unreachable: KubernetesProvider) -> None:
    with pytest.raises(ProviderError, match="decodeYaml"):
        unreachable.invoke("kubernetes:yaml:decodeYaml", {})
