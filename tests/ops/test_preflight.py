"""What the operator reads before anything is changed: each check, when it is well and when not."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from rich.console import Console

from honeydue.images.keys import generate, private_pem, public_pem
from honeydue.images.registry import Login, Registry
from ops import preflight
from ops.desired import Desired
from ops.engine import Engine
from ops.preflight import Asked, Check, check, free_on, refuse, show
from ops.problems import Refused
from ops.quantities import quantity
from rehearsal.clouds.cloudflare import Cloudflare
from rehearsal.clouds.faults import Fault
from rehearsal.clouds.hetzner import Hetzner
from rehearsal.clouds.http import Listener
from rehearsal.clouds.machines import IdleDatacenter
from rehearsal.clouds.registry import Gitea
from rehearsal.engine.state import Backend
from tests.ops.api_servers import Json, Nodes
from tests.ops.kubernetes_json import deployed, node, pod, well
from tests.ops.pulumi import Pulumi
from tests.ops.world import Shelf
from tests.settings import sample

ZONE = "0123456789abcdef0123456789abcdef"
SERVICES = ("api", "worker", "admin")
SECRETS = ("registry", "secrets", "snapshots", "redis", "signing")
TOKENS = {
    "hcloudToken": sample.CONFIG["hcloudToken"],
    "cloudflareToken": sample.CONFIG["cloudflareToken"],
}
GIT = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")


class World:
    """A production that may be deployed to; a test breaks what it is about."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes = Nodes(folder / "nodes")
        self.kinds = self.nodes.objects.kinds
        self.kinds["nodes"] = [roomy(name) for name in self.nodes.servers]
        self.kinds["deployments"] = [deployed(service) for service in SERVICES]
        self.kinds["pods"] = [well(service) for service in SERVICES]
        self.cloudflare = Cloudflare(
            folder / "cf.json", TOKENS["cloudflareToken"], zones={ZONE: "myhoneydue.com"}
        )
        self.hetzner = Hetzner(folder / "h.json", TOKENS["hcloudToken"], IdleDatacenter(), 90)
        self.gitea = Gitea(folder / "gitea")
        self.listeners = [
            Listener(each.wsgi_app).start() for each in (self.cloudflare, self.hetzner, self.gitea)
        ]
        at_cloudflare, at_hetzner, at_gitea = (each.url for each in self.listeners)
        self.environment = {
            "CLOUDFLARE_BASE_URL": f"{at_cloudflare}/client/v4",
            "HCLOUD_ENDPOINT": f"{at_hetzner}/v1",
        }
        self.server = urlsplit(at_gitea).netloc
        self.token = self.gitea.token("admin", "write:package")
        self.config: Json = copy.deepcopy(sample.CONFIG)
        self.config["registry"] |= {"server": self.server, "token": self.token}
        self.env_file = folder / "prod.env"
        self.env_file.write_text(sample.env_text())
        (folder / "state").mkdir()
        with Registry(self.server, Login("admin", self.token)) as registry:
            shelf = Shelf(registry)
            self.config["images"] = {
                service: f"237c6b8@{shelf.push('237c6b8', image=f'honeydue-{service}')}"
                for service in SERVICES
            }
        self.outputs: Json = {
            "kubeconfig": self.nodes.kubeconfig,
            "nodes": {name: {} for name in self.nodes.servers},
        }
        self.answers: dict[str, Any] = {}
        self.pulumi = Pulumi(folder / "bin")

    def check(self, **asked: Any) -> dict[str, Check]:
        entries: Json = {"honeydue:envFile": {"value": str(self.env_file), "secret": False}}
        for key, value in self.config.items():
            secret = key in SECRETS or key.endswith("Token")
            entries[f"honeydue:{key}"] = {"secret": secret, "value": value}
            if isinstance(value, Mapping | list):
                entries[f"honeydue:{key}"]["objectValue"] = value
        self.pulumi.answers(
            **{
                "whoami": {"url": f"file://{self.folder / 'state'}"},
                "stack_output": self.outputs,
                "config": entries,
                **self.answers,
            }
        )
        return {each.name: each for each in check(Asked(engine=Engine("pulumi", "prod"), **asked))}

    def fails(self, name: str, **asked: Any) -> str:
        """What is told when `name` fails, and nothing else does."""
        checks = self.check(**asked)
        assert {each.name for each in checks.values() if each.outcome == "failed"} == {name}
        with pytest.raises(Refused) as caught:
            refuse(list(checks.values()))
        said = str(caught.value)
        for secret in (self.token, *TOKENS.values(), sample.CONFIG["secrets"]["SECRET_KEY"]):
            assert secret not in said
            assert not [each for each in checks.values() if secret in each.said]
        return said

    def builds(self, *, driver: str = "remote") -> Path:
        """The application's checkout; what is not pinned is built from it."""
        app = self.folder / "app"
        app.mkdir()
        (app / "Dockerfile").write_text("FROM scratch AS api\n")
        git(app, "init", "--quiet")
        git(app, "add", ".")
        git(app, *GIT, "commit", "--quiet", "-m", "one")
        self.config["app"] = {"path": str(app)}
        self.config["image"] = {"driver": driver}
        self.config["signing"] = sample_signing()
        del self.config["images"]
        trivy = self.folder / "bin/trivy"
        trivy.parent.mkdir(exist_ok=True)
        trivy.write_text("#!/bin/sh\n")
        trivy.chmod(0o755)
        self.builder(f"unix://{self.folder}/buildkit")
        return app

    def builder(self, endpoint: str) -> None:
        file = self.folder / "buildx/instances/honeydue-builder"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"Nodes": [{"Endpoint": endpoint}]}))

    def stop(self) -> None:
        self.nodes.stop()
        for listener in self.listeners:
            listener.stop()


def roomy(name: str, cpu: str = "3", memory: str = "5Gi", **status: Any) -> Json:
    made = node(name, **status)
    made["status"]["allocatable"] = {"cpu": cpu, "memory": memory}
    return made


def git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def sample_signing() -> Json:
    key = generate()
    return {"privateKey": private_pem(key), "publicKey": public_pem(key)}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path)
    monkeypatch.setenv("PATH", str(made.pulumi.folder), prepend=os.pathsep)
    monkeypatch.setenv("BUILDX_CONFIG", str(tmp_path / "buildx"))
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    yield made
    made.stop()


@pytest.fixture
def buildkit(tmp_path: Path) -> Iterator[None]:
    """Something that listens where the builder is."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "buildkit"))
        listening.listen()
        yield


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


# --- all is well --------------------------------------------------------------------------------


def test_every_check_is_a_line_and_all_are_told(world: World) -> None:
    checks = list(world.check().values())
    file = io.StringIO()
    show(checks, Console(file=file, highlight=False, width=200))
    said = re.sub(r"\d+\.\d s", "0.0 s", file.getvalue()).replace(world.server, "<registry>")
    assert said.replace(str(world.folder), "") == (
        "  ok      passphrase   0.0 s  it opens the stack's secrets\n"
        "  ok      settings     0.0 s  /prod.env and the stack's file\n"
        "  ok      hooks        0.0 s  none\n"
        "  skipped checkout     0.0 s  nothing is built\n"
        "  skipped builder      0.0 s  nothing is built\n"
        "  ok      registry     0.0 s  <registry> answers\n"
        "  ok      images       0.0 s  api, worker, admin are in the registry\n"
        "  ok      cloudflare   0.0 s  answers, and the token is active\n"
        "  ok      hetzner      0.0 s  answers, and the token is good\n"
        "  ok      other runs   0.0 s  none\n"
        "  ok      cluster      0.0 s  3 nodes Ready; etcd: 3 of 3 members healthy, 2 needed, so 1 "
        "may be lost\n"
        "  ok      paused       0.0 s  nothing is\n"
        "  ok      capacity     0.0 s  one more pod of api and admin fits\n"
    )
    refuse(checks)


@pytest.mark.usefixtures("buildkit")
def test_what_is_built_asks_for_more(world: World) -> None:
    app = world.builds()
    checks = world.check()
    refuse(list(checks.values()))
    head = git(app, "rev-parse", "--short", "HEAD")
    assert checks["checkout"].said == f"{head} in {app}; builds api, worker, admin"
    assert checks["builder"].said == "honeydue-builder and trivy"
    assert checks["registry"].said == f"{world.server} takes pushes"
    assert (checks["images"].outcome, checks["images"].said) == ("skipped", "all are built")


@pytest.mark.usefixtures("buildkit")
def test_the_settings_are_judged_as_they_will_be(world: World) -> None:
    """A deploy of the api alone takes away its pin, and nobody else's."""
    pins = world.config["images"]
    world.builds()
    world.config["images"] = pins
    assert world.check()["checkout"].said == "nothing is built"
    checks = world.check(wanted=lambda stack: Desired.of(stack).pinned({"api": None}))
    assert checks["checkout"].said.endswith("; builds api")
    assert checks["images"].said == "worker, admin are in the registry"


def test_nothing_is_changed(world: World) -> None:
    world.check()
    assert not [line for line in world.pulumi.verbs if "set" in line.split() or "up" in line]
    asked = [line for each in world.nodes.servers.values() for line in each.asked]
    assert not [line for line in asked if line.split()[0] in ("POST", "PUT", "PATCH", "DELETE")]
    assert list((world.folder / "state").iterdir()) == []


def test_before_the_first_deploy_the_cluster_is_not_asked_for(world: World) -> None:
    world.outputs = {}
    checks = world.check()
    refuse(list(checks.values()))
    for name in ("cluster", "paused", "capacity"):
        assert (checks[name].outcome, checks[name].said) == (
            "skipped",
            "the stack was never deployed",
        )


def test_everything_that_is_wrong_is_told_at_once_and_side_by_side(world: World) -> None:
    for server in world.nodes.servers.values():
        server.delay = 0.5
    world.listeners[0].stop()
    world.listeners[1].stop()
    world.config["dns"]["zone"] = "-"
    checks = world.check()
    failed = [each.name for each in checks.values() if each.outcome == "failed"]
    assert failed == ["settings", "cloudflare", "hetzner"]
    assert checks["checkout"].said == "the settings are not right"
    assert checks["cluster"].outcome == "ok"


class Waiting(threading.local):
    """A clock for each thread, which goes only while that thread waits for another's answer."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Slow(Future[Any]):
    """An answer that takes a minute."""

    def __init__(self, clock: Waiting) -> None:
        super().__init__()
        self._clock = clock

    def result(self, timeout: float | None = None) -> Any:
        self._clock.now += 60 if timeout is None else 0
        return super().result(timeout)


def test_a_check_is_not_said_to_take_the_time_in_which_it_waits_for_the_settings(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Waiting()
    monkeypatch.setattr(preflight, "time", clock)
    monkeypatch.setattr(preflight, "Future", partial(Slow, clock))
    checks = world.check()
    assert checks["passphrase"].seconds == 60
    for name in ("settings", "registry", "cloudflare", "capacity"):
        assert checks[name].seconds == 0


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        "incorrect passphrase",
        'constructing secrets manager of type "passphrase": incorrect passphrase, please set '
        "PULUMI_CONFIG_PASSPHRASE to the correct passphrase or set PULUMI_CONFIG_PASSPHRASE_FILE",
        "incorrect passphrase: PULUMI_CONFIG_PASSPHRASE (or the file that "
        "PULUMI_CONFIG_PASSPHRASE_FILE names) does not open this stack",
    ],
)
def test_a_wrong_passphrase(world: World, said: str) -> None:
    world.answers = {"config": {"error": said}, "stack_output": {"error": said}}
    assert world.fails("passphrase") == (
        "the passphrase does not open this stack's secrets\n"
        "    mend   export PULUMI_CONFIG_PASSPHRASE_FILE=<the file with the right one>"
    )
    checks = world.check()
    assert checks["settings"].said == "they are encrypted"
    assert checks["cluster"].said == "the stack cannot be read"


def test_no_passphrase(world: World) -> None:
    said = (
        'constructing secrets manager of type "passphrase": unable to find either '
        "`PULUMI_CONFIG_PASSPHRASE` or `PULUMI_CONFIG_PASSPHRASE_FILE` when trying to access the "
        "Passphrase Secrets Provider"
    )
    world.answers = {"config": {"error": said}, "stack_output": {"error": said}}
    assert world.fails("passphrase") == (
        "there is no passphrase to open this stack's secrets with\n"
        "    mend   export PULUMI_CONFIG_PASSPHRASE_FILE=<the file it stands in>"
    )


def test_settings_that_the_program_would_refuse(world: World) -> None:
    world.config["dns"]["zoneId"] = "0123"
    del world.config["secrets"]["SECRET_KEY"]
    assert world.fails("settings").splitlines() == [
        "honeydue:dns.zoneId must be 32 hexadecimal digits in lower case",
        "    mend   pulumi config set -s prod --path honeydue:dns.zoneId <32 hexadecimal digits>",
        "honeydue:secrets.SECRET_KEY is missing",
        "    mend   python -m ops secret set SECRET_KEY",
    ]


def test_a_stack_that_is_not_there(world: World) -> None:
    said = "no stack named 'prod' found"
    world.answers = {"config": {"error": said}, "stack_output": {"error": said}}
    checks = world.check()
    assert checks["settings"].said == "Pulumi.prod.yaml is here, and the backend has no stack prod"
    assert checks["passphrase"].said == checks["registry"].said == "the settings cannot be read"


# --- what is built ------------------------------------------------------------------------------


@pytest.mark.usefixtures("buildkit")
def test_a_dirty_checkout_and_which_files_are(world: World) -> None:
    app = world.builds()
    (app / "main.go").write_text("package main")
    (app / "Dockerfile").write_text("FROM scratch AS api\n# more\n")
    assert world.fails("checkout") == (
        f"{app} holds what is not committed (Dockerfile, main.go): a tag could not say what was "
        "built\n"
        f"    mend   git -C {app} commit, or git -C {app} stash; to try it out all the same: "
        "honeydue:image.allowDirty true"
    )
    world.config["image"]["allowDirty"] = True
    assert "-dirty-" in world.check()["checkout"].said


@pytest.mark.usefixtures("buildkit")
def test_another_commit_than_was_asked_for(world: World) -> None:
    app = world.builds()
    head = git(app, "rev-parse", "--short", "HEAD")
    assert world.fails("checkout", sha="99aa11b") == (
        f"{app} is at {head}, and 99aa11b was asked for\n    mend   git -C {app} checkout 99aa11b"
    )
    assert world.check(sha=git(app, "rev-parse", "HEAD"))["checkout"].outcome == "ok"
    assert world.check(sha=head)["checkout"].outcome == "ok"


@pytest.mark.usefixtures("buildkit")
def test_a_checkout_without_a_dockerfile(world: World) -> None:
    app = world.builds()
    git(app, "mv", "Dockerfile", "Containerfile")
    git(app, *GIT, "commit", "--quiet", "-m", "two")
    assert world.fails("checkout") == (
        f"{app} has no Dockerfile at its root\n"
        f"    mend   git -C {app} add Dockerfile, and commit it"
    )


def test_a_builder_that_does_not_answer(world: World) -> None:
    world.builds()
    at = f"unix://{world.folder}/buildkit"
    assert world.fails("builder") == (
        f"the builder honeydue-builder does not answer at {at}: No such file or directory\n"
        "    mend   start its buildkitd; docker buildx inspect honeydue-builder shows it"
    )
    at = f"tcp://127.0.0.1:{closed_port()}"
    world.builder(at)
    assert world.fails("builder").startswith(
        f"the builder honeydue-builder does not answer at {at}: Connection refused\n"
    )
    world.builder("nonsense")
    assert world.check()["builder"].outcome == "ok"  # buildx says it better


@pytest.mark.usefixtures("buildkit")
def test_what_the_program_would_miss_on_this_machine(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.builds()
    git_alone = world.folder / "git"
    git_alone.mkdir()
    for name in ("git", "sh", "cat"):
        found = subprocess.run(["which", name], capture_output=True, text=True, check=True)
        (git_alone / name).symlink_to(found.stdout.strip())
    (world.folder / "bin/trivy").unlink()
    monkeypatch.setenv("PATH", f"{world.folder / 'bin'}:{git_alone}")
    assert world.fails("builder") == (
        "honeydue:image.scan needs trivy, which is not on the PATH: nothing runs that was not "
        "scanned\n"
        "    mend   brew install trivy "
        "(https://trivy.dev/docs/latest/getting-started/installation/)"
    )


# --- registry and images ------------------------------------------------------------------------


def test_a_registry_that_is_down(world: World) -> None:
    world.listeners[2].stop()
    assert world.fails("registry") == (
        f"listing the tags of admin/honeydue-api failed: {world.server} refuses connections: the "
        "registry is down\n"
        f"    mend   see what http://{world.server}/v2/ answers; the registry's name is the "
        "setting honeydue:registry.server"
    )
    assert world.check()["images"].said == "the registry does not answer"


def test_a_registry_token_that_was_revoked(world: World) -> None:
    world.config["registry"]["token"] = "a-token-that-was-revoked"
    said = world.fails("registry")
    assert "does not accept the token of admin" in said
    assert "mend   set honeydue:registry.token to a token with read:package" in said


@pytest.mark.usefixtures("buildkit")
def test_a_registry_token_that_may_not_push_is_found_only_when_something_is_built(
    world: World,
) -> None:
    world.config["registry"]["token"] = world.gitea.token("admin", "read:package")
    refuse(list(world.check().values()))
    world.builds()
    said = world.fails("registry")
    assert said.startswith("asking whether admin/honeydue-api may be pushed to failed: ")
    assert "mend   set honeydue:registry.token to a token with write:package" in said


@pytest.mark.usefixtures("buildkit")
def test_asking_whether_one_may_push_leaves_nothing_behind(world: World) -> None:
    world.builds()
    assert world.check()["registry"].outcome == "ok"
    asked = [line.split()[0] for line in world.gitea.api.requests if "/uploads/" in line]
    assert sorted(asked[-6:]) == ["DELETE"] * 3 + ["POST"] * 3


def test_an_image_that_was_pruned(world: World) -> None:
    gone = f"99aa11b@sha256:{'9' * 64}"
    world.config["images"]["worker"] = gone
    assert world.fails("images") == (
        f"worker: {world.server}/admin/honeydue-worker does not have {gone}; there are 237c6b8\n"
        "    mend   python -m ops releases shows what can still be run; python -m ops deploy "
        "builds anew"
    )
    world.config["images"]["worker"] = "237c6b8"
    assert world.check()["images"].outcome == "ok"


def test_a_rehearsal_without_a_registry_is_not_refused_for_it(world: World) -> None:
    world.config["registry"]["server"] = "registry.honeydue.test"
    checks = world.check()
    refuse(list(checks.values()))
    assert checks["registry"].said == checks["images"].said
    assert checks["images"].said == (
        "registry.honeydue.test is a rehearsal's, which plays no registry without IMAGES=1"
    )


# --- vendors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "vendor", "at", "page"),
    [
        ("cloudflare", "Cloudflare", 0, "https://www.cloudflarestatus.com"),
        ("hetzner", "Hetzner", 1, "https://status.hetzner.com"),
    ],
)
def test_a_vendor_that_cannot_be_reached(
    world: World, name: str, vendor: str, at: int, page: str
) -> None:
    host = urlsplit(world.listeners[at].url).netloc
    stand_in = (world.cloudflare, world.hetzner)[at]
    stand_in.app.faults.inject(Fault("status", status=503, times=None))
    assert world.fails(name) == (
        f"{vendor} cannot be reached at {host}: it answers 503\n"
        f"    mend   look at this machine's network, and at {page}"
    )
    world.listeners[at].stop()
    assert world.fails(name).startswith(
        f"{vendor} cannot be reached at {host}: Connection refused\n"
    )


def test_a_vendor_that_does_not_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "SECONDS", 0.5)
    over = threading.Event()
    monkeypatch.setattr(world.cloudflare.app, "_sleep", lambda _seconds: over.wait(60))
    world.cloudflare.app.faults.inject(Fault("timeout", times=None))
    # Of the others nothing is said: on a busy machine half a second may be too short for them too.
    said = world.check()["cloudflare"].said
    over.set()
    assert said.endswith(": no answer within 0.5 s")


def test_a_token_of_cloudflare_that_is_wrong(world: World) -> None:
    world.config["cloudflareToken"] = "another-cloudflare-token".ljust(40, "0")
    assert world.fails("cloudflare") == (
        "Cloudflare does not take the token of honeydue:cloudflareToken: it answers 401\n"
        "    mend   make one at https://dash.cloudflare.com/profile/api-tokens, then: pulumi "
        "config set --secret honeydue:cloudflareToken"
    )


@pytest.mark.parametrize(
    ("key", "name"), [("cloudflareToken", "cloudflare"), ("hcloudToken", "hetzner")]
)
def test_a_token_that_is_none_is_neither_sent_nor_shown(world: World, key: str, name: str) -> None:
    """httpx quotes a header that it cannot send."""
    world.config[key] = f"{world.config[key]}\n"
    assert key in world.fails("settings")
    assert world.check()[name].outcome == "skipped"


def test_a_token_that_an_account_of_cloudflare_owns_is_as_good(world: World) -> None:
    """/user/tokens/verify does not know those."""
    fault = Fault("status", path="/user/tokens/verify", status=401, message="Invalid API Token")
    world.cloudflare.app.faults.inject(fault)
    assert world.check()["cloudflare"].said == "answers, and the token opens the zone"


def test_a_token_of_hetzner_that_is_wrong(world: World) -> None:
    world.config["hcloudToken"] = "AnotherHcloudToken".ljust(64, "0")
    assert world.fails("hetzner") == (
        "Hetzner does not take the token of honeydue:hcloudToken: it answers 401\n"
        "    mend   make one at https://console.hetzner.cloud, Security, API tokens, then: pulumi "
        "config set --secret honeydue:hcloudToken"
    )


# --- other runs ---------------------------------------------------------------------------------


def test_another_run_of_the_stack(world: World) -> None:
    with Backend(world.folder / "state").lock("honeydue", "prod"):
        said = world.fails("other runs")
    assert re.fullmatch(
        r"the stack is at work: \S+@\S+ \(pid \d+\) since \d{4}-\d\d-\d\d \d\d:\d\d UTC\n"
        "    mend   wait until that has ended, and run the same again",
        said,
    )


ELSEWHERE = "trey@laptop.trey.example (pid 4242) since 2026-11-22 02:14 UTC"
CLOUD = "somebody (Pulumi Cloud does not say who)"


@pytest.mark.parametrize("holder", [ELSEWHERE, CLOUD])
@pytest.mark.parametrize("take_over", [False, True])
def test_of_a_run_elsewhere_nobody_can_tell_and_what_ends_its_lock_is_said(
    world: World, monkeypatch: pytest.MonkeyPatch, holder: str, take_over: bool
) -> None:
    monkeypatch.setattr(Engine, "holders", lambda _self: [holder])
    assert world.fails("other runs", take_over=take_over) == (
        f"the stack is at work: {holder}\n"
        "    mend   wait until that has ended, and run the same again; if nobody is at work: "
        "pulumi cancel --stack prod --yes, then the same again"
    )


def test_a_rehearsals_lock_is_ended_by_its_own_verb() -> None:
    ends = preflight._cancel(Engine("rehearsal", "rehearsal"))
    assert ends == "python -m rehearsal cancel --stack rehearsal"


def test_the_lock_of_a_run_that_is_gone(world: World) -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    lock = world.folder / "state/.pulumi/locks/organization/honeydue/prod/x.json"
    lock.parent.mkdir(parents=True)
    holder = {
        "pid": gone.pid,
        "username": "trey",
        "hostname": socket.gethostname(),
        "timestamp": "2026-11-22T03:14:00.123456789+01:00",
    }
    lock.write_text(json.dumps(holder))
    assert world.fails("other runs") == (
        f"a run left its lock behind: trey@{socket.gethostname()} (pid {gone.pid}) since "
        "2026-11-22 02:14 UTC; that process is gone\n"
        "    mend   run the same with --take-over"
    )
    found = world.check(take_over=True)["other runs"]
    assert (found.outcome, found.said) == ("ok", "a lock that was left behind will be removed")


# --- the cluster --------------------------------------------------------------------------------


def test_an_api_that_is_not_reachable(world: World) -> None:
    world.nodes.stop()
    said = world.fails("cluster")
    assert said == (
        "no API server is well: honeydue-1 does not answer (Connection refused); honeydue-2 does "
        "not answer (Connection refused); honeydue-3 does not answer (Connection refused)\n"
        "    mend   python -m ops status; if the nodes are up, compare this machine's public "
        "address with operator.apiCidrs in the settings"
    )
    checks = world.check()
    assert checks["paused"].said == checks["capacity"].said == "the cluster does not answer"


def test_a_member_that_is_missing(world: World) -> None:
    world.nodes.servers["honeydue-3"].stop()
    world.kinds["nodes"][2] = roomy("honeydue-3", ready="Unknown")
    lines = world.fails("cluster").splitlines()
    assert lines[0] == "honeydue-3 is not Ready (Kubelet stopped posting node status.)"
    assert lines[2] == "honeydue-3: its API server does not answer (Connection refused)"
    assert lines[4] == "etcd: 2 of 3 members healthy, 2 needed, so none more may be lost"


def test_for_a_hotfix_a_lost_server_and_hetzner_are_warnings_while_quorum_stands(
    world: World,
) -> None:
    world.nodes.servers["honeydue-3"].stop()
    world.kinds["nodes"][2] = roomy("honeydue-3", ready="Unknown")
    world.config["hcloudToken"] = "AnotherHcloudToken".ljust(64, "0")
    found = world.check(hotfix=True, services=("admin",))
    refuse(list(found.values()))
    assert {n for n, each in found.items() if each.outcome == "warning"} == {"cluster", "hetzner"}
    assert [str(each).splitlines()[0] for each in found["cluster"].problems] == [
        "honeydue-3 is not Ready (Kubelet stopped posting node status.)",
        "honeydue-3: its API server does not answer (Connection refused)",
        "etcd: 2 of 3 members healthy, 2 needed, so none more may be lost",
    ]
    screen = io.StringIO()
    show(list(found.values()), Console(file=screen, width=200, highlight=False))
    said = {line.split()[1]: line.split()[0] for line in screen.getvalue().splitlines()}
    assert (said["hetzner"], said["cluster"], said["capacity"]) == ("warning", "warning", "ok")
    world.kinds["nodes"] = [roomy(name, cpu="10m") for name in world.nodes.servers]
    with pytest.raises(Refused, match=r"one more pod of admin .* fits on no node") as caught:
        refuse(list(world.check(hotfix=True, services=("admin",)).values()))
    assert "honeydue-3" not in str(caught.value).partition("free:")[0]


def test_without_a_quorum_also_a_hotfix_is_refused(world: World) -> None:
    for server in world.nodes.servers.values():
        server.readyz = "[+]ping ok\n[-]etcd failed\nreadyz check failed\n"
    with pytest.raises(Refused, match="no API server is well: honeydue-1 "):
        refuse(list(world.check(hotfix=True, services=("admin",)).values()))


def test_a_paused_deployment_of_what_may_roll(world: World) -> None:
    world.kinds["deployments"][1]["spec"]["paused"] = True
    assert world.fails("paused") == (
        "worker is paused: `up` would wait for its rollout in vain\n"
        "    mend   python -m ops resume worker"
    )
    refuse(list(world.check(services=("api",)).values()))


def test_no_room_for_one_more_pod(world: World) -> None:
    world.kinds["nodes"] = [roomy(name, cpu="600m") for name in world.nodes.servers]
    full = [pod("api", name=f"api-{n}", node=name) for n, name in enumerate(world.nodes.servers)]
    others = [pod("api", name="api-x"), pod("api", name="api-done", phase="Failed")]
    world.kinds["pods"] = [*full, *others]
    assert world.check()["capacity"].outcome == "ok"
    world.kinds["nodes"] = [roomy(name, cpu="450m") for name in world.nodes.servers]
    assert world.fails("capacity") == (
        "one more pod of api (250m CPU, 512 MiB) fits on no node; free: honeydue-1 -50m and 4096 "
        "MiB, honeydue-2 200m and 4608 MiB, honeydue-3 200m and 4608 MiB\n"
        "    mend   bring back the node that is missing (python -m ops status), or end something"
    )
    # The worker is a singleton: its old pod goes before the new one comes.
    checks = world.check(services=("worker",))
    assert checks["capacity"].said == "nothing that rolls needs more room than it has"


def test_a_node_that_takes_no_pods_has_no_room() -> None:
    cordoned = roomy("honeydue-1")
    cordoned["spec"] = {"unschedulable": True}
    silent = node("honeydue-3")
    down = roomy("honeydue-2", ready="False")
    assert free_on([cordoned, down, silent, roomy("honeydue-4", "1500m", "1000Mi")], []) == {
        "honeydue-4": (1500, 1000)
    }


def test_init_containers_count_as_for_the_scheduler() -> None:
    asks = {"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}
    small = {"resources": {"requests": {"cpu": "100m"}}}
    one = {"spec": {"nodeName": "n", "containers": [small, small], "initContainers": [asks]}}
    assert free_on([roomy("n", "2", "2Gi")], [one]) == {"n": (1000, 1024)}


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("250m", 0.25),
        ("4", 4),
        (2, 2),
        ("7700Mi", 7700 * 2**20),
        ("8027456Ki", 8027456 * 1024),
        ("1G", 10**9),
        ("1e3", 1000),
        ("2.5", 2.5),
    ],
)
def test_quantities(said: Any, found: float) -> None:
    value = quantity(said)
    assert value is not None
    assert float(value) == found


@pytest.mark.parametrize("said", ["", "x", "1.2.3", "1Q", None, [1]])
def test_what_is_no_quantity(said: Any) -> None:
    assert quantity(said) is None


# --- time ---------------------------------------------------------------------------------------


def test_a_check_that_does_not_end_is_told_and_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_AT_MOST", 3.0)
    over = threading.Event()
    monkeypatch.setattr(Engine, "holders", lambda _self: over.wait(120) and [])
    checks = world.check()
    over.set()
    (problem,) = checks["other runs"].problems
    assert str(problem) == (
        "other runs: not done within 3 s\n    mend   run the same again; python -m ops status"
    )
