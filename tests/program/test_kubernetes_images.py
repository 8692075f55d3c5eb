"""Images are pinned: what runs tomorrow is what was deployed today."""

from __future__ import annotations

import re

import pytest

from honeydue.images.references import repository
from honeydue.kubernetes.catalogue import PULL_SECRET

from .cluster_program import IMAGES, containers, declared, pod, workloads
from .recording import Recorded

every_workload = pytest.mark.parametrize("workload", workloads().values(), ids=workloads())

PINNED = re.compile(
    r"gitea\.treytartt\.com/admin/honeydue-(api|worker|admin)"
    r"@sha256:[0-9a-f]{64}"
    r"|docker\.io/library/redis:\d+\.\d+\.\d+-alpine@sha256:[0-9a-f]{64}"
)


@every_workload
def test_every_image_is_a_commit_or_a_digest_from_a_registry_we_know(workload: Recorded) -> None:
    for container in containers(workload):
        assert PINNED.fullmatch(container["image"]), container["image"]
        assert container["imagePullPolicy"] == "IfNotPresent"


@every_workload
def test_private_images_are_pulled_with_the_pull_secret(workload: Recorded) -> None:
    private = any(c["image"].startswith("gitea.") for c in containers(workload))
    assert pod(workload).get("imagePullSecrets", []) == ([{"name": PULL_SECRET}] if private else [])


@pytest.mark.parametrize("service", IMAGES)
def test_each_workload_runs_its_own_image_and_history_says_which(service: str) -> None:
    workload = workloads()[service]
    (container,) = containers(workload)
    assert container["image"] == IMAGES[service]
    annotations = workload.inputs["metadata"]["annotations"]
    assert annotations["kubernetes.io/change-cause"] == IMAGES[service]


def test_the_pull_secret_is_a_docker_login_of_that_name() -> None:
    secret = declared().named("configuration-pull")
    assert secret.inputs["metadata"]["name"] == "gitea-credentials"
    assert secret.inputs["type"] == "kubernetes.io/dockerconfigjson"
    assert list(secret.inputs["data"]) == [".dockerconfigjson"]


@pytest.mark.parametrize("service", IMAGES)
def test_the_tag_stands_beside_the_deployment_and_changes_no_pod(service: str) -> None:
    before, after = workloads()[service], workloads(declared(tag="8f14e45"))[service]
    assert after.inputs["metadata"]["annotations"]["honeydue.com/image-tag"] == "8f14e45"
    assert before.inputs["metadata"] != after.inputs["metadata"]
    assert before.inputs["spec"] == after.inputs["spec"]


@pytest.mark.parametrize("service", IMAGES)
def test_an_image_given_by_digest_alone_has_no_tag_to_tell(service: str) -> None:
    workload = workloads(declared(tag=""))[service]
    assert "honeydue.com/image-tag" not in workload.inputs["metadata"]["annotations"]


def test_a_repository_is_the_registry_the_namespace_and_the_service() -> None:
    assert repository(server="gitea.treytartt.com", namespace="admin", service="api") == (
        "gitea.treytartt.com/admin/honeydue-api"
    )


def test_an_unknown_service_has_no_image() -> None:
    with pytest.raises(ValueError, match="no such service: 'web'"):
        repository(server="gitea.treytartt.com", namespace="admin", service="web")
