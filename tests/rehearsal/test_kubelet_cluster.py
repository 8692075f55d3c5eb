"""Pods that fail and serve on a real node: its API server, scheduler and controllers, our kubelet.

One node for the whole file. Images come from a registry in memory, and are run.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import re
import signal
import ssl
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rehearsal.cluster.certificates import Pair, issue
from rehearsal.cluster.clients import Api, Https, Refused, tls_context
from rehearsal.cluster.datacenter import Cluster
from rehearsal.home import Home
from rehearsal.kubelet.behaviour import Behaviour, behave
from rehearsal.kubelet.container import Container
from tests.examples.application import copy, go
from tests.images.small_registry import TOKEN, USERNAME, Content, digest_of, serve
from tests.rehearsal.production import Production
from tests.rehearsal.test_cluster import until

pytestmark = pytest.mark.cluster

Json = dict[str, Any]
SERVER_ID = 101
REPOSITORY = "admin/honeydue-api"
SECRET = "gitea-credentials"


class World:
    def __init__(self, folder: Path, registry: Content) -> None:
        self.home = Home(folder)
        self.registry = registry
        self.production = Production(block=61)  # below those that rehearsals choose
        self.cluster = self.boot()

    def boot(self) -> Cluster:
        """A serving process's part of it."""
        self.cluster = Cluster(self.home)
        self.cluster.prepare()
        self.cluster.start(self.production.machine(1))
        until(self._up, 1500, lambda: str(self.cluster.status(SERVER_ID)))
        return self.cluster

    def _up(self) -> bool:
        return self.cluster.status(SERVER_ID).phase == "running" and self._node_ready()

    def _node_ready(self) -> bool:
        node = self.api.get("/api/v1/nodes/honeydue-1") or {}
        conditions = node.get("status", {}).get("conditions", [])
        account = self.api.get("/api/v1/namespaces/default/serviceaccounts/default")
        return account is not None and any(
            one["type"] == "Ready" and one["status"] == "True" for one in conditions
        )

    @property
    def api(self) -> Api:
        api = self.cluster.nodes()[0].api()
        assert api is not None
        return api

    def make(self, kind: str, name: str, **rest: Any) -> None:
        assert self.api.create(
            f"/api/v1/namespaces/default/{kind}", {"metadata": {"name": name}, **rest}
        )

    def pod(
        self, name: str, image: str = "busybox", spec: Json | None = None, **container: Any
    ) -> str:
        """Makes one; `name` is its service too."""
        made = {
            "metadata": {"name": name, "labels": {"app.kubernetes.io/name": name}},
            "spec": {
                "automountServiceAccountToken": False,
                "imagePullSecrets": [{"name": SECRET}],
                "containers": [{"name": "main", "image": image, **container}],
                **(spec or {}),
            },
        }
        assert self.api.create("/api/v1/namespaces/default/pods", made)
        return name

    def behave(self, key: str, *words: str) -> None:
        behave(self.cluster.kubelets.behaviour_file, key, Behaviour.parse(words))

    def seen(self, name: str) -> Json:
        return self.api.get(f"/api/v1/namespaces/default/pods/{name}") or {}

    def status(self, name: str) -> Json:
        """Of its container; empty until a kubelet has looked at it."""
        found: list[Json] = self.seen(name)["status"].get("containerStatuses", [{}])
        return found[0]

    def waiting(self, name: str) -> Json:
        found: Json = self.status(name).get("state", {}).get("waiting", {})
        return found

    def ready(self, name: str) -> bool:
        conditions = {one["type"]: one for one in self.seen(name)["status"].get("conditions", ())}
        return bool(conditions.get("Ready", {}).get("status") == "True")

    def events(self, name: str) -> dict[str, list[str]]:
        """Reason → messages of the kubelet's."""
        found: dict[str, list[str]] = {}
        for event in (self.api.get("/api/v1/namespaces/default/events") or {})["items"]:
            if event["involvedObject"]["name"] == name:
                found.setdefault(event["reason"], []).append(event["message"])
        return found

    def log(self, name: str, query: str = "") -> str:
        return str(self.api.call("GET", f"/api/v1/namespaces/default/pods/{name}/log?{query}"))

    def address(self, name: str, port: int) -> tuple[str, int] | None:
        return self.cluster.kubelets.address(self.seen(name)["status"]["podIP"], port)

    def delete(self, name: str) -> None:
        self.api.delete(f"/api/v1/namespaces/default/pods/{name}")

    def gone(self, name: str) -> bool:
        return self.seen(name) == {}

    def until(self, condition: Callable[[], object], name: str, seconds: float = 120) -> None:
        until(
            condition,
            seconds,
            lambda: json.dumps(self.seen(name).get("status", {})) + str(self.events(name)),
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    patched = pytest.MonkeyPatch()
    patched.setattr(Container, "pace", 0.1)
    with serve() as registry:
        patched.setattr(Cluster, "images_server", lambda _self: registry.server)
        world = World(tmp_path_factory.mktemp("home"), registry)
        try:
            login = base64.b64encode(f"{USERNAME}:{TOKEN}".encode()).decode()
            auths = {"auths": {registry.server: {"auth": login}}}
            world.make(
                "secrets",
                SECRET,
                type="kubernetes.io/dockerconfigjson",
                stringData={".dockerconfigjson": json.dumps(auths)},
            )
            yield world
        finally:
            world.cluster.close()
            patched.undo()


@pytest.fixture(scope="module")
def api_image(world: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The example application's api, as its Dockerfile makes it."""
    source = copy(tmp_path_factory.mktemp("app") / "app")
    go(source, "build", "-trimpath", "-o", "out/api", "./api", extra={"CGO_ENABLED": "0"})
    return image(world.registry, {"api": (source / "out" / "api").read_bytes()}, ["/api"])


def image(registry: Content, files: dict[str, bytes], entrypoint: list[str]) -> str:
    """Pushes it; returns server/repository@digest."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(body), 0o555
            archive.addfile(member, io.BytesIO(body))
    layer = gzip.compress(data.getvalue(), 1)
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "config": {"Entrypoint": entrypoint}}
    ).encode()
    for blob in (layer, config):
        registry.blobs[digest_of(blob)] = blob
    manifest = {
        "schemaVersion": 2,
        "config": {"digest": digest_of(config), "size": len(config)},
        "layers": [{"digest": digest_of(layer), "size": len(layer)}],
    }
    digest = registry.put(REPOSITORY, "t", json.dumps(manifest).encode())
    return f"{registry.server}/{REPOSITORY}@{digest}"


HTTP: Json = {"httpGet": {"path": "/api/health/", "port": "http"}, "periodSeconds": 1}
SERVES: Json = {
    "ports": [{"name": "http", "containerPort": 8000}],
    "env": [{"name": "PORT", "value": "8000"}],
    "startupProbe": {**HTTP, "failureThreshold": 48},
    "readinessProbe": HTTP,
    "livenessProbe": {"tcpSocket": {"port": "http"}},
}


# --- pretended ----------------------------------------------------------------------------------


def test_an_image_of_another_registry_is_pretended_and_nobody_waits_for_it(world: World) -> None:
    seldom = {**HTTP, "periodSeconds": 3600, "initialDelaySeconds": 3600}
    probes = {"startupProbe": seldom, "readinessProbe": seldom}
    name = world.pod(
        "pretended", spec={"terminationGracePeriodSeconds": 3600}, **{**SERVES, **probes}
    )
    world.until(lambda: world.ready(name), name)
    status = world.seen(name)["status"]
    assert status["phase"] == "Running"
    assert re.fullmatch(r"10\.42\.\d+\.\d+", status["podIP"])
    assert status["hostIP"] == "10.10.1.11"
    assert {one["type"] for one in status["conditions"] if one["status"] == "True"} == {
        *("PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready")
    }
    assert world.address(name, 8000) is None
    world.until(lambda: "Started" in world.events(name), name)
    assert "nothing runs here" in world.log(name)
    world.delete(name)
    world.until(lambda: world.gone(name), name)


def test_what_was_told_to_crash_is_in_a_crash_loop_and_its_log_says_so(world: World) -> None:
    world.behave("loops", "crashes")
    name = world.pod("loops", **SERVES)
    world.until(lambda: world.waiting(name).get("reason") == "CrashLoopBackOff", name)
    status, uid = world.status(name), world.seen(name)["metadata"]["uid"]
    assert re.fullmatch(
        rf"back-off \d+s restarting failed container=main pod=loops_default\({uid}\)",
        status["state"]["waiting"]["message"],
    )
    assert status["lastState"]["terminated"]["exitCode"] == 1
    assert status["lastState"]["terminated"]["reason"] == "Error"
    assert world.seen(name)["status"]["phase"] == "Running"
    world.until(lambda: world.status(name)["restartCount"] >= 2, name)
    said = world.events(name)["BackOff"]
    assert said == [f"Back-off restarting failed container main in pod loops_default({uid})"]
    assert "told to crash" in world.log(name, "previous=true")
    world.delete(name)


def test_never_ready_runs_and_is_unhealthy(world: World) -> None:
    world.behave("never", "never-ready")
    name = world.pod("never", **SERVES)
    world.until(lambda: "Unhealthy" in world.events(name), name)
    assert world.events(name)["Unhealthy"] == [
        "Readiness probe failed: HTTP probe failed with statuscode: 503"
    ]
    assert "running" in world.status(name)["state"]
    assert not world.ready(name)
    conditions = {one["type"]: one for one in world.seen(name)["status"]["conditions"]}
    assert conditions["Ready"]["message"] == "containers with unready status: [main]"
    world.delete(name)


def test_a_missing_config_map_is_named_and_waited_for(world: World) -> None:
    name = world.pod("unconfigured", envFrom=[{"configMapRef": {"name": "late"}}])
    world.until(lambda: world.waiting(name).get("reason") == "CreateContainerConfigError", name)
    assert world.waiting(name)["message"] == 'configmap "late" not found'
    world.make("configmaps", "late", data={"A": "b"})
    world.until(lambda: world.ready(name), name)
    world.delete(name)


# --- real ---------------------------------------------------------------------------------------


def test_the_example_api_runs_answers_and_is_told_to_end(world: World, api_image: str) -> None:
    world.make("configmaps", "settings", data={"CORS_ALLOWED_ORIGINS": "https://app.honeydue.test"})
    sleep, grace = 2, 600
    hook = {"preStop": {"sleep": {"seconds": sleep}}}
    name = world.pod(
        "api",
        api_image,
        {"terminationGracePeriodSeconds": grace},
        **SERVES,
        envFrom=[{"configMapRef": {"name": "settings"}}],
        lifecycle=hook,
    )
    world.until(lambda: world.ready(name), name)
    assert world.status(name)["imageID"] == api_image
    at = world.address(name, 8000)
    assert at is not None
    request = urllib.request.Request(
        f"http://{at[0]}:{at[1]}/api/version", headers={"Origin": "https://app.honeydue.test"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["binary"].startswith("sha256:")
        # So the setting of the ConfigMap has reached it.
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.honeydue.test"
    told = world.events(name)
    assert told["Pulling"] == [f'Pulling image "{api_image}"']
    assert told["Pulled"][0].startswith(f'Successfully pulled image "{api_image}" in ')

    lines = world.log(name, "timestamps=true&tailLines=1").splitlines()
    assert len(lines) == 1
    stamp, _, said = lines[0].partition(" ")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", stamp)
    assert json.loads(said)["service"] == "api"
    assert f'"address":"{at[0]}:{at[1]}"' in world.log(name), "on loopback, and nowhere else"

    asked = time.monotonic()
    world.delete(name)
    time.sleep(0.5)
    try:
        assert urllib.request.urlopen(request, timeout=60).status == 200
    except OSError:
        assert time.monotonic() - asked >= sleep, "it ended while preStop was asleep"
    world.until(lambda: world.gone(name), name)
    assert sleep <= time.monotonic() - asked < grace, "it ended by itself, not by SIGKILL"
    assert world.events(name)["Killing"] == ["Stopping container main"]
    assert not list(world.home.nodes.glob("*/run/api.*"))


def test_a_wrong_digest_is_told_in_containerds_words(world: World) -> None:
    wrong = f"{world.registry.server}/{REPOSITORY}@sha256:{'0' * 64}"
    name = world.pod("gone", wrong)
    world.until(lambda: world.waiting(name).get("reason") == "ImagePullBackOff", name)
    message = world.waiting(name)["message"]
    assert message.startswith(f'Back-off pulling image "{wrong}": ErrImagePull: rpc error: code =')
    assert message.endswith(f'failed to resolve reference "{wrong}": {wrong}: not found')
    assert world.seen(name)["status"]["phase"] == "Pending"
    with pytest.raises(Refused, match="is waiting to start: trying and failing to pull image"):
        world.log(name)
    world.delete(name)
    world.until(lambda: world.gone(name), name)


def test_without_the_pull_secret_nothing_is_pulled(world: World) -> None:
    other = image(world.registry, {"other": b"another"}, ["/other"])
    name = world.pod("secretless", other, {"imagePullSecrets": [{"name": "nobody"}]})
    world.until(lambda: world.waiting(name).get("reason") == "ImagePullBackOff", name)
    assert "failed to authorize" in world.waiting(name)["message"]
    assert "401 Unauthorized" in world.waiting(name)["message"]
    assert "FailedToRetrieveImagePullSecret" in world.events(name)
    world.delete(name)


def test_a_command_that_is_not_in_the_image_is_a_start_error(world: World) -> None:
    name = world.pod("commandless", image(world.registry, {"a": b"a"}, ["/nothing"]))
    world.until(lambda: world.waiting(name).get("reason") == "CrashLoopBackOff", name)
    ended = world.status(name)["lastState"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("StartError", 128)
    assert ended["message"].endswith('exec: "/nothing": stat /nothing: no such file or directory')
    world.delete(name)


def test_a_slow_boot_is_waited_for_and_no_failure(world: World, api_image: str) -> None:
    world.behave("slow", "slow", "3")
    name = world.pod("slow", api_image, {"terminationGracePeriodSeconds": 1}, **SERVES)
    world.until(lambda: "Unhealthy" in world.events(name), name)
    (said,) = world.events(name)["Unhealthy"]
    assert re.fullmatch(
        r'Startup probe failed: Get "http://10\.42\.\d+\.\d+:8000/api/health/": dial tcp '
        r"10\.42\.\d+\.\d+:8000: connect: connection refused",
        said,
    )
    world.until(lambda: world.ready(name), name)
    assert world.status(name)["restartCount"] == 0
    (ready,) = (c for c in world.seen(name)["status"]["conditions"] if c["type"] == "Ready")
    started = datetime.fromisoformat(world.status(name)["state"]["running"]["startedAt"])
    since = datetime.fromisoformat(ready["lastTransitionTime"])
    assert since - started >= timedelta(seconds=2), "both are told in whole seconds"
    world.delete(name)


def test_only_the_api_server_may_ask_a_node_for_logs(world: World, tmp_path: Path) -> None:
    pki = world.production.pki
    ca = Pair(tmp_path / "ca.crt", tmp_path / "ca.key")
    server = Pair(tmp_path / "server-ca.crt", tmp_path / "server-ca.key")
    for pair, name in ((ca, "client-ca"), (server, "server-ca")):
        pair.crt.write_text(pki[f"{name}.crt"])
        pair.key.write_text(pki[f"{name}.key"])
    someone = issue(ca, Pair(tmp_path / "c.crt", tmp_path / "c.key"), name="system:node:honeydue-1")
    node = world.api.get("/api/v1/nodes/honeydue-1") or {}
    port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
    with pytest.raises(Refused) as refusal:
        Https(world.production.public(1), port, tls_context(server, someone)).call(
            "GET", "/containerLogs/default/a/b"
        )
    assert refusal.value.status == 403
    stranger = ssl.create_default_context(cadata=pki["server-ca.crt"])
    stranger.verify_flags &= ~ssl.VERIFY_X509_STRICT
    with pytest.raises(OSError, match=r"certificate required|closed|reset|EOF"):
        urllib.request.urlopen(
            f"https://{world.production.public(1)}:{port}/", context=stranger, timeout=60
        )


def test_after_a_restart_of_the_serving_process_what_ran_is_started_again(
    world: World, api_image: str
) -> None:
    name = world.pod("survives", api_image, {"terminationGracePeriodSeconds": 1}, **SERVES)
    world.until(lambda: world.ready(name), name)
    before, ip = world.address(name, 8000), world.seen(name)["status"]["podIP"]
    world.cluster.close()
    assert before is not None
    assert not list(world.home.nodes.glob("*/run/survives.*"))
    world.boot()
    world.until(lambda: world.status(name)["restartCount"] == 1 and world.ready(name), name)
    assert world.status(name)["lastState"]["terminated"]["reason"] == "Unknown"
    assert world.seen(name)["status"]["podIP"] == ip
    at = world.address(name, 8000)
    assert at is not None
    assert urllib.request.urlopen(f"http://{at[0]}:{at[1]}/api/health/", timeout=60).status == 200
    world.delete(name)
    world.until(lambda: world.gone(name), name)


def test_a_replaced_api_server_process_disturbs_no_pod(world: World) -> None:
    name = world.pod("undisturbed")
    world.until(lambda: world.ready(name), name)
    node = world.cluster.nodes()[0]
    (server,) = (p for p in node._processes if "kube-apiserver" in p.name)
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: server.pid not in (None, pid) and node.answers(), 120)
    other = world.pod("later")
    world.until(lambda: world.ready(other), other)
    assert world.status(name)["restartCount"] == 0
