"""The seam to the engines: what of a stack is read, from whom, and what stops it."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ops.engine import Edge, Engine, WrongPassphrase, _Files, alive, resources_of
from ops.problems import Refused
from rehearsal.cli import main as rehearsal_main
from rehearsal.engine.errors import EngineError
from rehearsal.engine.state import Backend
from tests.ops.pulumi import Pulumi


@pytest.fixture
def pulumi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pulumi:
    """Installed, with its state in tmp_path/state."""
    fake = Pulumi(tmp_path / "bin").answers(whoami={"url": f"file://{tmp_path / 'state'}"})
    (tmp_path / "state").mkdir()
    monkeypatch.setenv("PATH", str(fake.folder), prepend=os.pathsep)
    return fake


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without the Pulumi CLI."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def prod(pulumi: Pulumi) -> Engine:
    """Production, by that pulumi."""
    assert pulumi
    return Engine("pulumi", "prod")


def past(state: Path, nanoseconds: int, checkpoint: Any, *, packed: bool = False) -> Path:
    """One finished run in the DIY backend's history; its checkpoint's path."""
    folder = state / ".pulumi/history/honeydue/prod"
    folder.mkdir(parents=True, exist_ok=True)
    end = "json.gz" if packed else "json"
    (folder / f"prod-{nanoseconds}.history.{end}").write_bytes(b"{}")
    path = folder / f"prod-{nanoseconds}.checkpoint.{end}"
    content = json.dumps(checkpoint).encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


# --- which engine -------------------------------------------------------------------------------


def test_where_pulumi_is_installed_it_is_production(pulumi: Pulumi) -> None:
    assert pulumi
    assert Engine.find(None, None) == Engine("pulumi", "prod")
    assert Engine.find("staging", None).kind == "pulumi"
    assert Engine.find("rehearsal", None).kind == "rehearsal"
    assert Engine.find("rehearsal", "pulumi").kind == "pulumi"
    assert Engine.find(None, "rehearsal") == Engine("rehearsal", "rehearsal")


@pytest.mark.usefixtures("bare")
def test_without_pulumi_it_is_the_rehearsal() -> None:
    assert Engine.find(None, None) == Engine("rehearsal", "rehearsal")
    with pytest.raises(Refused, match=r"no `pulumi` on the PATH\n.*pulumi\.com"):
        Engine.find(None, "pulumi")


# --- what is read -------------------------------------------------------------------------------


def test_the_configuration_is_read_by_its_short_keys(pulumi: Pulumi, prod: Engine) -> None:
    registry = {"server": "gitea.test", "token": "canary"}
    pulumi.answers(
        config={
            "honeydue:registry": {
                "value": json.dumps(registry),
                "objectValue": registry,
                "secret": True,
            },
            "honeydue:protect": {"value": "true", "secret": False},
        }
    )
    assert prod.config() == {"registry": registry, "protect": "true"}
    assert "canary" not in pulumi.log


def test_a_verb_that_fails_says_what_the_engine_said(pulumi: Pulumi, prod: Engine) -> None:
    pulumi.answers(config={"error": "yaml: line 3"})
    with pytest.raises(Refused) as refusal:
        prod.config()
    assert str(refusal.value) == (
        "pulumi config --json: yaml: line 3\n"
        "    mend   pulumi --non-interactive config --json --stack prod must work by itself first"
    )


def test_a_wrong_passphrase_is_told_as_one_by_every_verb(pulumi: Pulumi, prod: Engine) -> None:
    pulumi.answers(config={"error": "incorrect passphrase"})
    with pytest.raises(WrongPassphrase) as refusal:
        prod.config()
    assert str(refusal.value) == (
        "the passphrase does not open this stack's secrets\n"
        "    mend   export PULUMI_CONFIG_PASSPHRASE_FILE=<the file with the right one>"
    )


def test_a_stack_that_is_not_there_is_told_with_those_that_are(pulumi: Pulumi) -> None:
    pulumi.answers(config={"error": "no stack named 'prd' found"})
    with pytest.raises(Refused) as refusal:
        Engine.find("prd", "pulumi").config()
    assert str(refusal.value) == (
        "there is no stack prd\n    mend   --stack prod or --stack rehearsal"
    )


def test_a_stack_whose_state_is_elsewhere(pulumi: Pulumi, prod: Engine) -> None:
    pulumi.answers(config={"error": "no stack named 'prod' found"})
    with pytest.raises(Refused) as refusal:
        prod.config()
    assert str(refusal.value) == (
        "Pulumi.prod.yaml is here, and the backend has no stack prod\n"
        "    mend   pulumi login <where its state is kept>; a new one: pulumi stack init prod"
    )


def test_what_has_no_stack_is_not_to_be_tried_with_one(pulumi: Pulumi, prod: Engine) -> None:
    said = "PULUMI_ACCESS_TOKEN must be set for login during non-interactive CLI sessions"
    pulumi.answers(whoami={"error": said})
    with pytest.raises(Refused) as refusal:
        prod.locate()
    assert str(refusal.value) == (
        f"pulumi whoami --json: {said}\n"
        "    mend   pulumi --non-interactive whoami --json must work by itself first"
    )


def test_a_value_keeps_its_last_line_break_although_the_cli_takes_one(
    pulumi: Pulumi, prod: Engine
) -> None:
    pulumi.answers(config_set="")
    prod.set("honeydue:secrets.APNS_AUTH_KEY", "-----END PRIVATE KEY-----\n", secret=True)
    prod.set("honeydue:images.api", "237c6b8", secret=False)
    assert pulumi.stdin == "-----END PRIVATE KEY-----\n237c6b8"


def test_no_command_waits_for_pulumi_com(pulumi: Pulumi, prod: Engine) -> None:
    asks = {"shell": 'test "$PULUMI_SKIP_UPDATE_CHECK" = true || exit 9; echo {}'}
    pulumi.answers(config=asks, up=asks)
    assert prod.config() == {}
    assert prod.up(each=lambda _: None) == 0


def test_past_states_come_newest_first_and_packed_ones_too(prod: Engine, tmp_path: Path) -> None:
    past(tmp_path / "state", 1_700_000_000_000_000_001, "first")
    past(tmp_path / "state", 1_700_000_000_000_000_003, "third")
    past(tmp_path / "state", 1_700_000_000_000_000_002, "second", packed=True)
    assert list(prod.history()) == ["third", "second", "first"]


def test_a_stack_that_never_ran_has_no_past(prod: Engine) -> None:
    assert list(prod.history()) == []


def test_what_a_past_state_is_packed_by_is_told_from_its_content(
    prod: Engine, tmp_path: Path
) -> None:
    plain = past(tmp_path / "state", 1_700_000_000_000_000_001, "was packed")
    plain.write_bytes(gzip.compress(plain.read_bytes()))
    packed = past(tmp_path / "state", 1_700_000_000_000_000_002, "was plain", packed=True)
    packed.write_bytes(gzip.decompress(packed.read_bytes()))
    assert list(prod.history()) == ["was plain", "was packed"]


@pytest.mark.parametrize("damage", ["missing", "cut", "broken", "zstd"])
def test_a_past_state_that_cannot_be_read_is_refused_with_its_name(
    prod: Engine, tmp_path: Path, damage: str
) -> None:
    packed = damage in {"cut", "broken"}
    path = past(tmp_path / "state", 1_700_000_000_000_000_001, {"a": "b"}, packed=packed)
    match damage:
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(path.read_bytes()[:-9])
        case "broken":
            path.write_bytes(path.read_bytes()[:10] + b"\xff" * 20)
        case "zstd":
            path.write_bytes(b"\x28\xb5\x2f\xfd rest")
    with pytest.raises(Refused, match=f"a past state of prod cannot be read: {path}"):
        list(prod.history())


def test_records_that_the_cli_packs_by_zstd_are_not_passed_over(
    prod: Engine, tmp_path: Path
) -> None:
    past(tmp_path / "state", 1_700_000_000_000_000_001, "read")
    for kind in ("history", "checkpoint"):
        name = f"state/.pulumi/history/honeydue/prod/prod-1700000000000000002.{kind}.json.zst"
        (tmp_path / name).write_bytes(b"\x28\xb5\x2f\xfd rest")
    newest, oldest = prod.runs()
    assert (newest.number, newest.result, oldest.checkpoint()) == (2, "unreadable", "read")
    with pytest.raises(Refused, match=r"zstd\n.*zstd -d --rm .*/honeydue/prod/\*\.zst"):
        newest.checkpoint()


def test_a_state_folder_that_is_not_there_is_not_an_empty_history(
    prod: Engine, tmp_path: Path
) -> None:
    (tmp_path / "state").rmdir()
    with pytest.raises(Refused, match=r"is not there\n    mend   pulumi login file://"):
        list(prod.history())


def test_before_the_first_rehearsal_that_is_what_makes_the_states_folder(tmp_path: Path) -> None:
    files = _Files(tmp_path / "state", "honeydue", "rehearsal", "make rehearse")
    with pytest.raises(Refused, match=r"is not there\n    mend   make rehearse"):
        list(files.runs())


def test_pulumi_cloud_gives_past_states_by_version(pulumi: Pulumi, prod: Engine) -> None:
    pulumi.answers(
        whoami={"url": "https://app.pulumi.com/honeydue"},
        stack_history=[{"version": 2}, {"version": 1}],
        stack_export__version_1="first",
        stack_export__version_2="second",
    )
    assert list(prod.history()) == ["second", "first"]


def test_a_bucket_whose_past_no_verb_lists_is_refused_with_the_way_around(
    pulumi: Pulumi, prod: Engine
) -> None:
    pulumi.answers(whoami={"url": "s3://honeydue-state?region=eu"})
    with pytest.raises(Refused, match=r"s3://honeydue-state\n.*PULUMI_BACKEND_URL=file://"):
        list(prod.history())


# --- alone --------------------------------------------------------------------------------------


def test_while_the_state_is_locked_nothing_is_begun_and_the_holder_is_named(
    prod: Engine, tmp_path: Path
) -> None:
    with (
        Backend(tmp_path / "state").lock("honeydue", "prod"),
        pytest.raises(
            Refused, match=rf"prod is locked by .*\(pid {os.getpid()}\) since .*\n.*wait"
        ),
        prod.alone(),
    ):
        pytest.fail("alone beside a run")


def test_while_we_are_alone_a_run_is_refused_and_afterwards_it_is_not(
    prod: Engine, tmp_path: Path
) -> None:
    backend = Backend(tmp_path / "state")
    with (
        prod.alone(),
        pytest.raises(EngineError, match="currently locked"),
        backend.lock("honeydue", "prod"),
    ):
        pytest.fail("a run beside us")
    with backend.lock("honeydue", "prod"):
        pass


def test_a_run_that_pulumi_cloud_knows_of_is_waited_for(pulumi: Pulumi, prod: Engine) -> None:
    cloud = {"url": "https://app.pulumi.com/honeydue"}
    others = [{"name": "honeydue/other/staging", "updateInProgress": True}]
    pulumi.answers(whoami=cloud, stack_ls=[*others, {"name": "prod"}])
    with prod.alone():
        pass
    pulumi.answers(whoami=cloud, stack_ls=[{"name": "prod", "updateInProgress": True}])
    with pytest.raises(Refused, match="a run of the stack prod is under way"), prod.alone():
        pytest.fail("alone beside a run")


# --- the rehearsal ------------------------------------------------------------------------------


def test_the_rehearsal_answers_like_pulumi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONEYDUE_REHEARSAL_HOME", str(tmp_path))
    rehearsal = Engine("rehearsal", "rehearsal")
    config = rehearsal.config()
    assert config["protect"] == "false"
    assert config["registry"].keys() == {"server", "namespace", "username", "token"}
    assert config["cluster"]["name"] == "honeydue"
    with rehearsal.alone():
        assert list((tmp_path / "state/.pulumi/locks").rglob("*.json"))
    (tmp_path / "state").mkdir(exist_ok=True)
    assert list(rehearsal.history()) == []


def test_the_rehearsal_shows_no_secret_without_being_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HONEYDUE_REHEARSAL_HOME", str(tmp_path))
    token = Engine("rehearsal", "rehearsal").config()["registry"]["token"]
    assert rehearsal_main(["config"]) == rehearsal_main(["config", "--json"]) == 0
    shown = capsys.readouterr().out
    assert "honeydue:registry" in shown
    assert token not in shown
    assert rehearsal_main(["config", "--json", "--show-secrets"]) == 0
    assert token in capsys.readouterr().out


# --- past runs, and what a run prints -----------------------------------------------------------


def run_of(state: Path, nanoseconds: int, **record: Any) -> None:
    checkpoint = {"checkpoint": {"latest": {"resources": [{"urn": f"of {nanoseconds}"}]}}}
    path = past(state, nanoseconds, checkpoint)
    path.with_name(path.name.replace(".checkpoint.", ".history.")).write_text(json.dumps(record))


def test_past_runs_are_numbered_from_the_oldest_and_read_newest_first(
    prod: Engine, tmp_path: Path
) -> None:
    run_of(tmp_path / "state", 1, kind="update", result="failed", startTime=60, endTime=90)
    run_of(
        tmp_path / "state",
        2,
        kind="update",
        result="succeeded",
        message="deploy 237c6b8\n\nBy: trey@laptop",
        resourceChanges={"same": 100, "update": 2},
    )
    newest, oldest = prod.runs()
    assert (newest.number, newest.result, newest.changes) == (
        2,
        "succeeded",
        {"same": 100, "update": 2},
    )
    assert newest.message.startswith("deploy 237c6b8")
    assert resources_of(newest.checkpoint()) == [{"urn": "of 2"}]
    assert (oldest.number, oldest.result) == (1, "failed")
    assert (oldest.ended - oldest.started).total_seconds() == 30


def test_attributes_that_the_clis_store_keeps_beside_a_file_are_no_runs(
    prod: Engine, tmp_path: Path
) -> None:
    for nanoseconds in (1, 2):
        run_of(tmp_path / "state", nanoseconds, kind="update", result="succeeded")
    for file in [*(tmp_path / "state").rglob("prod-*.json")]:
        file.with_name(f"{file.name}.attrs").write_text('{"user.content_type":"text/plain"}')
    assert [(run.number, run.kind) for run in prod.runs()] == [(2, "update"), (1, "update")]
    assert resources_of(prod.last_state()) == [{"urn": "of 2"}]
    assert len(prod.updates()) == 2


def test_a_record_that_cannot_be_read_keeps_its_number_and_hides_no_other(
    prod: Engine, tmp_path: Path
) -> None:
    run_of(tmp_path / "state", 1, kind="update", result="succeeded")
    broken = past(tmp_path / "state", 1_795_000_000_000_000_000, {})
    broken.with_name(broken.name.replace(".checkpoint.", ".history.")).write_text("{")
    newest, oldest = prod.runs()
    assert (newest.number, newest.result, newest.started.year) == (2, "unreadable", 2026)
    assert (oldest.number, oldest.result) == (1, "succeeded")


def test_pulumi_clouds_runs_have_its_own_version(pulumi: Pulumi, prod: Engine) -> None:
    pulumi.answers(
        whoami={"url": "https://api.pulumi.com"},
        stack_history=[{"version": 7, "kind": "update", "startTime": "2026-11-22T03:00:00.000Z"}],
        stack_export={"version": 3, "deployment": {"resources": [{"urn": "a"}]}},
    )
    (run,) = prod.runs()
    assert (run.number, run.started.hour) == (7, 3)
    assert resources_of(run.checkpoint()) == [{"urn": "a"}]
    assert "stack export --version 7" in pulumi.log


def test_the_plan_is_the_clis_digest(pulumi: Pulumi, prod: Engine) -> None:
    pulumi.answers(preview={"steps": [], "changeSummary": {"same": 3}})
    assert prod.plan()["changeSummary"] == {"same": 3}


def test_a_plan_that_fails_says_what_its_diagnostics_say(pulumi: Pulumi, prod: Engine) -> None:
    told = "error: before hook failed: quorum\n"  # as backend/display/json.go has it
    digest = {"diagnostics": [{"severity": "error", "message": told}]}
    pulumi.answers(preview={"shell": f"cat <<'END'\n{json.dumps(digest)}\nEND\nexit 255"})
    with pytest.raises(Refused) as refusal:
        prod.plan()
    assert str(refusal.value).startswith("pulumi preview: before hook failed: quorum\n    mend")


def test_what_a_plan_warns_of_is_not_called_a_warning_twice(pulumi: Pulumi, prod: Engine) -> None:
    said = {"severity": "warning", "message": "warning: images run unverified\n"}
    pulumi.answers(preview={"steps": [], "diagnostics": [said]})
    assert prod.plan()["diagnostics"][0]["message"] == "images run unverified"


def test_every_line_of_an_up_is_passed_on_with_the_last_one_unended(
    pulumi: Pulumi, prod: Engine
) -> None:
    pulumi.answers(up={"shell": "echo one; sleep 0.2; echo two >&2; printf three; exit 3"})
    lines: list[str] = []
    assert prod.up("deploy 1a2b3c4", lines.append) == 3
    assert lines == ["one", "two", "three"]
    assert "up --yes --skip-preview --message deploy 1a2b3c4" in pulumi.log


def test_an_engine_outlives_the_terminal_that_showed_it(pulumi: Pulumi, prod: Engine) -> None:
    def closed(_line: str) -> None:
        raise OSError(5, "Input/output error")

    done = pulumi.folder / "done"
    pulumi.answers(up={"shell": f"kill -HUP $$; echo one; sleep 0.1; echo two; touch {done}"})
    assert prod.up(each=closed) == 0
    assert done.exists()


def test_a_process_that_nobody_has_reaped_is_gone() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays in the table
    assert not alive(child.pid)
    child.wait()
    assert not alive(child.pid)
    assert alive(os.getpid())


def test_where_the_edge_is_can_be_said(prod: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prod.edge() is None
    monkeypatch.setenv("HONEYDUE_EDGE", "127.0.0.1:8443,/tmp/ca.pem")
    assert prod.edge() == Edge("127.0.0.1", 8443, "/tmp/ca.pem")
    monkeypatch.setenv("HONEYDUE_EDGE", "localhost")
    with pytest.raises(Refused, match="HONEYDUE_EDGE"):
        prod.edge()
