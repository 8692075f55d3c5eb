"""Every object goes through the one provider, into the one namespace."""

from __future__ import annotations

import ast
from pathlib import Path

import pulumi
import pytest

from honeydue.kubernetes.provider import FIELD_OWNER, never_empty

from .cluster_program import declared
from .recording import Recorded

PURE = ("capacity", "catalogue", "hashing", "network_rules", "redis_manifests", "traefik_values")
CLUSTER_WIDE = {
    "kubernetes:core/v1:Namespace",
    "kubernetes:scheduling.k8s.io/v1:PriorityClass",
    "kubernetes:helm.cattle.io/v1:HelmChartConfig",  # K3s' own namespace
}

# Sorted: the order of registration is not the same in each of the processes that collect tests.
objects = sorted(
    (r for r in declared(strict=True) if r.type.startswith("kubernetes:")), key=lambda r: r.name
)
every_object = pytest.mark.parametrize("resource", objects, ids=[r.name for r in objects])


def test_no_resource_falls_back_to_a_default_provider() -> None:
    for resource in declared(strict=True):
        if resource.custom and not resource.type.startswith("pulumi:providers:"):
            assert resource.provider, resource.name


@every_object
def test_every_object_uses_the_explicit_provider(resource: Recorded) -> None:
    provider = declared(strict=True).one("pulumi:providers:kubernetes")
    assert resource.provider.startswith(provider.urn)


@every_object
def test_every_object_is_in_the_namespace_and_dies_with_it(resource: Recorded) -> None:
    namespace = declared(strict=True).one("kubernetes:core/v1:Namespace")
    if resource.type in CLUSTER_WIDE:
        assert resource.deleted_with == ""
        return
    assert resource.inputs["metadata"]["namespace"] == namespace.inputs["metadata"]["name"]
    assert resource.deleted_with == namespace.urn
    assert namespace.urn in declared(strict=True).closure(resource)


@every_object
def test_every_object_has_an_explicit_name_and_a_parent(resource: Recorded) -> None:
    # Without one Pulumi adds a random suffix, and nobody finds it at three in the morning.
    assert resource.inputs["metadata"]["name"]
    assert ":honeydue:kubernetes:" in resource.parent.replace("$", ":")


@every_object
def test_every_object_has_one_field_manager_whoever_makes_it_and_however_often(
    resource: Recorded,
) -> None:
    annotations = resource.inputs["metadata"]["annotations"]
    assert annotations["pulumi.com/patchFieldManager"] == FIELD_OWNER


def test_the_provider_waits_for_the_gate_and_survives_a_new_kubeconfig() -> None:
    recording = declared()
    provider = recording.one("pulumi:providers:kubernetes")
    assert recording.named("gate").urn in provider.depends_on
    assert (
        "kubeconfig" not in provider.property_dependencies
        or not (provider.property_dependencies["kubeconfig"])
    ), "the gate orders, it must not make the kubeconfig unknown"
    assert provider.inputs["clusterIdentifier"] == "honeydue-test"
    assert provider.inputs["enableServerSideApply"] == "true"
    assert provider.inputs["upsertExistingObjects"] == "true"
    # These would hide a dead cluster: only ever by the environment of the one rebuild command.
    assert not {"deleteUnreachable", "skipUpdateUnreachable"} & set(provider.inputs)


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_kubeconfig_never_becomes_the_operators_own_context(empty: str) -> None:
    with pytest.raises(pulumi.RunError, match="kubeconfig is empty"):
        never_empty(empty)
    assert never_empty("apiVersion: v1") == "apiVersion: v1"


@pytest.mark.parametrize("module", PURE)
def test_renderers_are_plain_functions_without_pulumi(module: str) -> None:
    path = Path("honeydue/kubernetes") / f"{module}.py"
    tree = ast.parse((Path(__file__).parents[2] / path).read_text())
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not any(name.startswith("pulumi") for name in names), f"{path}: {names}"
