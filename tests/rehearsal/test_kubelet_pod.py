"""One pod's thread against an API server that is a dictionary."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rehearsal.cluster.clients import NoAnswer, Refused
from rehearsal.home import Home
from rehearsal.kubelet import pod as pods
from rehearsal.kubelet.addresses import Kubelets
from rehearsal.kubelet.behaviour import Behaviour, behave
from rehearsal.kubelet.container import Container
from rehearsal.kubelet.images import Images
from rehearsal.kubelet.pod import Pod

Json = dict[str, Any]
PATH = "/api/v1/namespaces/honeydue/pods/api-1"


class FakeApi:
    """Merges what is patched as an API server does, as far as a kubelet's status needs it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.objects: dict[str, Json] = {}
        self.events: list[Json] = []
        self.writes: list[Json] = []
        self.down = False
        self.refuses: Refused | None = None

    def _answer(self) -> None:
        if self.down:
            raise NoAnswer("etcd has no leader")
        if self.refuses:
            raise self.refuses

    def get(self, path: str) -> Json | None:
        self._answer()
        return copy.deepcopy(self.objects.get(path))

    def create(self, path: str, body: Json) -> bool:
        self._answer()
        assert path.endswith("/events")
        self.events.append(body)
        return True

    def patch(self, path: str, body: Json) -> None:
        self._answer()
        (event,) = (e for e in self.events if path.endswith(f"/{e['metadata']['name']}"))
        event |= body

    def call(self, method: str, path: str, body: Json, content_type: str = "") -> Json:
        self._answer()
        with self.lock:
            if PATH not in self.objects:
                raise Refused(404, "not found")
            pod = self.objects[PATH]
            if method == "DELETE":
                assert (path, body["gracePeriodSeconds"]) == (PATH, 0)
                return self.objects.pop(PATH)
            assert (path, content_type.split("/")[1][:9]) == (f"{PATH}/status", "strategic")
            if body["metadata"]["uid"] != pod["metadata"]["uid"]:
                raise Refused(409, "another pod")
            self.writes.append(body["status"])
            status = pod.setdefault("status", {})
            known = {one["type"]: one for one in status.get("conditions", [])}
            known |= {one["type"]: one for one in body["status"]["conditions"]}
            status |= {**body["status"], "conditions": list(known.values())}
            return copy.deepcopy(pod)


class Node:
    """A pod's node."""

    name, host_ip = "honeydue-1", "10.10.1.11"

    def __init__(self, folder: Path) -> None:
        self.api: Any = FakeApi()
        self.kubelets = Kubelets(Home(folder))
        self.images = Images(folder / "images", folder / "unpacked")
        self.ended = threading.Event()
        self._folder = folder
        self.pod: Pod | None = None

    def pod_ip(self, _pod: Json) -> str:
        return "10.42.0.2"

    def real(self, _image: str) -> bool:
        return False

    def folder(self, _pod: Json) -> Path:
        return self._folder / "pods" / "honeydue_api-1_u-1"

    def pid_file(self, name: str) -> Path:
        return self._folder / "run" / f"{name}.pid"

    def left(self, _pod: Json) -> None:
        self.ended.set()

    def begin(
        self,
        spec: Json | None = None,
        *,
        found: bool = False,
        status: Any = None,
        owners: list[Json] | None = None,
    ) -> Pod:
        made = {
            "metadata": {
                "name": "api-1",
                "namespace": "honeydue",
                "uid": "u-1",
                "labels": {"app.kubernetes.io/name": "api"},
                "ownerReferences": owners or [],
            },
            "spec": {"containers": [{"name": "api", "image": "r.test/a:1"}], **(spec or {})},
            "status": status or {},
        }
        self.api.objects[PATH] = copy.deepcopy(made)
        self.pod = Pod(made, self, found=found).start()
        return self.pod

    @property
    def status(self) -> Json:
        found: Json = self.api.objects.get(PATH, {}).get("status", {})
        return found

    def condition(self, kind: str) -> Json:
        found = (one for one in self.status.get("conditions", []) if one["type"] == kind)
        return next(found, {})

    @property
    def ready(self) -> bool:
        return bool(self.condition("Ready").get("status") == "True")


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setattr(Container, "pace", 0.05)
    monkeypatch.setattr(pods, "RETRY", 0.02)
    made = Node(tmp_path)
    yield made
    if made.pod:
        made.pod.power_off()
        made.pod.join()


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_a_pretended_pod_is_one_write_and_three_events(node: Node) -> None:
    node.begin()
    until(lambda: len(node.api.events) == 3)
    assert len(node.api.writes) == 1
    assert node.ready
    assert node.status["phase"] == "Running"
    assert (node.status["podIP"], node.status["hostIP"]) == ("10.42.0.2", "10.10.1.11")
    assert [event["reason"] for event in node.api.events] == ["Pulled", "Created", "Started"]
    assert {event["involvedObject"]["fieldPath"] for event in node.api.events} == {
        "spec.containers{api}"
    }


def test_what_cannot_be_written_is_written_later_and_the_pod_runs_on(node: Node) -> None:
    node.api.down = True
    pod = node.begin()
    until(lambda: (c := pod.container("api")) and c.ready)
    assert not node.api.writes
    node.api.down = False
    until(lambda: node.ready and len(node.api.events) == 3)


def test_what_the_node_authorizer_does_not_know_yet_is_asked_again(node: Node) -> None:
    node.api.refuses = Refused(403, "no relationship found between node and this object")
    node.begin({"volumes": [{"name": "c", "configMap": {"name": "config"}}]})
    node.api.objects["/api/v1/namespaces/honeydue/configmaps/config"] = {"data": {}}
    time.sleep(0.05)
    node.api.refuses = None
    until(lambda: node.ready)


def test_a_volume_of_a_missing_secret_is_not_mounted_and_said_so(node: Node) -> None:
    secret = {"secretName": "auth", "items": [{"key": "auth.conf", "path": "auth.conf"}]}
    node.begin({"volumes": [{"name": "secret", "secret": secret}]})
    until(lambda: node.api.events)
    assert node.status["containerStatuses"][0]["state"]["waiting"]["reason"] == "ContainerCreating"
    assert node.condition("PodReadyToStartContainers")["status"] == "False"
    path = "/api/v1/namespaces/honeydue/secrets/auth"
    node.api.objects[path] = {"data": {"other": ""}}
    until(lambda: len(node.api.events) > 1)
    assert [event["message"] for event in node.api.events] == [
        'MountVolume.SetUp failed for volume "secret" : secret "auth" not found',
        'MountVolume.SetUp failed for volume "secret" : references non-existent secret key: '
        "auth.conf",
    ]
    node.api.objects[path] = {"data": {"auth.conf": ""}}
    until(lambda: node.ready)
    assert node.condition("Ready")["reason"] is None, "why it was not ready is taken back"


def test_the_same_event_again_is_counted(node: Node) -> None:
    node.begin({"volumes": [{"name": "c", "configMap": {"name": "config"}}]})
    until(lambda: node.api.events and node.api.events[0]["count"] >= 3)
    assert len(node.api.events) == 1


def test_a_pod_that_the_node_controller_called_unready_is_ready_again(node: Node) -> None:
    pod = node.begin()
    until(lambda: node.ready)
    since = node.condition("Ready")["lastTransitionTime"]
    node.condition("Ready")["status"] = "False"
    pod.update(copy.deepcopy(node.api.objects[PATH]))
    until(lambda: node.ready)
    assert node.condition("Ready")["lastTransitionTime"] == since


def test_a_jobs_pod_has_succeeded_at_once_and_stays_so(node: Node) -> None:
    node.begin({"restartPolicy": "Never"}, owners=[{"kind": "Job"}])
    until(lambda: node.status.get("phase") == "Succeeded")
    assert node.condition("Ready")["reason"] == "PodCompleted"
    assert node.status["containerStatuses"][0]["state"]["terminated"]["reason"] == "Completed"
    assert not node.ended.wait(0.05)


def test_init_containers_come_first_and_one_after_the_other(node: Node) -> None:
    behave(node.kubelets.behaviour_file, "api", Behaviour("pull-fails"))
    inits = [{"name": "first", "image": "i"}, {"name": "second", "image": "i"}]
    pod = node.begin({"initContainers": inits})
    until(lambda: node.status.get("initContainerStatuses"))
    until(lambda: "ErrImagePull" in str(node.status["initContainerStatuses"][0]))
    assert node.condition("Initialized")["message"] == (
        "containers with incomplete status: [first second]"
    )
    assert "ErrImagePull" not in str(node.status["initContainerStatuses"][1])
    assert "ErrImagePull" not in str(node.status["containerStatuses"])
    assert node.status["phase"] == "Pending"
    assert pod.container("second") is not None


def test_a_deleted_pod_is_reported_once_more_and_then_taken_from_the_api(node: Node) -> None:
    pod = node.begin()
    until(lambda: node.ready)
    leaving = copy.deepcopy(node.api.objects[PATH])
    leaving["metadata"] |= {"deletionTimestamp": "now", "deletionGracePeriodSeconds": 30}
    pod.update(leaving)
    assert node.ended.wait(120)
    assert PATH not in node.api.objects
    assert node.api.writes[-1]["phase"] == "Succeeded"
    assert node.api.events[-1]["message"] == "Stopping container api"
    assert not node.folder({}).exists(), "its logs go with it"
    assert node.kubelets.behaviour("10.42.0.2") == Behaviour()


def test_another_pod_under_its_name_is_left_alone(node: Node) -> None:
    pod = node.begin()
    until(lambda: node.ready)
    node.api.objects[PATH] = {"metadata": {"uid": "u-2"}, "status": {}}
    pod.update({**pod.pod, "status": {"conditions": [{"type": "Ready", "status": "False"}]}})
    assert node.ended.wait(120)
    assert node.api.objects[PATH] == {"metadata": {"uid": "u-2"}, "status": {}}


def test_what_ran_before_is_one_restart_further(node: Node) -> None:
    ran = {
        "name": "api",
        "restartCount": 1,
        "state": {"running": {"startedAt": "2026-11-22T10:00:00Z"}},
    }
    node.begin(found=True, status={"containerStatuses": [ran], "phase": "Running"})
    until(lambda: node.ready)
    assert node.status["containerStatuses"][0]["restartCount"] == 2
    assert node.status["containerStatuses"][0]["lastState"]["terminated"]["reason"] == "Unknown"
