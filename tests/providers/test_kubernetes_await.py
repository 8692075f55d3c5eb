"""Waiting for an object while its API server comes and goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from rehearsal.engine.provider import Context
from rehearsal.providers.kubernetes import await_
from rehearsal.providers.kubernetes.await_ import NotReadyError, Subject, until_gone, until_ready
from rehearsal.providers.kubernetes.client import ApiError, Client, UnreachableError

POD = Subject("v1/Pod", "/api/v1/namespaces/a/pods/p", "p", "a")
PENDING = {"status": {"phase": "Pending"}}
READY = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
GONE = ApiError(404, "NotFound", "not found", [])
SILENT = UnreachableError("Connection refused")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(await_, "_POLL_SECONDS", 0.001)


class Script:
    """A client whose answers are given; the last one repeats."""

    def __init__(self, *answers: Any):
        self._answers: Iterator[Any] = iter(answers)
        self._last: Any = None

    def request(self, _method: str, _path: str, **_more: Any) -> Any:
        self._last = next(self._answers, self._last)
        if isinstance(self._last, Exception):
            raise self._last
        return self._last

    def kind(self, *_names: str) -> Any:
        raise SILENT  # details of a failure cannot be had


def client(*answers: Any) -> Client:
    return cast(Client, Script(*answers))


def context(lines: list[str], timeout: float | None = None) -> Context:
    return Context(urn="urn", timeout=timeout, progress=lines.append)


def test_an_api_server_that_is_silent_for_a_while_is_waited_for() -> None:
    lines: list[str] = []
    until_ready(client(PENDING, SILENT, PENDING, READY), POD, {}, context(lines))
    assert lines == [
        "waiting for the pod to be ready",
        "the API server does not answer: Connection refused",
        "waiting for the pod to be ready",
    ]


def test_an_api_server_that_stays_silent_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(await_, "_PATIENCE_SECONDS", 0.0)
    with pytest.raises(NotReadyError, match="does not answer: Connection refused"):
        until_ready(client(SILENT), POD, {}, context([]))


def test_the_timeout_of_the_resource_wins_over_its_annotation() -> None:
    annotated = {"metadata": {"annotations": {"pulumi.com/timeoutSeconds": "600"}}}
    with pytest.raises(NotReadyError, match=r"timed out after 0\.01 s while waiting for the pod"):
        until_ready(client(PENDING), POD, annotated, context([], timeout=0.01))


def test_the_annotations_timeout_wins_over_the_default() -> None:
    annotated = {"metadata": {"annotations": {"pulumi.com/timeoutSeconds": "1"}}}
    with pytest.raises(NotReadyError, match="timed out after 1 s"):
        until_ready(client(PENDING), POD, annotated, context([]))


def test_an_object_that_somebody_deletes_meanwhile_is_not_waited_for() -> None:
    with pytest.raises(NotReadyError, match="it was deleted while it was waited for"):
        until_ready(client(PENDING, GONE), POD, {}, context([]))


def test_another_object_of_the_same_name_means_that_ours_is_gone() -> None:
    until_gone(client({"metadata": {"uid": "new"}}), POD, "old", {}, context([]))


def test_a_namespace_says_what_it_still_waits_for() -> None:
    remaining = {
        "type": "NamespaceContentRemaining",
        "status": "True",
        "message": "Some resources are remaining: pods. has 1 resource instances",
    }
    stuck = {"metadata": {"uid": "n"}, "status": {"conditions": [remaining]}}
    lines: list[str] = []
    until_gone(client(stuck, GONE), POD, "n", {}, context(lines))
    assert lines == [f"waiting for its deletion: {remaining['message']}"]


def test_what_is_not_waited_for_is_not_waited_for_when_it_is_deleted_either() -> None:
    inputs = {"metadata": {"annotations": {await_.SKIP_AWAIT: "true"}}}
    until_gone(client(AssertionError("asked")), POD, "1", inputs, context([]))
