"""`ops deploy`: what the operator reads when all goes well, and each time when it does not."""

from __future__ import annotations

import base64
import json
import signal
from typing import Any

import pytest

from honeydue.images import checkout
from honeydue.images.references import SERVICES
from honeydue.images.registry_errors import RegistryError
from ops import change, deploy, rollout
from ops.engine import WrongPassphrase
from ops.lock import held
from ops.preflight import Check
from ops.preflight import check as really_check
from ops.problems import Problem, refused
from tests.ops.kubernetes_json import event
from tests.ops.production import (
    CANARY,
    FakeEngine,
    Operator,
    Production,
    afterwards,
    checked,
    ctrl_c,
    digest,
    ops,
    pin,
    production,
)

__all__ = ["ops", "production"]  # the fixtures

OLD, NEW = dict.fromkeys(SERVICES, "1a2b3c4"), dict.fromkeys(SERVICES, "237c6b8")
PINNED = {service: pin(service, "1a2b3c4") for service in SERVICES}
BACK = ["set honeydue:images.api 1a2b3c4", "set honeydue:images.worker 1a2b3c4",
        "set honeydue:images.admin 1a2b3c4", "up rollback to 2 (1a2b3c4)"]  # fmt: skip


def trailers(production: Production) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in production.runs[-1].message.splitlines()[2:])


# --- when all goes well -------------------------------------------------------------------------


def test_a_good_release_from_the_question_to_its_number(
    ops: Operator, production: Production
) -> None:
    assert ops("deploy", types="y") == 0
    assert production.tags == NEW
    assert production.said == ["up deploy 237c6b8"]
    assert trailers(production)["By"].count("@") == 1
    ops.says(
        "deploy 237c6b8 (prod)",
        "api rolls 1a2b3c4",
        "→ 237c6b8",
        "worker rolls",
        "admin rolls",
        "Deploy 237c6b8? [y/N]",
        "api: 3 of 3 ready, converged",
        "https://api.myhoneydue.com/api/health/ 200 41 ms",
        "deployed 237c6b8 as release 3 in 0 s",
        "roll back to 2 (1a2b3c4): python -m ops rollback",
    )
    ops.says("Duration: 3s")  # what the engine says is read, but for the stack's outputs
    assert "kubeconfig" not in ops.read


def test_pins_of_a_rollback_are_taken_away_so_that_the_checkout_is_built_again(
    ops: Operator, production: Production
) -> None:
    production.images = dict(PINNED)
    assert ops("deploy", "--yes") == 0
    assert production.images == {}
    assert production.tags == NEW


def test_one_service_alone_and_the_others_stay_what_they_are(
    ops: Operator, production: Production
) -> None:
    assert ops("deploy", "--service", "admin", "--yes") == 0
    assert production.tags == OLD | {"admin": "237c6b8"}
    assert production.images == {s: pin(s, "1a2b3c4") for s in ("api", "worker")}
    assert trailers(production)["Service"] == "admin"
    ops.says("deploy 237c6b8 of admin", "api does not roll", "admin rolls", "deployed 237c6b8 as")


def test_nothing_to_do_is_said_and_asked_whether_it_is_well(
    ops: Operator, production: Production
) -> None:
    production.head = "1a2b3c4"
    assert ops("deploy", types="y") == 0
    assert production.said == []
    ops.says(
        "Nothing to do: what runs is what the settings say.",
        "https://api.myhoneydue.com/api/health/ 200",
        "nothing to do: 1a2b3c4 runs already (release 2): it is well",
    )


def test_nothing_to_do_and_not_well_is_no_success_and_rolls_nothing_back(
    ops: Operator, production: Production
) -> None:
    production.head = "1a2b3c4"
    production.urls = lambda: [checked(why="500: the application fails", status=500)]
    assert ops("deploy", "--yes") == 1
    assert production.said == []
    ops.says(
        "nothing to do: 1a2b3c4 runs already (release 2), and it is not well: "
        "https://api.myhoneydue.com/api/health/ fails: 500",
        "python -m ops status says why; back: python -m ops rollback",
    )


def test_a_dry_run_shows_the_plan_and_leaves_the_settings(
    ops: Operator, production: Production
) -> None:
    production.images = dict(PINNED)
    assert ops("deploy", "--dry-run") == 0
    assert production.images == PINNED
    assert production.tags == OLD
    assert "leases" not in production.objects
    ops.says("api rolls", "dry run: nothing was changed")


def test_answered_with_no_the_settings_are_as_they_were(
    ops: Operator, production: Production
) -> None:
    production.images = dict(PINNED)
    assert ops("deploy", types="n") == 1
    assert production.images == PINNED
    assert production.tags == OLD
    ops.says("Deploy 237c6b8? [y/N]", "nothing was changed")
    assert not production.objects["leases"]


def test_a_preview_that_fails_leaves_the_settings(ops: Operator, production: Production) -> None:
    production.images = dict(PINNED)
    production.plan_fails = "honeydue:dns is wrong"
    assert ops("deploy", "--yes") == 1
    assert production.images == PINNED
    ops.says("nothing was changed")
    ops.says("pulumi preview: honeydue:dns is wrong")


def test_what_is_dangerous_is_asked_for_twice_and_never_done_by_yes(
    ops: Operator, production: Production
) -> None:
    server = {
        "type": "hcloud:index/server:Server",
        "custom": True,
        "inputs": {"name": "honeydue-2"},
    }
    urn = "urn:pulumi:prod::honeydue::hcloud:index/server:Server::honeydue-2"
    production.extra = [{"op": "replace", "urn": urn, "oldState": server, "newState": server}]
    assert ops("deploy", "--yes") == 1
    assert production.tags == OLD
    ops.says("DANGER replaces the server honeydue-2", "nothing was changed")
    ops.says("--yes does not cover what this would do: replaces the server honeydue-2")
    ops.says("`pulumi up` by yourself")
    ops.monkeypatch.setattr("builtins.input", lambda asked: print(asked) or "y")
    assert ops("deploy", types="y") == 0
    ops.says("Deploy 237c6b8? [y/N]", "Also what is marked DANGER? [y/N]", "deployed 237c6b8")


def test_for_programs(ops: Operator) -> None:
    assert ops("deploy", "--json", types="") == 2
    ops.says("--json is for programs, which cannot be asked: add --yes")
    assert ops("deploy", "--json", "--yes") == 0
    said = json.loads(ops.out)
    assert (said["exitCode"], said["ended"], said["release"]) == (0, "succeeded", 3)
    assert [each["name"] for each in said["plan"]["services"]] == list(SERVICES)
    assert said["urls"][0]["ok"] is True


def test_hooks_are_told_what_is_released_and_what_became_of_it(
    ops: Operator, production: Production
) -> None:
    folder = production.folder / "deploy" / "hooks"
    folder.mkdir()
    for name in ("before-deploy", "after-deploy", "on-failure"):
        (folder / name).write_text(f"#!/bin/sh\ncat > {production.folder}/{name}.json\n")
        (folder / name).chmod(0o755)

    def told(name: str) -> Any:
        return json.loads((production.folder / f"{name}.json").read_text())

    assert ops("deploy", "--yes") == 0
    before, after = told("before-deploy"), told("after-deploy")
    assert (before["number"], before["tag"], before["outcome"]) == (None, "237c6b8", "")
    assert before["services"]["api"] == {"tag": "237c6b8", "digest": "", "reference": ""}
    assert (after["number"], after["outcome"], after["verb"]) == (3, "succeeded", "deploy")
    assert after["services"]["api"]["digest"] == digest("api", "237c6b8")
    production.head, production.behaves["worker"] = "99d0e1f", "crashes"
    production.behaves["worker", "237c6b8"] = "ok"
    assert ops("deploy", "--yes") == 3
    failed = told("on-failure")
    assert (failed["outcome"], failed["rollback"]) == ("rolled back", "succeeded")
    assert failed["reason"].startswith("worker did not become ready")


def test_a_hook_that_says_no_leaves_everything_as_it_was(
    ops: Operator, production: Production
) -> None:
    hook = production.folder / "deploy" / "hooks" / "before-deploy"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\necho not on a Friday\nexit 1\n")
    hook.chmod(0o755)
    assert ops("deploy", "--yes") == 1
    assert production.said == []
    ops.says("not on a Friday")
    assert not production.objects["leases"]


# --- which images -------------------------------------------------------------------------------


class Shelf:
    """A registry. `down`: why it cannot be asked."""

    tags_of: dict[str, dict[str, str]] = {}  # noqa: RUF012 - a test's own
    down = ""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def digest(self, repository: str, name: str) -> str | None:
        if self.down:
            raise RegistryError("unreachable", self.down, "bring it back")
        return self.tags_of[repository.rsplit("-", 1)[-1]].get(name)

    def tags(self, repository: str) -> list[str]:
        return list(self.tags_of[repository.rsplit("-", 1)[-1]])


@pytest.fixture(name="shelf")
def registry(monkeypatch: pytest.MonkeyPatch) -> type[Shelf]:
    class Made(Shelf):
        tags_of: dict[str, dict[str, str]] = {}  # noqa: RUF012 - a test's own

    made = Made
    for service in SERVICES:
        made.tags_of[service] = {t: digest(service, t) for t in ("0a1b2c3", "55aa55a")}
    monkeypatch.setattr(deploy, "Registry", made)
    return made


@pytest.mark.usefixtures("shelf")
def test_an_older_commit_runs_by_its_images_and_nothing_is_built(
    ops: Operator, production: Production
) -> None:
    assert ops("deploy", "--sha", "55aa55a" + "0" * 33, "--yes") == 0
    assert production.images == {s: pin(s, "55aa55a") for s in SERVICES}
    ops.says("deploy 55aa55a (prod)", "deployed 55aa55a as release 3")


def test_the_commit_that_is_checked_out_is_built_also_when_it_is_named(
    ops: Operator, production: Production
) -> None:
    assert ops("deploy", "--sha", "237c6b8", "--yes") == 0
    assert production.images == {}


def test_images_that_are_not_there_are_refused_with_the_nearest(
    ops: Operator, production: Production, shelf: type[Shelf]
) -> None:
    shelf.tags_of["worker"].pop("55aa55a")
    assert ops("deploy", "--sha", "55aa55a", "--yes") == 1
    assert production.said == []
    ops.says(
        "worker: gitea.treytartt.com/admin/honeydue-worker has no image 55aa55a; nearest: 0a1b2c3",
        "check out 55aa55a in the application's checkout, and: python -m ops deploy",
    )
    assert "api:" not in ops.read


@pytest.mark.parametrize(
    "word", ["", "HEAD", "main", "buildcache", "$(id)", "-", "1a2b3c", f"sha256:{'0' * 64}"]
)
def test_what_is_no_commits_sha_is_a_wrong_command_line(
    ops: Operator, production: Production, word: str
) -> None:
    assert ops("deploy", f"--sha={word}", "--yes") == 2
    assert production.said == []
    ops.says(f"--sha {word!r} is no commit's SHA: 7 to 40 hexadecimal digits")


def test_an_unreachable_registry_stops_it_before_anything_is_changed(
    ops: Operator, production: Production, shelf: type[Shelf]
) -> None:
    shelf.down = "gitea.treytartt.com does not answer"
    assert ops("deploy", "--sha", "55aa55a", "--yes") == 1
    assert production.said == []
    ops.says("gitea.treytartt.com does not answer: it is not known which images 55aa55a has")


def test_without_a_checkout_a_commit_has_to_be_named(
    ops: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.stack_settings.StackSettings.section", lambda _self, _name: {})
    assert ops("deploy", "--yes") == 1
    ops.says("has no checkout to build from (honeydue:app.path)", "deploy --sha SHA")


def test_a_dirty_checkout_is_refused_with_what_is_in_it(
    ops: Operator, production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dirty(*_: object, **__: object) -> None:
        raise checkout.CheckoutError(
            "../app holds what is not committed (main.go)", "git -C ../app commit"
        )

    monkeypatch.setattr(checkout, "read", dirty)
    assert ops("deploy", "--yes") == 1
    assert production.said == []
    ops.says("../app holds what is not committed (main.go)", "git -C ../app commit")


@pytest.mark.parametrize(
    ("name", "what", "mend"),
    [
        ("passphrase", "the passphrase does not open this stack's secrets", "export PULUMI_"),
        ("registry", "gitea.treytartt.com does not answer", "look at this machine's network"),
        ("cluster", "no API server is well", "python -m ops status"),
        ("cloudflare", "Cloudflare cannot be reached", "https://www.cloudflarestatus.com"),
    ],
)
def test_what_preflight_finds_stops_it_before_anything_is_changed(  # noqa: PLR0917
    ops: Operator,
    production: Production,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    what: str,
    mend: str,
) -> None:
    found = Check(name=name, outcome="failed", said=what, problems=(Problem(what, mend),))
    monkeypatch.setattr("ops.preflight.check", lambda _asked: [found])
    assert ops("deploy", "--yes") == 1
    assert (production.said, production.tags) == ([], OLD)
    ops.says("failed " + name, what)
    ops.says("error: " + what, mend)


def test_a_wrong_passphrase_is_called_that(
    ops: Operator, production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(_engine: object) -> None:
        raise WrongPassphrase.of("incorrect passphrase") or AssertionError

    monkeypatch.setattr(FakeEngine, "configured", closed)
    monkeypatch.setattr("ops.preflight.check", really_check)
    assert ops("deploy", "--yes") == 1
    assert production.said == []
    ops.says("failed passphrase", "the passphrase does not open this stack's secrets")
    ops.says(
        "error: the passphrase does not open this stack's secrets",
        "export PULUMI_CONFIG_PASSPHRASE_FILE=",
    )


# --- when a rollout fails -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "because", "details"),
    [
        ("pull-fails", "ImagePullBackOff", ("not found", "the image is gone from the registry")),
        ("crashes", "CrashLoopBackOff: exit 2, 4 restarts", ("log connecting to postgres",)),
        ("never-ready", "up, not ready", ("api: ",)),
    ],
)
def test_pods_that_do_not_become_ready_take_the_release_back(
    ops: Operator, production: Production, behaviour: str, because: str, details: tuple[str, ...]
) -> None:
    production.behaves["api", "237c6b8"] = behaviour
    assert ops("deploy", "--yes") == 3
    assert production.tags == OLD
    assert production.images == PINNED
    assert production.said == ["up deploy 237c6b8", *BACK]
    assert trailers(production)["Rolls-back"] == "3"
    assert because in trailers(production)["Because"]
    ops.says(
        f"rollout failed: api did not become ready (ProgressDeadlineExceeded: {because}",
        "Rolling back to release 2 (1a2b3c4), for at most 20 min",
        "api: 3 of 3 ready, converged",
        "FAILED rollout: api did not become ready",
        "Rolled back: production runs release 2 (1a2b3c4) again. api goes first: worker and admin "
        "never rolled",
        "What is wrong",
        *details,
        "What runs now",
        "api 1a2b3c4 (old), worker 1a2b3c4 (unchanged), admin 1a2b3c4 (unchanged)",
        "What the next `up` does",
        "changes no image: the settings name what runs",
    )
    ops.says("do nothing now, it is taken back; mend the cause, then run the same again")
    assert "python -m ops rollback" not in ops.read  # it would go back one more


def test_ready_but_the_url_is_broken(ops: Operator, production: Production) -> None:
    def urls() -> list[Any]:
        broken = production.runs_now("api") == "237c6b8"
        return [checked(why="500: the application fails", status=500) if broken else checked()]

    production.urls = urls
    assert ops("deploy", "--yes") == 3
    assert production.tags == OLD
    assert production.said == ["up deploy 237c6b8", *BACK]
    ops.says(
        "api: 3 of 3 ready, converged",
        "final URLs failed: https://api.myhoneydue.com/api/health/ fails: 500: the application",
        "Rolled back: production runs release 2 (1a2b3c4) again",
        "api: ready, and its URL fails",
        "log connecting to postgres",
        "https://api.myhoneydue.com/api/health/",
    )


def test_the_configuration_goes_back_too(ops: Operator, production: Production) -> None:
    text = production.env.read_text()
    production.env.write_text(text.replace("DB_PORT=5432", "DB_PORT=6432"))
    production.behaves["api", "237c6b8"] = "crashes"
    assert ops("deploy", "--yes") == 3
    assert production.env.read_text() == text
    assert production.tags == OLD


def test_an_admin_that_fails_after_api_has_rolled_takes_all_of_it_back(
    ops: Operator, production: Production
) -> None:
    production.behaves["admin", "237c6b8"] = "crashes"
    assert ops("deploy", "--yes") == 3
    assert production.tags == OLD
    ops.says(
        "rollout failed: admin did not become ready",
        "Rolled back: production runs release 2 (1a2b3c4) again",
        "the release is one: api 1a2b3c4 (old), worker 1a2b3c4 (old), admin 1a2b3c4 (old)",
    )
    assert "never rolled" not in ops.read


def test_the_first_release_of_all_has_nothing_to_go_back_to(
    ops: Operator, production: Production
) -> None:
    production.runs.clear()
    production.objects.clear()
    production.behaves["api"] = "crashes"
    assert ops("deploy", "--yes") == 4
    ops.says(
        "FAILED rollout: api did not become ready",
        "Not rolled back: no release before this one went well, so there is nothing to roll back "
        "to. Mend it and deploy again: python -m ops deploy",
        "api has nothing ready",
        "What the next `up` does",
        "builds api, worker and admin from the checkout's HEAD",
    )


def test_before_there_is_a_cluster_no_lock_is_taken_and_the_release_is_watched_all_the_same(
    ops: Operator, production: Production
) -> None:
    production.runs.clear()
    production.objects.clear()
    production.deployed = False
    assert ops("deploy", "--yes") == 0
    ops.says("no lock: it is kept in the cluster, which is not there before the first `up`")
    ops.says("api: 3 of 3 ready, converged", "deployed 237c6b8 as release 1")
    assert "roll back" not in ops.read


def test_a_rollback_that_itself_fails_says_what_runs_and_what_mends_it(
    ops: Operator, production: Production
) -> None:
    production.behaves["api"] = "crashes"
    assert ops("deploy", "--yes") == 4
    assert production.images == PINNED
    ops.says(
        "The rollback to release 2 (1a2b3c4) failed too: api did not become ready",
        "The settings name it: when the cause is mended, the next `up` goes on with it.",
        "again python -m ops rollback --to 2",
        "then python -m ops status",
        "What runs now",
    )
    assert "set image" not in ops.read  # each Deployment names it already


def test_a_rollback_that_the_engine_cannot_do_says_how_it_is_done_by_hand_a_line_each(
    ops: Operator, production: Production
) -> None:
    production.behaves["api", "237c6b8"] = "crashes"

    def no_plugin() -> None:
        if production.images:  # the rollback's
            production.breaks["build"] = "no provider plugin"

    production.during["build"] = no_plugin
    ops.monkeypatch.setenv("COLUMNS", "60")
    assert ops("deploy", "--yes") == 4
    by_hand = (
        "           kubectl -n honeydue set image deployment/api "
        f"api=gitea.treytartt.com/admin/honeydue-api@{digest('api', '1a2b3c4')}"
    )
    assert by_hand in ops.read.splitlines()


def test_a_rollback_whose_up_fails_at_something_else_has_brought_production_back(
    ops: Operator, production: Production
) -> None:
    production.behaves["admin", "237c6b8"] = "crashes"

    def vendor() -> None:
        if production.images:  # the rollback's
            production.breaks["vendor"] = "Cloudflare answers 503"

    production.during["vendor"] = vendor
    assert ops("deploy", "--yes") == 3
    assert production.tags == OLD
    ops.says(
        "Rolling back to release 2 (1a2b3c4), for at most 30 min",
        "Rolled back: production runs release 2 (1a2b3c4) again. `up` failed at something else: "
        "Cloudflare answers 503. When that is mended, the next `up` goes on with it",
    )
    assert "failed too" not in ops.read


def test_a_rollback_that_is_stopped_before_all_of_it_is_back_has_not_brought_production_back(
    ops: Operator, production: Production
) -> None:
    production.behaves["admin", "237c6b8"] = "crashes"

    def vendor() -> None:
        if production.images:  # the rollback's
            production.breaks["after api"] = "Cloudflare answers 503"

    production.during["after api"] = vendor
    assert ops("deploy", "--yes") == 4
    assert production.tags == NEW | {"api": "1a2b3c4"}
    ops.says("The rollback to release 2 (1a2b3c4) failed too: Cloudflare answers 503")


def test_a_rollback_after_which_the_way_to_it_fails_is_not_said_to_have_failed(
    ops: Operator, production: Production
) -> None:
    production.behaves["api", "237c6b8"] = "crashes"
    away = "no connection within 10 s"
    production.urls = afterwards(production, checked(why=away, status=None, on_the_way=True))
    assert ops("deploy", "--yes") == 4
    assert production.tags == OLD
    ops.says(
        "Rolled back: every pod of release 2 (1a2b3c4) is ready again. api goes first",
        "What fails now lies on the way to them: https://api.myhoneydue.com/api/health/ fails: no ",
    )
    assert "failed too" not in ops.read


def test_a_point_of_no_return_that_fails_is_not_taken_back_by_itself(
    ops: Operator, production: Production
) -> None:
    production.behaves["api", "237c6b8"] = "crashes"
    reason = "drops the column users.email"
    assert ops("deploy", "--yes", "--point-of-no-return", reason) == 4
    assert production.tags == OLD | {"api": "237c6b8"}
    assert trailers(production)["Point-of-no-return"] == reason
    ops.says(
        f"Not rolled back: this release is a point of no return ({reason}), and may have done it.",
        "python -m ops rollback --to 2 --past-point-of-no-return",
    )


def test_a_point_of_no_return_that_went_well_offers_no_rollback_that_is_refused(
    ops: Operator,
) -> None:
    assert ops("deploy", "--yes", "--point-of-no-return", "drops a column") == 0
    ops.says(
        "2 (1a2b3c4) lies before a point of no return; back all the same: "
        "python -m ops rollback --to 2 --past-point-of-no-return"
    )
    assert "roll back to" not in ops.read


def test_a_boot_that_waits_for_the_migration_lock_is_no_failure(
    ops: Operator, production: Production
) -> None:
    """240 s of it are in test_convergence; here, that a slow one is simply waited for."""
    production.behaves["api", "237c6b8"] = "slow"
    assert ops("deploy", "--yes") == 0
    ops.says("deployed 237c6b8 as release 3")


# --- what is no failure of the release ----------------------------------------------------------


def test_a_build_that_fails_has_changed_nothing_and_is_not_tried_again_by_the_next_up(
    ops: Operator, production: Production
) -> None:
    production.images = dict(PINNED)
    production.breaks["build"] = "trivy: 1 CRITICAL vulnerability in honeydue-api"
    assert ops("deploy", "--yes") == 1
    assert (production.tags, production.images) == (OLD, PINNED)
    ops.says(
        "FAILED up: trivy: 1 CRITICAL vulnerability in honeydue-api",
        "Nothing that runs was changed, and the settings are as they were. When it is mended, run "
        "the same again",
        "api 1a2b3c4",
        "changes no image: the settings name what runs",
    )
    assert "rollback" not in ops.read


@pytest.mark.parametrize(
    ("told", "because"),
    [
        ("error: honeydue-api: 1 CRITICAL vulnerability", "honeydue-api: 1 CRITICAL vulnerability"),
        ("Killed", 'exit status 1: running "for python in'),
    ],
)
def test_of_a_command_that_failed_the_cause_is_told_and_not_the_script_that_the_plugin_quotes(
    ops: Operator, production: Production, told: str, because: str
) -> None:
    production.images = dict(PINNED)
    quoted = r'exit status 1: running "for python in \"$HONEYDUE_PYTHON\"; do\n exit 1\n":'
    production.breaks["build"] = f"{quoted}\nscanning honeydue-api\n{told}\nerror: update failed"
    assert ops("deploy", "--yes") == 1
    ops.says(f"FAILED up: {because}")


def test_what_was_changed_beside_the_services_before_it_failed_is_not_called_nothing(
    ops: Operator, production: Production
) -> None:
    production.images = dict(PINNED)
    production.beside = {"create": 2, "update": 1}
    production.breaks["build"] = "trivy: 1 CRITICAL vulnerability in honeydue-api"
    assert ops("deploy", "--yes") == 1
    assert (production.tags, production.images) == (OLD, PINNED)
    ops.says(
        "No service was changed, and the settings are as they were; the engine did other things "
        "before it failed (create 2, update 1), which the next `up` takes back. When it is mended, "
        "run the same again",
    )
    assert "Nothing" not in ops.read


def test_a_vendor_that_fails_beside_a_release_that_runs_is_no_reason_to_take_it_back(
    ops: Operator, production: Production
) -> None:
    production.breaks["vendor"] = "Cloudflare answers 503"
    assert ops("deploy", "--yes") == 4
    assert production.tags == NEW
    ops.says(
        "FAILED up: Cloudflare answers 503",
        "Not rolled back: every service that was to roll runs the release, and the URLs answer; "
        "`up` failed at something else. When that is mended, run the same again, and it goes on",
    )


def test_a_vendor_that_fails_in_the_middle_takes_the_half_release_back(
    ops: Operator, production: Production
) -> None:
    production.breaks["after api"] = "Cloudflare answers 503"
    assert ops("deploy", "--yes") == 3
    assert production.tags == OLD
    ops.says("up failed: Cloudflare answers 503", "Rolled back: production runs release 2")


def test_an_edge_that_is_away_afterwards_is_not_the_releases_fault(
    ops: Operator, production: Production
) -> None:
    away = "DNS does not know api.myhoneydue.com"
    production.urls = afterwards(production, checked(why=away, status=None, on_the_way=True))
    assert ops("deploy", "--yes") == 4
    assert production.tags == NEW
    ops.says(
        "FAILED final URLs: https://api.myhoneydue.com/api/health/ fails: DNS does not know",
        "Not rolled back: every pod is ready, and what fails lies on the way to them",
        "run the same again: it then only checks",
    )


def test_an_edge_that_is_away_and_a_vendor_too_are_not_the_releases_fault_either(
    ops: Operator, production: Production
) -> None:
    challenge = "403: Cloudflare asks whether we are human"
    production.urls = afterwards(production, checked(why=challenge, status=403, on_the_way=True))
    production.breaks["vendor"] = "Cloudflare answers 503"
    assert ops("deploy", "--yes") == 4
    assert production.tags == NEW
    ops.says("Not rolled back: every pod is ready, and what fails lies on the way to them")


def test_a_url_that_failed_before_is_a_warning_and_no_reason_to_go_back(
    ops: Operator, production: Production
) -> None:
    broken = checked("admin", why="502: Traefik gets no answer from the pod", status=502)
    production.urls = lambda: [checked(), broken]
    assert ops("deploy", "--yes") == 0
    assert production.tags == NEW
    ops.says(
        "warning: https://admin.myhoneydue.com/ fails already: 502: Traefik gets no answer",
        "https://admin.myhoneydue.com/ 502",
        "admin 502: Traefik gets no answer from the pod (failed before this release too)",
        "deployed 237c6b8 as release 3",
    )


def test_a_url_that_failed_otherwise_before_takes_the_release_back(
    ops: Operator, production: Production
) -> None:
    def urls() -> list[Any]:
        new = production.runs_now("api") == "237c6b8"
        status = 500 if new else 503
        return [checked(why=f"{status}: it fails", status=status)]

    production.urls = urls
    assert ops("deploy", "--yes") == 3
    assert production.tags == OLD
    ops.says(
        "warning: https://api.myhoneydue.com/api/health/ fails already: 503: it fails",
        "final URLs failed: https://api.myhoneydue.com/api/health/ fails: 500: it fails",
        "503: it fails (failed before this release too)",
        "Rolled back: production runs release 2",
    )


def test_when_no_api_server_answers_afterwards_nobody_can_tell_and_nothing_is_rolled_back(
    ops: Operator, production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "ROLLOUT_SECONDS", 0)
    monkeypatch.setattr(rollout, "GRACE", 0.1)

    def silence() -> None:
        production.silent = True

    production.during["vendor"] = silence
    assert ops("deploy", "--yes") == 4
    assert production.tags == NEW
    ops.says(
        "Not rolled back: no API server answers, so nobody can tell what runs. When one does "
        "(python -m ops status), run the same again, or python -m ops rollback",
        "the cluster could not be asked: no API server answers",
        "not known: the cluster does not say what runs",
    )


def test_when_no_api_server_answers_before_nothing_begins(
    ops: Operator, production: Production
) -> None:
    production.silent = True
    assert ops("deploy", "--yes") == 1
    assert production.said == []
    ops.says("no API server answers")


# --- an engine that cannot be read once it has worked --------------------------------------------


def deaf(monkeypatch: pytest.MonkeyPatch, production: Production, *names: str) -> None:
    """From the end of `up` on, these reads of the engine fail."""

    def later() -> None:
        def fails(_engine: object) -> None:
            raise refused("pulumi: api.pulumi.com answers 503", "wait")

        for name in names:
            monkeypatch.setattr(FakeEngine, name, fails)

    production.during["vendor"] = later


def test_a_release_that_runs_is_no_refusal_when_the_engine_cannot_be_read_afterwards(
    ops: Operator, production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf(monkeypatch, production, "outputs", "configured", "runs")
    assert ops("deploy", "--yes") == 4
    assert production.tags == NEW
    ops.says(
        "FAILED final URLs: the final URLs could not be asked: pulumi: api.pulumi.com answers 503",
        "Not rolled back: every pod is ready, but the final URLs could not be asked. When they can "
        "be, run the same again: it then only checks",
        "What the next `up` does",
        "not known: the settings cannot be read",
    )


def test_a_history_that_cannot_be_read_afterwards_is_no_failure_of_the_release(
    ops: Operator, production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf(monkeypatch, production, "runs")
    assert ops("deploy", "--yes") == 0
    ops.says("deployed 237c6b8 in 0 s")


def test_a_hook_is_run_also_when_it_cannot_be_told_everything(
    ops: Operator, production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = production.folder / "deploy" / "hooks" / "after-deploy"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\ngrep outcome\n")
    hook.chmod(0o755)
    deaf(monkeypatch, production, "runs")
    assert ops("deploy", "--yes") == 0
    ops.says(
        "warning: the hook after-deploy is not told everything: pulumi: api.pulumi.com answers 503",
        "hook after-deploy",
        '"outcome": "succeeded"',
    )


def test_an_engine_that_cannot_even_begin_leaves_the_settings_as_they_were(
    ops: Operator, production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> int:
        raise refused("pulumi up: No such file or directory: pulumi", "install it")

    production.images = dict(PINNED)
    monkeypatch.setattr(FakeEngine, "up", fails)
    assert ops("deploy", "--yes") == 1
    assert (production.tags, production.images) == (OLD, PINNED)
    ops.says(
        "FAILED up: pulumi up: No such file or directory: pulumi",
        "Nothing that runs was changed, and the settings are as they were",
    )


# --- two at once, and stopped ones --------------------------------------------------------------


def test_a_second_operator_reads_who_deploys_what_and_changes_nothing(
    ops: Operator, production: Production
) -> None:
    seen: list[int] = []

    def second() -> None:
        production.during.clear()
        seen.append(ops("rollback", "--yes"))

    production.during["build"] = second
    assert ops("deploy", "--yes") == 0
    assert seen == [1]
    assert production.said == ["up deploy 237c6b8"]


@pytest.mark.parametrize("words", [("deploy",), ("rollback",), ("config", "set", "DB_PORT=6432")])
def test_who_decided_on_what_runs_before_another_released_is_told_to_look_again(
    ops: Operator, production: Production, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Between reading the history and having the lock lie seconds: another's whole release fits."""

    def late(*given: Any, **how: Any) -> Any:
        images, production.images = production.images, {s: pin(s, "99d0e1f") for s in SERVICES}
        production.up("deploy 99d0e1f\n\nBy: ann@desk", lambda _line: None)
        production.images = images
        return held(*given, **how)

    monkeypatch.setattr(change, "held", late)
    text = production.env.read_text()
    assert ops(*words, "--yes") == 1
    assert production.said == []
    assert production.env.read_text() == text
    assert production.tags == dict.fromkeys(SERVICES, "99d0e1f")
    ops.says(
        "somebody released meanwhile (run 3: deploy 99d0e1f by ann@desk); nothing was changed",
        "run the same again: it then looks at what runs now",
    )
    assert not production.objects["leases"]


def test_whose_lock_was_taken_over_meanwhile_does_not_begin(
    ops: Operator, production: Production
) -> None:
    production.images = dict(PINNED)

    def taken(_question: str) -> str:
        lease = production.objects["leases"]["deploy"]
        lease["metadata"]["annotations"]["honeydue.com/run"] = "another"
        lease["spec"]["holderIdentity"] = "ann@desk 7"
        lease["metadata"]["resourceVersion"] = "999"
        return "y"

    ops.monkeypatch.setattr("builtins.input", taken)
    assert ops("deploy", types="y") == 1
    assert (production.tags, production.images) == (OLD, PINNED)
    ops.says("nothing was changed")
    ops.says("ann@desk has taken over the lock", "this run goes no further")


def test_the_engines_stale_lock_is_removed_when_it_is_taken_over(
    ops: Operator, production: Production
) -> None:
    production.holders = ["trey@laptop (pid 7) since 02:14; that process is gone"]
    assert ops("deploy", "--yes", "--take-over") == 0
    assert production.said == ["cancel", "up deploy 237c6b8"]
    ops.says("the lock of the engine's run that is gone is removed")


def test_ctrl_c_at_the_question_leaves_everything_as_it_was(
    ops: Operator, production: Production
) -> None:
    production.images = dict(PINNED)

    def pressed(_question: str) -> str:
        raise KeyboardInterrupt

    ops.monkeypatch.setattr("builtins.input", pressed)
    assert ops("deploy", types="y") == 130
    assert (production.images, production.tags) == (PINNED, OLD)
    ops.says("nothing was changed")
    assert not production.objects["leases"]


def test_ctrl_c_while_it_builds_leaves_everything_as_it_was(
    ops: Operator, production: Production
) -> None:
    production.images = dict(PINNED)
    production.during["build"] = ctrl_c
    production.breaks["build"] = "update canceled"
    assert ops("deploy", "--yes") == 130
    assert (production.images, production.tags) == (PINNED, OLD)
    ops.says("Nothing that runs was changed, and the settings are as they were")
    assert "FAILED" not in ops.read


def test_ctrl_c_in_the_middle_of_a_rollout_rolls_nothing_back_and_the_verb_goes_on_from_there(
    ops: Operator, production: Production
) -> None:
    production.during["after api"] = ctrl_c
    production.breaks["after api"] = "update canceled"
    assert ops("deploy", "--yes") == 130
    assert production.tags == OLD | {"api": "237c6b8"}
    ops.says(
        "Stopped by Ctrl-C, and nothing was rolled back. Run the same again, and it goes on; or "
        "back: python -m ops rollback",
        "What runs now",
        "api 237c6b8 (new), worker 1a2b3c4 (unchanged)",
        "What the next `up` does",
    )
    production.during.clear()
    production.breaks.clear()
    assert ops("deploy", "--yes") == 0
    assert production.tags == NEW
    ops.says("api does not roll", "worker rolls", "deployed 237c6b8 as release 4")


def test_a_kill_in_the_middle_of_a_rollout_is_passed_on_to_the_engine_and_counts_as_ctrl_c(
    ops: Operator, production: Production
) -> None:
    def killed() -> None:
        signal.raise_signal(signal.SIGTERM)
        assert production.breaks == {"vendor": "cancelled"}  # what FakeEngine does when told
        told.append(True)

    before, told = signal.getsignal(signal.SIGTERM), list[bool]()
    production.during["after api"] = killed
    assert ops("deploy", "--yes") == 130
    assert told == [True]
    assert signal.getsignal(signal.SIGTERM) == before
    ops.says("nothing was rolled back. Run the same again, and it goes on")


def test_ctrl_c_while_the_urls_are_asked(ops: Operator, production: Production) -> None:
    def pressed() -> list[Any]:
        if production.tags == OLD:
            return []
        raise KeyboardInterrupt

    production.urls = pressed
    assert ops("deploy", "--yes") == 130
    assert production.tags == NEW
    ops.says("Stopped by Ctrl-C, and nothing was rolled back")


def test_ctrl_c_while_the_urls_are_asked_beforehand_leaves_everything_as_it_was(
    ops: Operator, production: Production
) -> None:
    def pressed() -> list[Any]:
        raise KeyboardInterrupt

    production.images, production.urls = dict(PINNED), pressed
    assert ops("deploy", "--yes") == 130
    assert (production.images, production.tags) == (PINNED, OLD)
    ops.says("nothing was changed")


def test_ctrl_c_in_the_rollback_says_that_up_goes_on_with_it(
    ops: Operator, production: Production
) -> None:
    production.behaves["api", "237c6b8"] = "crashes"

    def second() -> None:
        if production.images:  # the rollback's
            production.breaks["vendor"] = "update canceled"
            ctrl_c()

    production.during["vendor"] = second
    assert ops("deploy", "--yes") == 130
    assert production.images == PINNED
    ops.says("The rollback to release 2 (1a2b3c4) was stopped by Ctrl-C: the next `up` goes on")


def test_a_run_that_was_killed_in_its_rollout_and_is_run_again_is_judged_as_one(
    ops: Operator, production: Production
) -> None:
    """Its Deployment was changed by then, and Kubernetes goes on: the second run changes nothing
    in it, and must still take it back."""
    production.roll("api", "crashes")
    assert ops("deploy", "--yes") == 3
    assert production.tags["api"] == "1a2b3c4"
    ops.says("rollout failed: api did not become ready", "Rolled back: production runs release 2")


def test_a_run_that_was_killed_before_up_began_is_run_again(
    ops: Operator, production: Production
) -> None:
    """It had changed the settings by then, and left its lock: of a process that is no more."""
    production.images = {"worker": pin("worker", "1a2b3c4")}
    assert ops("deploy", "--yes") == 0
    assert (production.images, production.tags) == ({}, NEW)


def test_a_run_that_was_killed_after_up_is_run_again_and_asks_what_it_did_not(
    ops: Operator, production: Production
) -> None:
    production.up("deploy 237c6b8\n\nBy: trey@laptop", lambda _line: None)
    assert ops("deploy", "--yes") == 0
    assert production.said == []
    ops.says("nothing to do: 237c6b8 runs already (release 3): it is well")


def test_the_time_of_a_rollback_has_an_end(
    ops: Operator, production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "ROLLOUT_SECONDS", 0.1)
    monkeypatch.setattr(rollout, "ENDING", 0.05)
    production.behaves["api", "237c6b8"] = "crashes"

    def hangs() -> None:
        import time  # noqa: PLC0415

        end = time.monotonic() + 60
        while production.images and not production.breaks and time.monotonic() < end:
            time.sleep(0.01)
        if "vendor" in production.breaks:  # told to end, it does so where it is
            production.breaks["build"] = production.breaks.pop("vendor")

    production.during["build"] = hangs
    assert ops("deploy", "--yes") == 4
    ops.says("The rollback to release 2 (1a2b3c4) failed too: not done within 0 s")


# --- no secret ----------------------------------------------------------------------------------


def test_no_secret_is_printed_whatever_an_engine_or_a_pod_says(
    ops: Operator, production: Production
) -> None:
    """`Operator` looks for it in all that it reads, in every test."""
    production.breaks["build"] = f"cannot log in with {CANARY}"
    assert ops("deploy", "--yes") == 1
    ops.says("FAILED up: cannot log in with [secret]")


def test_no_value_of_the_clusters_secrets_is_read_or_kept_also_when_the_settings_have_another(
    ops: Operator, production: Production
) -> None:
    """A probe's answer is the application's own text, and is kept in the history's message."""
    old = "canary-of-before-it-was-rotated-5Hx-" + "x" * 40
    secret = production.objects["secrets"][production.secret]
    secret["data"]["SECRET_KEY"] = base64.b64encode(old.encode()).decode()
    production.behaves["api", "237c6b8"] = "never-ready"

    def probe_says() -> None:
        for name in [*production.objects["pods"]]:
            said = f"Readiness probe failed: {old} is refused"
            production.objects.setdefault("events", {})[name] = event("Unhealthy", said, name)

    hook = production.folder / "deploy" / "hooks" / "on-failure"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\ngrep reason\n")
    hook.chmod(0o755)
    production.during["after api"] = probe_says
    assert ops("deploy", "--yes") == 3
    assert old[:20] not in ops.read
    assert old[:20] not in "".join(run.message for run in production.runs)
    assert "up, not ready: [secret] is refused" in trailers(production)["Because"]
    ops.says("api did not become ready", "up, not ready: [secret] is refused", '"reason": "api did')


def test_a_lock_that_somebody_holds_is_told_and_nothing_changed(
    ops: Operator, production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise refused("ann@desk deploys 99d0e1f since 02:14 UTC (4 min)", "wait")

    monkeypatch.setattr(change, "held", nobody)
    assert ops("deploy", "--yes") == 1
    assert production.said == []
    ops.says("ann@desk deploys 99d0e1f since 02:14 UTC (4 min)")
