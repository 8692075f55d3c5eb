"""`ops rollback`: where to, why not, and what becomes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from honeydue.images.references import SERVICES
from ops import rollback as rolling_back
from ops.engine import Engine
from ops.stack_settings import StackSettings
from tests.ops.production import Operator, Production, Shelf, digest, ops, pin, production

__all__ = ["ops", "production"]  # the fixtures


def pinned(tag: str) -> dict[str, str]:
    return {service: pin(service, tag) for service in SERVICES}


def runs(tag: str) -> dict[str, str]:
    return dict.fromkeys(SERVICES, tag)


def trailers(production: Production) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in production.runs[-1].message.splitlines()[2:])


def deployed(production: Production, tag: str, **more: str) -> None:
    """One more release, as a deploy leaves it."""
    production.images = pinned(tag)
    said = "".join(f"\n{key.replace('_', '-')}: {value}" for key, value in more.items())
    production.up(f"deploy {tag}\n\nBy: ann@desk{said}", lambda _line: None)
    production.images, production.said = {}, []


def test_to_the_last_good_one_without_a_build(ops: Operator, production: Production) -> None:
    assert ops("rollback", types="y") == 0
    assert production.tags == runs("0a1b2c3")
    assert production.images == pinned("0a1b2c3")
    assert production.said[-1] == "up rollback to 1 (0a1b2c3)"
    assert trailers(production)["Rolls-back"] == "2"
    ops.says(
        "rollback to 1 (0a1b2c3) (prod)",
        "api rolls 1a2b3c4",
        "→ 0a1b2c3",
        "Roll back to 1 (0a1b2c3)? [y/N]",
        "api: 3 of 3 ready, converged",
        "https://api.myhoneydue.com/api/health/ 200",
        "rolled back to 1 (0a1b2c3) as release 3 in 0 s",
        "the next `up` changes nothing; python -m ops deploy goes forward again",
        f"commit Pulumi.prod.yaml, and copy {production.env}, which git ignores: elsewhere a plain "
        "`up` does not know of it",
    )


def test_in_a_rehearsal_nothing_is_to_be_committed(
    ops: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.rollback._elsewhere", partial(of_a_rehearsal, rolling_back._elsewhere))
    assert ops("rollback", "--yes") == 0
    ops.says("rolled back to 1 (0a1b2c3) as release 3")
    assert "commit" not in ops.read


def of_a_rehearsal(elsewhere: Any, stack: StackSettings, *more: Any) -> Any:
    return elsewhere(replace(stack, engine=Engine("rehearsal", "rehearsal")), *more)


def test_hooks_are_told(ops: Operator, production: Production) -> None:
    hook = production.folder / "deploy" / "hooks" / "before-deploy"
    hook.parent.mkdir()
    hook.write_text(f"#!/bin/sh\ncat > {production.folder}/told.json\n")
    hook.chmod(0o755)
    assert ops("rollback", "--yes") == 0
    told = json.loads((production.folder / "told.json").read_text())
    assert (told["verb"], told["tag"], told["stack"]) == ("rollback", "0a1b2c3", "prod")
    assert told["services"]["api"] == {
        "tag": "0a1b2c3",
        "digest": digest("api", "0a1b2c3"),
        "reference": f"gitea.treytartt.com/admin/honeydue-api@{digest('api', '0a1b2c3')}",
    }


def test_one_that_was_taken_back_is_not_gone_back_to(ops: Operator, production: Production) -> None:
    assert ops("rollback", "--yes") == 0
    deployed(production, "55aa55a")
    assert ops("rollback", "--yes") == 0
    assert production.tags == runs("0a1b2c3")
    ops.says("rollback to 3 (0a1b2c3)")


@pytest.mark.parametrize("to", ["1", "#1", "0a1b2c3", "0A1B2C3D", "0a1b2c3" + "d" * 33])
def test_to_a_number_or_a_commit_with_the_configuration_that_it_had(
    ops: Operator, production: Production, to: str
) -> None:
    before = production.env.read_text()
    production.env.write_text(before.replace("DB_PORT=5432", "DB_PORT=6432"))
    deployed(production, "55aa55a")
    assert ops("rollback", "--to", to, "--yes") == 0
    assert production.tags == runs("0a1b2c3")
    assert production.env.read_text() == before
    ops.says("rollback to 1 (0a1b2c3) (prod)")


def test_configuration_goes_back_and_secrets_do_not(ops: Operator, production: Production) -> None:
    before = production.env.read_text()
    production.env.write_text(before.replace("DB_PORT=5432", "DB_PORT=6432"))
    production.secret = "honeydue-secrets-2222222222"
    deployed(production, "55aa55a")
    assert ops("rollback", types="y") == 0
    assert production.env.read_text() == before
    ops.says("configuration: another ConfigMap")
    ops.says("secrets stay as they are now: they were changed since", "Roll back to 2 (1a2b3c4)?")
    container = production.objects["deployments"]["api"]["spec"]["template"]["spec"]["containers"]
    assert {"secretRef": {"name": "honeydue-secrets-2222222222"}} in container[0]["envFrom"]


def test_one_service_alone_and_the_others_stay_what_they_are(
    ops: Operator, production: Production
) -> None:
    assert ops("rollback", "--service", "api", "--yes") == 0
    assert production.tags == runs("1a2b3c4") | {"api": "0a1b2c3"}
    assert production.images == pinned("1a2b3c4") | {"api": pin("api", "0a1b2c3")}
    assert "Rolls-back" not in trailers(production)
    assert trailers(production)["Service"] == "api"
    ops.says("configuration stays as it is now: only images go back")
    ops.says("commit Pulumi.prod.yaml: elsewhere a plain `up` does not know of it")


def hotfix(production: Production, service: str, tag: str) -> None:
    """A release of one service, as `deploy --service` leaves it."""
    production.images = {s: pin(s, production.tags[s]) for s in SERVICES} | {
        service: pin(service, tag)
    }
    production.up(f"deploy {tag}\n\nBy: ann@desk\nService: {service}", lambda _line: None)
    production.images, production.said = {}, []


def test_of_one_service_what_did_not_change_it_is_passed_over(
    ops: Operator, production: Production
) -> None:
    """Release 3 is a hotfix of admin: of api it has what runs, and 1 is the last other one."""
    hotfix(production, "admin", "55aa55a")
    assert ops("rollback", "--service", "api", "--yes") == 0
    assert production.tags == {"api": "0a1b2c3", "worker": "1a2b3c4", "admin": "55aa55a"}
    ops.says("rollback to 1 (0a1b2c3) of api (prod)", "api rolls 1a2b3c4", "→ 0a1b2c3")
    assert ops("rollback", "--service", "admin", "--yes") == 0
    assert production.tags["admin"] == "1a2b3c4"


def test_of_one_service_that_was_never_another(ops: Operator, production: Production) -> None:
    del production.runs[0]
    production.runs[0] = replace(production.runs[0], number=1)
    hotfix(production, "admin", "55aa55a")
    assert ops("rollback", "--service", "api", "--yes") == 1
    ops.says(
        "nothing to roll back to: no release before 2 (1a2b3c4, 55aa55a) went well with another "
        "api",
        "to an older image: python -m ops rollback --service api --to SHA",
    )


def test_of_one_service_the_line_that_mends_names_it(ops: Operator, production: Production) -> None:
    assert ops("rollback", "--service", "api", "--to", "2", "--yes") == 1
    ops.says(
        "release 2 (1a2b3c4) cannot be rolled back to: api runs that now",
        "python -m ops rollback --service api --to one of 1 (0a1b2c3)",
    )
    production.behaves["api", "0a1b2c3"] = "pull-fails"
    assert ops("rollback", "--service", "api", "--yes") == 4
    ops.says("The rollback failed.", "again python -m ops rollback --service api --to 1")
    ops.says("kubectl -n honeydue set image deployment/api")
    assert "set image deployment/worker" not in ops.read


def test_a_dry_run_changes_nothing(ops: Operator, production: Production) -> None:
    assert ops("rollback", "--dry-run") == 0
    assert (production.images, production.tags) == ({}, runs("1a2b3c4"))
    ops.says("api rolls 1a2b3c4", "dry run: nothing was changed")


def test_answered_with_no(ops: Operator, production: Production) -> None:
    assert ops("rollback", types="n") == 1
    assert (production.images, production.tags) == ({}, runs("1a2b3c4"))
    ops.says("nothing was changed")


def test_for_programs(ops: Operator) -> None:
    assert ops("rollback", "--json", "--yes") == 0
    assert json.loads(ops.out)["ended"] == "succeeded"


# --- refused ------------------------------------------------------------------------------------


def test_images_that_are_gone_are_named_and_what_there_is_instead(
    ops: Operator, production: Production
) -> None:
    deployed(production, "55aa55a")
    production.missing = {(s, digest(s, "1a2b3c4")) for s in ("api", "worker")}
    assert ops("rollback", "--yes") == 1
    assert production.said == []
    ops.says(
        "release 2 (1a2b3c4) cannot be rolled back to: images gone: api, worker",
        "python -m ops rollback --to one of 1 (0a1b2c3)",
    )


def test_when_all_images_are_gone_it_says_what_is_left_to_do(
    ops: Operator, production: Production
) -> None:
    production.missing = {(s, digest(s, "0a1b2c3")) for s in SERVICES}
    assert ops("rollback", "--yes") == 1
    ops.says("images gone: api, worker, admin", "no listed release can be; python -m ops deploy")


def test_a_point_of_no_return_says_why_and_is_passed_when_told_so(
    ops: Operator, production: Production
) -> None:
    deployed(production, "55aa55a", Point_of_no_return="drops the column users.email")
    assert ops("rollback", "--yes") == 1
    assert production.said == []
    ops.says(
        "release 2 (1a2b3c4) cannot be rolled back to: behind the point of no return "
        "(3: drops the column users.email)",
        "roll forward: python -m ops deploy; or, if the database can take it: the same with "
        "--past-point-of-no-return",
    )
    assert ops("rollback", "--yes", "--past-point-of-no-return") == 0
    assert production.tags == runs("1a2b3c4")


def test_what_runs_already_is_refused(ops: Operator, production: Production) -> None:
    assert ops("rollback", "--to", "2", "--yes") == 1
    assert production.said == []
    ops.says("release 2 (1a2b3c4) cannot be rolled back to: it is what runs now")


def test_nothing_to_go_back_to(ops: Operator, production: Production) -> None:
    production.runs.pop(0)
    production.runs[0] = production.runs[0].__class__(**{**vars(production.runs[0]), "number": 1})
    assert ops("rollback", "--yes") == 1
    ops.says("nothing to roll back to: no release before 1 (1a2b3c4) went well")


def test_before_the_first_release(ops: Operator, production: Production) -> None:
    production.runs.clear()
    assert ops("rollback", "--yes") == 1
    ops.says("nothing runs that could be rolled back", "python -m ops deploy")


def test_a_failed_release_is_no_goal(ops: Operator, production: Production) -> None:
    production.behaves["api", "55aa55a"] = "crashes"
    deployed(production, "55aa55a")
    deployed(production, "66bb66b")
    assert ops("rollback", "--to", "3", "--yes") == 1
    ops.says("release 3 (1a2b3c4, 55aa55a) cannot be rolled back to: no: it failed")


def test_a_number_that_there_is_not(ops: Operator) -> None:
    assert ops("rollback", "--to", "9", "--yes") == 1
    ops.says("there is no release 9")


# --- by an image alone --------------------------------------------------------------------------


def test_an_older_commit_of_no_listed_release_runs_by_its_images(
    ops: Operator, production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.deploy.Registry", Shelf("99d0e1f"))
    assert ops("rollback", "--to", "99d0e1f", "--yes") == 0
    assert production.images == pinned("99d0e1f")
    ops.says("configuration stays as it is now: only images go back", "rolled back to 99d0e1f as")
    assert ops("rollback", "--to", "88c0d0e", "--yes") == 1
    ops.says("has no image 88c0d0e; nearest: 99d0e1f")


# --- failing ------------------------------------------------------------------------------------


def test_a_rollback_that_fails_says_what_runs_and_what_mends_it_and_can_be_tried_again(
    ops: Operator, production: Production
) -> None:
    production.behaves["api", "0a1b2c3"] = "pull-fails"
    assert ops("rollback", "--yes") == 4
    assert production.images == pinned("0a1b2c3")
    ops.says(
        "FAILED rollout: api did not become ready (ProgressDeadlineExceeded: ImagePullBackOff",
        "The rollback failed.",
        "The settings name it: when the cause is mended, the next `up` goes on with it.",
        "again python -m ops rollback --to 1",
        "kubectl -n honeydue set image deployment/api",
        "What runs now",
        "api 1a2b3c4 (old), worker 1a2b3c4 (unchanged), admin 1a2b3c4 (unchanged)",
        "What the next `up` does",
    )
    production.behaves.clear()
    production.objects["deployments"]["api"]["spec"]["template"]["metadata"]["again"] = "yes"
    production.stated["api"]["spec"]["template"]["metadata"]["again"] = "yes"
    assert ops("rollback", "--to", "1", "--yes") == 0
    assert production.tags == runs("0a1b2c3")


def test_a_sick_cluster_is_a_reason_for_a_rollback_and_not_against_it(
    ops: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ops.preflight import Check  # noqa: PLC0415
    from ops.problems import Problem  # noqa: PLC0415

    def found(name: str) -> list[Check]:
        problem = Problem(f"{name} is not well", "mend it")
        return [Check(name=name, outcome="failed", said=problem.what, problems=(problem,))]

    monkeypatch.setattr("ops.preflight.check", lambda _asked: found("cluster"))
    assert ops("rollback", "--yes") == 0
    ops.says("warning: cluster is not well", "rolled back to 1 (0a1b2c3)")
    monkeypatch.setattr("ops.preflight.check", lambda _asked: found("settings"))
    assert ops("rollback", "--to", "2", "--yes") == 1
    ops.says("error: settings is not well")


def test_a_deploy_that_was_killed_in_its_way_back_is_brought_to_its_end_by_a_rollback(
    ops: Operator, production: Production
) -> None:
    production.behaves["api", "237c6b8"] = "crashes"
    production.images = {}
    production.up("deploy 237c6b8\n\nBy: trey@laptop", lambda _line: None)
    production.images = pinned("1a2b3c4")
    assert ops("rollback", "--yes") == 0
    assert production.tags == runs("1a2b3c4")
    assert trailers(production)["Rolls-back"] == "3"
    ops.says("rollback to 2 (1a2b3c4)", "rolled back to 2 (1a2b3c4) as release 4")
