"""What counts as a change of a Kubernetes resource, and which changes replace it."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rehearsal.engine.provider import UNKNOWN, Diff, Properties
from rehearsal.providers.kubernetes import managers
from rehearsal.providers.kubernetes.diff import provider_diff, resource_diff
from rehearsal.providers.kubernetes.values import differences, path_text, prune, wire


def deployment(**spec: Any) -> Properties:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "api", "namespace": "honeydue"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "api"}},
            "template": {
                "metadata": {"labels": {"app": "api"}},
                "spec": {
                    "containers": [
                        {
                            "name": "api",
                            "image": "registry/api:1",
                            "resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}},
                        }
                    ]
                },
            },
            **spec,
        },
    }


def config_map(name: str = "config", **more: Any) -> Properties:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "honeydue"},
        "data": {"A": "1"},
        **more,
    }


def diff(old: Properties, new: Properties, live: Properties | None = None, **options: Any) -> Diff:
    return resource_diff(old, live or copy.deepcopy(old), new, namespaced=True, **options)


def as_served(inputs: Properties) -> Properties:
    """What an API server makes of the deployment above: defaults, canonical quantities, status."""
    live = copy.deepcopy(inputs)
    live["metadata"] |= {"uid": "1", "generation": 1, "resourceVersion": "7", "managedFields": []}
    live["spec"] |= {"revisionHistoryLimit": 10, "strategy": {"type": "RollingUpdate"}}
    container = live["spec"]["template"]["spec"]["containers"][0]
    container["imagePullPolicy"] = "IfNotPresent"
    container["resources"]["requests"] = {"cpu": "500m", "memory": "1Gi"}
    live["status"] = {"replicas": 3}
    return live


def test_what_the_server_defaults_or_spells_differently_is_no_change() -> None:
    inputs = deployment()
    assert diff(inputs, inputs, as_served(inputs)) == Diff()


def test_numbers_that_pulumi_sends_as_doubles_are_no_change() -> None:
    assert diff(deployment(), deployment(replicas=3.0)) == Diff()


def test_a_refresh_keeps_the_programs_spelling_and_takes_the_clusters_values() -> None:
    inputs = deployment()
    live = as_served(inputs)
    live["spec"]["replicas"] = 5
    seen = prune(live, inputs)
    requests = {"cpu": "0.5", "memory": "1024Mi"}
    assert seen["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"] == requests
    assert seen["spec"]["replicas"] == 5
    assert diff(seen, inputs, live).changed == ("spec.replicas",)


def test_a_zero_that_the_server_leaves_out_is_no_change() -> None:
    inputs = {**config_map(), "globalDefault": False}
    assert diff(inputs, inputs, config_map()) == Diff()
    assert prune(config_map(), inputs, before=config_map()) == inputs


def test_a_false_that_the_program_adds_is_a_change() -> None:
    new = {**config_map(), "automountServiceAccountToken": False}
    assert diff(config_map(), new).changed == ("automountServiceAccountToken",)


def test_a_false_that_somebody_removed_is_found_by_a_refresh() -> None:
    inputs = {**config_map(), "automountServiceAccountToken": False}
    seen = prune(config_map(), inputs, before=inputs)
    assert diff(seen, inputs, config_map()).changed == ("automountServiceAccountToken",)


def test_a_sidecar_that_was_injected_is_not_our_change() -> None:
    inputs = deployment()
    live = as_served(inputs)
    live["spec"]["template"]["spec"]["containers"].append({"name": "mesh", "image": "mesh:1"})
    assert diff(inputs, inputs, live) == Diff()


def test_a_changed_image_is_an_update_at_its_path() -> None:
    new = deployment()
    new["spec"]["template"]["spec"]["containers"][0]["image"] = "registry/api:2"
    assert diff(deployment(), new) == Diff(("spec.template.spec.containers[0].image",))


def test_a_changed_selector_replaces_and_deletes_first_because_the_name_is_fixed() -> None:
    new = deployment(selector={"matchLabels": {"app": "other"}})
    path = "spec.selector.matchLabels.app"
    assert diff(deployment(), new) == Diff((path,), (path,), delete_before_replace=True)


def test_a_selector_that_goes_away_with_its_parent_replaces() -> None:
    new = deployment()
    del new["spec"]
    result = diff(deployment(), new)
    assert any(path.startswith("spec") for path in result.replaces)


def test_an_autonamed_object_is_replaced_create_first() -> None:
    old = deployment()
    del old["metadata"]["name"]
    old["metadata"]["annotations"] = {"pulumi.com/autonamed": "true"}
    live = copy.deepcopy(old)
    live["metadata"]["name"] = "api-1a2b3c4d"
    new = copy.deepcopy(old)
    new["spec"]["selector"] = {"matchLabels": {"app": "other"}}
    result = resource_diff(old, live, new, namespaced=True)
    assert result.replaces
    assert not result.delete_before_replace


def test_changed_data_of_a_config_map_is_a_replacement() -> None:
    new = config_map(data={"A": "2"})
    assert diff(config_map(), new) == Diff(("data.A",), ("data.A",), delete_before_replace=True)


def test_changed_data_under_a_new_name_is_a_create_first_replacement() -> None:
    new = config_map("config-2", data={"A": "2"})
    result = diff(config_map(), new)
    assert result.replaces == ("data.A", "metadata.name")
    assert not result.delete_before_replace


def test_a_mutable_config_map_is_updated_unless_the_object_says_immutable() -> None:
    new = config_map(data={"A": "2"})
    assert diff(config_map(), new, mutable_config_maps=True) == Diff(("data.A",))
    fixed = config_map(immutable=True)
    new = config_map(immutable=True, data={"A": "2"})
    assert diff(fixed, new, mutable_config_maps=True).replaces == ("data.A",)


def secret(**more: Any) -> Properties:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s", "namespace": "honeydue"},
        **more,
    }


def test_string_data_that_the_server_moved_to_data_is_no_change() -> None:
    inputs = secret(stringData={"KEY": "value"})
    live = secret(data={"KEY": base64.b64encode(b"value").decode()}, type="Opaque")
    assert diff(inputs, inputs, live) == Diff()


def test_changed_string_data_is_a_replacement() -> None:
    live = secret(data={"KEY": base64.b64encode(b"value").decode()})
    old, new = secret(stringData={"KEY": "value"}), secret(stringData={"KEY": "other"})
    assert diff(old, new, live).replaces == ("data.KEY",)


def test_wrapped_base64_is_no_change_in_a_secret_but_is_one_in_a_config_map() -> None:
    old, new = secret(data={"K": "dmFsdWU="}), secret(data={"K": "dmFs\ndWU=\n"})
    assert diff(old, new) == Diff()
    plain = config_map(data={"K": "dmFsdWU="})
    assert diff(plain, config_map(data={"K": "dmFs\ndWU=\n"})).changed == ("data.K",)


def test_an_unknown_value_counts_as_changed_and_replaces_where_a_change_would() -> None:
    assert diff(deployment(), deployment(replicas=UNKNOWN)) == Diff(("spec.replicas",))
    assert diff(config_map(), config_map(data=UNKNOWN)).replaces == ("data",)


def test_an_omitted_namespace_is_the_default_one() -> None:
    old, new = config_map(), config_map()
    old["metadata"]["namespace"] = "default"
    del new["metadata"]["namespace"]
    assert diff(old, new) == Diff()


def test_a_moved_namespace_is_a_create_first_replacement() -> None:
    new = config_map()
    new["metadata"]["namespace"] = "elsewhere"
    path = ("metadata.namespace",)
    assert diff(config_map(), new) == Diff(path, path, delete_before_replace=False)


def test_an_empty_map_that_the_server_drops_is_no_change() -> None:
    inputs = config_map()
    inputs["metadata"]["annotations"] = {}
    assert diff(inputs, inputs, config_map()) == Diff()


def test_a_label_with_dots_is_written_as_pulumi_writes_it() -> None:
    assert path_text(("metadata", "labels", "a.b/c", 0)) == 'metadata.labels["a.b/c"][0]'


@pytest.mark.parametrize(
    ("kind", "api", "old", "new", "replaces"),
    [
        ("Service", "v1", {"spec": {"clusterIP": "None"}}, {"spec": {}}, True),
        ("Service", "v1", {"spec": {"type": "ClusterIP"}}, {"spec": {"type": "NodePort"}}, False),
        (
            "StatefulSet",
            "apps/v1",
            {"spec": {"serviceName": "a"}},
            {"spec": {"serviceName": "b"}},
            True,
        ),
        ("StatefulSet", "apps/v1", {"spec": {"replicas": 1}}, {"spec": {"replicas": 2}}, False),
        (
            "Job",
            "batch/v1",
            {"spec": {"template": {"x": 1}}},
            {"spec": {"template": {"x": 2}}},
            True,
        ),
        ("Secret", "v1", {"type": "Opaque"}, {"type": "x/y"}, True),
        (
            "RoleBinding",
            "rbac.authorization.k8s.io/v1",
            {"roleRef": {"name": "a"}},
            {"roleRef": {"name": "b"}},
            True,
        ),
        ("PriorityClass", "scheduling.k8s.io/v1", {"value": 1}, {"value": 2}, False),
        (
            "Pod",
            "v1",
            {"spec": {"containers": [{"image": "a"}]}},
            {"spec": {"containers": [{"image": "b"}]}},
            True,
        ),
    ],
)
def test_the_fields_that_force_a_replacement_are_the_plugins(
    kind: str, api: str, old: Properties, new: Properties, replaces: bool
) -> None:
    identity = {"apiVersion": api, "kind": kind, "metadata": {"name": "x", "namespace": "y"}}
    result = diff({**identity, **old}, {**identity, **new})
    assert result.changed
    assert bool(result.replaces) is replaces


json_values = st.recursive(
    st.booleans() | st.integers(-5, 5) | st.text("ab1m", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner),
    max_leaves=8,
)


@given(json_values)
def test_a_value_never_differs_from_itself(value: Any) -> None:
    assert list(differences(value, copy.deepcopy(value))) == []


@given(json_values, json_values)
def test_pruning_to_a_shape_twice_is_pruning_once(live: Any, shape: Any) -> None:
    once = prune(live, shape)
    assert prune(once, shape) == once


def test_what_is_sent_has_whole_numbers_and_no_nulls() -> None:
    assert wire({"a": 3.0, "b": None, "c": [1.5, {"d": None}]}) == {"a": 3, "c": [1.5, {}]}


# --- the provider resource itself ---


def kubeconfig(server: str) -> str:
    return f"""
current-context: a
contexts: [{{name: a, context: {{cluster: a}}}}]
clusters: [{{name: a, cluster: {{server: "{server}"}}}}]
"""


def test_a_changed_server_replaces_the_provider_without_a_cluster_identifier() -> None:
    old, new = {"kubeconfig": kubeconfig("https://1")}, {"kubeconfig": kubeconfig("https://2")}
    assert provider_diff(old, new) == Diff(("kubeconfig",), ("kubeconfig",))


def test_a_cluster_identifier_that_stays_prevents_every_replacement() -> None:
    old = {"kubeconfig": kubeconfig("https://1"), "clusterIdentifier": "honeydue"}
    for kubeconfig_now in (kubeconfig("https://2"), UNKNOWN):
        new = {**old, "kubeconfig": kubeconfig_now}
        assert provider_diff(old, new) == Diff(("kubeconfig",))


def test_an_unknown_kubeconfig_replaces_the_provider_without_a_cluster_identifier() -> None:
    old = {"kubeconfig": kubeconfig("https://1")}
    assert provider_diff(old, {"kubeconfig": UNKNOWN}).replaces == ("kubeconfig",)


def test_a_changed_cluster_identifier_replaces_the_provider() -> None:
    old, new = {"clusterIdentifier": "a"}, {"clusterIdentifier": "b"}
    assert provider_diff(old, new).replaces == ("clusterIdentifier",)


def test_a_new_client_certificate_of_the_same_cluster_is_an_update() -> None:
    old = {"kubeconfig": kubeconfig("https://1")}
    new = {"kubeconfig": kubeconfig("https://1") + "users: [{name: a, user: {token: t}}]"}
    assert provider_diff(old, new) == Diff(("kubeconfig",))


# --- field managers ---


def entry(manager: str, operation: str, fields: dict[str, Any], **more: str) -> dict[str, Any]:
    return {"manager": manager, "operation": operation, "fieldsV1": fields, **more}


def test_the_fields_of_our_create_and_of_kubectl_edit_are_handed_to_our_apply() -> None:
    live = {
        "metadata": {
            "managedFields": [
                entry("pulumi-kubernetes-1", "Update", {"f:spec": {"f:replicas": {}}}),
                entry("kubectl-edit", "Update", {"f:spec": {"f:paused": {}}}),
                entry("kube-controller-manager", "Update", {}, subresource="status"),
            ]
        }
    }
    moved = managers.handed_over(live, "pulumi-kubernetes-1")
    assert moved == [
        entry("kube-controller-manager", "Update", {}, subresource="status"),
        entry("pulumi-kubernetes-1", "Apply", {"f:spec": {"f:paused": {}, "f:replicas": {}}}),
    ]


def test_what_kubectl_scale_owns_stays_with_it() -> None:
    live = {
        "metadata": {
            "managedFields": [
                entry("pulumi-kubernetes-1", "Apply", {"f:spec": {}}),
                entry("kubectl", "Update", {"f:spec": {"f:replicas": {}}}, subresource="scale"),
            ]
        }
    }
    assert managers.handed_over(live, "pulumi-kubernetes-1") is None


def test_a_field_manager_is_named_as_the_plugin_names_it() -> None:
    assert managers.new_name() != managers.new_name()
    assert len(managers.new_name()) == len("pulumi-kubernetes-1a2b3c4d")
