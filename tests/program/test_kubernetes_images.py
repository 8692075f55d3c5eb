"""Images are pinned: what runs tomorrow is what was deployed today."""

from __future__ import annotations

import re

import pytest

from honeydue.images.references import reference
from honeydue.kubernetes.catalogue import PULL_SECRET

from .cluster_program import IMAGES, containers, declared, pod, workloads
from .recording import Recorded

every_workload = pytest.mark.parametrize("workload", workloads().values(), ids=workloads())

PINNED = re.compile(
    r"gitea\.treytartt\.com/admin/honeydue-(api|worker|admin)"
    r"(:[0-9a-f]{7,12}|@sha256:[0-9a-f]{64})"
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


def test_a_reference_is_built_from_a_tag_or_a_digest() -> None:
    place = {"server": "gitea.treytartt.com", "namespace": "admin", "service": "api"}
    assert reference(**place, version="237c6b8") == (
        "gitea.treytartt.com/admin/honeydue-api:237c6b8"
    )
    digest = "sha256:" + "ab" * 32
    assert reference(**place, version=digest) == (
        f"gitea.treytartt.com/admin/honeydue-api@{digest}"
    )


@pytest.mark.parametrize("version", ["", "latest"])
def test_a_reference_never_floats(version: str) -> None:
    with pytest.raises(ValueError, match=r"images\.api: "):
        reference(server="gitea.treytartt.com", namespace="admin", service="api", version=version)


def test_an_unknown_service_has_no_image() -> None:
    with pytest.raises(ValueError, match="no such service: 'web'"):
        reference(server="gitea.treytartt.com", namespace="admin", service="web", version="237c6b8")
