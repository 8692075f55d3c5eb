"""No secret stands anywhere but in a Secret, and there it is marked as one."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from .cluster_program import (
    CANARIES,
    EXTERNAL_REDIS,
    HMAC_KEY,
    KUBECONFIG,
    ORIGIN_KEY,
    PASSWORD,
    TOKEN,
    containers,
    declared,
    workloads,
)
from .recording import Recorded, Recording

PLANTED = [*CANARIES.values(), TOKEN, KUBECONFIG, ORIGIN_KEY, EXTERNAL_REDIS, PASSWORD, HMAC_KEY]

programs = pytest.mark.parametrize(
    "recording",
    [declared(), declared(strict=True), declared(redis=False)],
    ids=["flexible", "strict", "external redis"],
)


@programs
def test_no_planted_secret_is_seen_in_clear(recording: Recording) -> None:
    for resource in recording:
        for path, text in _strings(resource.inputs):
            if _is_secret(resource, path):
                continue
            assert not _planted(text), f"{resource.name}: {path} shows a secret"
    for urn, outputs in recording.component_outputs.items():
        for path, text in _strings(outputs):
            assert not _planted(text), f"{urn}: {path} shows a secret"


def test_the_hunt_would_find_one() -> None:
    assert _planted("redis://:canary-generated-password@redis")
    assert _planted(base64.b64encode(b"canary-registry-token").decode())
    assert not _planted("honeydue")


@programs
def test_the_data_of_every_secret_is_marked_secret(recording: Recording) -> None:
    for secret in recording.all("kubernetes:core/v1:Secret"):
        keys = {f"data.{key}" for key in secret.inputs["data"] if key != "tls.crt"}
        assert "data" in secret.secrets or keys <= secret.secrets, secret.name
        assert {"data", "stringData"} <= set(secret.additional_secret_outputs)


@programs
def test_names_are_not_secret_so_that_diffs_can_be_read(recording: Recording) -> None:
    for resource in recording:
        if resource.type.startswith("kubernetes:"):
            assert not any(path.startswith(("metadata", "spec")) for path in resource.secrets)


def test_the_kubeconfig_is_a_secret_of_the_provider() -> None:
    assert "kubeconfig" in declared().one("pulumi:providers:kubernetes").secrets


@pytest.mark.parametrize("workload", workloads().values(), ids=workloads())
def test_no_container_has_a_secret_in_its_command_or_environment(workload: Recorded) -> None:
    for container in containers(workload):
        for variable in container.get("env", []):
            plain = variable.get("value")
            assert plain is None or variable["name"] == "PORT", variable["name"]
        words = [*container.get("command", []), *container.get("args", [])]
        assert not any(_planted(word) or "pass" in word for word in words)


def _planted(text: str) -> bool:
    """Whether a canary, whole or in part, plain or base64, is in the text."""
    try:
        decoded = base64.b64decode(text, validate=True).decode(errors="replace")
    except ValueError:
        decoded = ""
    return any("canary" in candidate for candidate in (text, decoded)) or any(
        secret in candidate for secret in PLANTED for candidate in (text, decoded)
    )


def _strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _strings(item, f"{path}[{index}]")
    elif isinstance(value, str):
        yield path, value


def _is_secret(resource: Recorded, path: str) -> bool:
    return any(path == s or path.startswith((f"{s}.", f"{s}[")) for s in resource.secrets)
