"""Deploying, rolling back and changing configuration by the operator's own verbs, end to end: the
program and the engine in their own processes, a real Kubernetes, pods' processes as the rehearsal
plays them, the users' way through the edge's stand-in.

The registry is the stand-in. What takes Kubernetes its ten minutes to call a failure (a pull that
fails, a crash loop) is in tests/ops/test_deploy.py, over objects; here the URL check fails.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from honeydue.images.references import SERVICES
from honeydue.images.registry import Login, Registry
from rehearsal.clouds.http import Listener
from rehearsal.clouds.registry import Gitea
from rehearsal.providers.kubernetes.client import Client
from rehearsal.providers.kubernetes.kubeconfig import parse
from tests.ops.world import Shelf
from tests.rehearsal.operator import Answer, Operator

pytestmark = pytest.mark.cluster

TAGS = ("1a2b3c4", "237c6b8", "99d0e1f", "55aa55a")
CANARY = "canary-of-the-mail-service-7Gq"


@dataclass
class World:
    operator: Operator
    digests: dict[tuple[str, str], str]  # (service, tag)

    def ops(self, *words: str) -> Answer:
        """Of everything that is printed it is seen to that no secret is in it."""
        with self.begun(*words) as child:
            out, err = child.communicate(timeout=900)
        assert CANARY not in out + err
        assert "Traceback" not in out + err, err
        return Answer(child.returncode, out, err)

    def begun(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "ops", *words, "--stack", "rehearsal"],
            cwd=self.operator.checkout,
            env=self.operator.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def tags(self) -> dict[str, str]:
        """Service → the tag of what runs and is ready."""
        said = json.loads(self.ops("status", "--json").out)
        return {each["name"]: each["tag"] for each in said["services"]}

    def behave(self, whom: str, *how: str) -> None:
        self.operator.must("behave", whom, *how)

    def replace_pods(self, digest: str) -> None:
        """Those of an image: their ReplicaSet makes others."""
        cluster = Client(parse({"kubeconfig": self.operator.output("kubeconfig")}))
        pods = "/api/v1/namespaces/honeydue/pods"
        for pod in cluster.request("GET", pods)["items"]:
            if pod["spec"]["containers"][0]["image"].endswith(f"@{digest}"):
                cluster.request("DELETE", f"{pods}/{pod['metadata']['name']}")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Release 1: 1a2b3c4."""
    folder = tmp_path_factory.mktemp("deploy")
    operator = Operator.in_folder(folder)
    gitea = Gitea(folder / "gitea")
    token = gitea.token("admin", "write:package")
    listener = Listener(gitea.wsgi_app).start()
    server = urlsplit(listener.url).netloc
    digests = {}
    try:
        with Registry(server, Login("admin", token)) as registry:
            shelf = Shelf(registry)
            for service in SERVICES:
                for tag in TAGS:
                    digests[service, tag] = shelf.push(tag, image=f"honeydue-{service}")
        login = {"server": server, "namespace": "admin", "username": "admin", "token": token}
        operator.edit("honeydue:registry", lambda _: login)
        operator.must("config", "set", "--path", "--secret", "honeydue:registry.token", token)
        secret = "honeydue:secrets.EMAIL_HOST_PASSWORD"
        operator.must("config", "set", "--path", "--secret", secret, CANARY)
        first = {service: f"1a2b3c4@{digests[service, '1a2b3c4']}" for service in SERVICES}
        operator.edit("honeydue:images", lambda _: first)
        operator.must("up", "--yes", "--skip-preview")
        yield World(operator, digests)
    finally:
        operator.run("reset")
        listener.stop()


def says(answer: Answer, *parts: str) -> None:
    """Each of these is read, in this order, line breaks aside."""
    text, at = " ".join(answer.text.split()), 0
    for part in parts:
        found = text.find(part, at)
        assert found >= 0, f"{part!r} is not read after {at}:\n{answer.text}"
        at = found + len(part)


def until(true: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.2)


def test_a_good_release_is_watched_asked_recorded_and_said(world: World) -> None:
    answer = world.ops("deploy", "--sha", "237c6b8", "--yes")
    assert answer.code == 0, answer.text
    says(
        answer,
        "deploy 237c6b8 (rehearsal)",
        "api rolls 1a2b3c4",
        "api: 3 of 3 ready, converged",
        "https://api.honeydue.test/api/health/ 200",
        "deployed 237c6b8 as release 2 in ",
        "roll back to 1 (1a2b3c4): python -m ops rollback",
    )
    assert world.tags == dict.fromkeys(SERVICES, "237c6b8")
    again = world.ops("deploy", "--sha", "237c6b8", "--yes")
    assert again.code == 0, again.text
    says(again, "nothing to do: 237c6b8 runs already (release 2): it is well")


def test_a_bad_release_goes_back_by_itself_and_the_next_up_changes_nothing(world: World) -> None:
    world.behave(world.digests["api", "99d0e1f"], "answers-500")
    answer = world.ops("deploy", "--sha", "99d0e1f", "--yes")
    assert answer.code == 3, answer.text
    says(
        answer,
        "final URLs failed: https://api.honeydue.test/api/health/ fails: 500",
        "Rolling back to release 2 (237c6b8)",
        "Rolled back: production runs release 2 (237c6b8) again",
        "What runs now",
        "What the next `up` does",
        "changes no image",
    )
    assert world.tags == dict.fromkeys(SERVICES, "237c6b8")
    assert world.operator.changes() == {}
    says(world.ops("releases"), "rolled back")


def test_a_rollback_brings_the_release_before_back(world: World) -> None:
    answer = world.ops("rollback", "--to", "1", "--yes")
    assert answer.code == 0, answer.text
    says(answer, "rollback to 1 (1a2b3c4)", "rolled back to 1 (1a2b3c4) as release 5 in ")
    assert world.tags == dict.fromkeys(SERVICES, "1a2b3c4")


def test_only_configuration_rolls_only_who_reads_it(world: World) -> None:
    answer = world.ops("config", "set", "DAILY_DIGEST_HOUR=4", "--yes")
    assert answer.code == 0, answer.text
    says(answer, "rolls worker; api and admin stay", "worker rolls", "DAILY_DIGEST_HOUR: done")


def test_one_service_alone(world: World) -> None:
    answer = world.ops("deploy", "--sha", "237c6b8", "--service", "admin", "--yes")
    assert answer.code == 0, answer.text
    assert world.tags == dict.fromkeys(SERVICES, "1a2b3c4") | {"admin": "237c6b8"}


def test_two_operators_and_one_that_is_killed(world: World) -> None:
    """A killed one leaves both locks behind: its own is known to be nobody's, the engine's is
    taken over when told to."""
    admin = world.digests["admin", "55aa55a"]
    world.behave(admin, "slow", "200")  # so that the first still waits for it
    first = world.begun("deploy", "--sha", "55aa55a", "--service", "admin", "--yes")
    try:
        until(lambda: bool(_engines_lock(world)))
        second = world.ops("deploy", "--sha", "237c6b8", "--yes")
        assert second.code == 1, second.text
        says(second, "wait until that")
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
    third = world.ops("deploy", "--sha", "55aa55a", "--service", "admin", "--yes")
    assert third.code == 1, third.text
    says(third, "a run left its lock behind", "run the same with --take-over")
    world.behave(admin, "ok")
    world.replace_pods(admin)
    fourth = world.ops("deploy", "--sha", "55aa55a", "--service", "admin", "--yes", "--take-over")
    assert fourth.code == 0, fourth.text
    says(fourth, "the lock of the engine's run that is gone is removed", "deployed 55aa55a as")
    assert world.tags["admin"] == "55aa55a"


def _engines_lock(world: World) -> list[object]:
    return list(world.operator.home.glob("**/locks/**/*.json"))
