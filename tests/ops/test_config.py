"""`ops config`: nothing wrong is written, nothing is rolled unasked, and it is known what rolls."""

from __future__ import annotations

import json
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from honeydue import env_file
from ops import env_edit
from ops.cli import main
from ops.stack_settings import rolling, what_rolls
from tests.ops.operator import ENV, PLAN, Operator, ops
from tests.ops.world import Cluster
from tests.settings import sample

__all__ = ["ops"]  # the fixture

ROLLED = ["preview", "up --yes --skip-preview"]


# --- show ---------------------------------------------------------------------------------------


def test_show_says_value_meaning_and_readers_and_of_secrets_only_that_they_are_set(
    ops: Operator,
) -> None:
    del ops.config["secrets"]["FCM_SERVER_KEY"]
    ops.env_file.write_text(ENV.replace("FCM_PROJECT_ID=honeydue-app\n", ""))
    code, read = ops("config", "show")
    assert code == 0
    rows = [line.split() for line in read.splitlines()]
    assert ["ALLOWED_HOSTS", "api.myhoneydue.com,myhoneydue.com", "api", "hosts"] in [
        row[:4] for row in rows
    ]
    assert ["FCM_PROJECT_ID", "-", "api,", "worker"] in rows
    assert ["SECRET_KEY", "yes", "api,", "worker", "signs", "sessions", "and", "tokens"] in rows
    assert ["FCM_SERVER_KEY", "no", "api,", "worker"] in rows
    assert "refuse" not in read
    for value in sample.CONFIG["secrets"].values():
        assert value not in read


def test_show_one_key_for_programs(ops: Operator) -> None:
    code, read = ops("config", "show", "DB_HOST", "--json")
    assert code == 0
    assert json.loads(read) == {
        "stack": "prod",
        "envFile": str(ops.env_file),
        "environment": [
            {
                "key": "DB_HOST",
                "value": "db.vendor.net",
                "meaning": "the database server",
                "services": ["api", "worker"],
                "required": True,
            }
        ],
        "secrets": [],
    }


def test_show_tells_what_the_program_would_refuse_and_no_value_that_may_be_a_secret(
    ops: Operator,
) -> None:
    with ops.env_file.open("a") as file:
        file.write("POSTGRES_PASSWORD=canary-password\nTOKEN=canary-token\n")
    del ops.config["secrets"]["SECRET_KEY"]
    code, read = ops("config", "show")
    assert code == 0
    assert "The program would refuse this (3)" in read
    assert "POSTGRES_PASSWORD is a secret" in read
    assert "python -m ops secret set SECRET_KEY" in read
    assert "canary" not in read


def test_show_of_an_unknown_key_is_refused(ops: Operator) -> None:
    code, read = ops("config", "show", "DB_HOTS")
    assert (code, "DB_HOTS is no setting" in read) == (1, True)


# --- set ----------------------------------------------------------------------------------------


def test_set_edits_previews_asks_and_rolls(ops: Operator) -> None:
    code, read = ops("config", "set", "DB_PORT=6432", "TIMEZONE=Europe/Berlin", types="y")
    assert code == 0
    assert ops.did == ROLLED
    assert ops.env_file.read_text() == ENV.replace("DB_PORT=5432", "DB_PORT=6432").replace(
        "DB_HOST", "TIMEZONE=Europe/Berlin\nDB_HOST"
    )
    assert stat.S_IMODE(ops.env_file.stat().st_mode) == 0o640
    assert [path.name for path in ops.env_file.parent.iterdir()] == ["prod.env"]
    for part in ("5432", "6432", "Europe/Berlin", "api     rolls", "UP"):
        assert part in read
    assert "rolls api and worker; admin stays" in read


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("NEXT_PUBLIC_API_URL=https://api.myhoneydue.com/v2", "rolls admin; api and worker stay"),
        ("DAILY_DIGEST_HOUR=4", "rolls worker; api and admin stay"),
        ("CORS_ALLOWED_ORIGINS=https://admin.myhoneydue.com,https://x.myhoneydue.com", "rolls api"),
    ],
)
def test_only_those_who_read_what_changes_are_said_to_roll(
    ops: Operator, assignment: str, told: str
) -> None:
    code, read = ops("config", "set", assignment, "--dry-run")
    assert (code, ops.did) == (0, [])
    assert told in read
    assert ops.env_file.read_text() == ENV


def test_every_wrong_value_is_told_at_once_and_the_file_is_untouched(ops: Operator) -> None:
    before = ops.env_file.stat().st_mtime_ns, ops.env_file.stat().st_ino
    words = ("DB_PORT=http", "DAILY_DIGEST_HOUR=25", "BASE_URL=https://other.test", "NEW=1")
    code, read = ops("config", "set", *words, types="y")
    assert code == 1
    for key in ("DB_PORT", "DAILY_DIGEST_HOUR", "BASE_URL", "NEW"):
        assert f"prod.env: {key} " in read
    assert (ops.env_file.stat().st_mtime_ns, ops.env_file.stat().st_ino) == before
    assert ops.did == []


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("canary-without-equals", "argument 1 is not KEY=value"),
        ("SECRET_KEY=canary", "is a secret, and stands in this shell's history"),
        ("DB_HOST=canary\nDEBUG=true", "holds a line break"),
        ("DB_HOST=canary # mine", "holds a comment"),
        ("DB_HOST=$canary", "holds a $ reference"),
        ("canary=1", "is not KEY=value with a key of capital letters"),
    ],
)
def test_what_cannot_be_set_is_refused_without_being_repeated(
    ops: Operator, argument: str, told: str
) -> None:
    code, read = ops("config", "set", argument, types="y")
    assert code == (2 if "=" not in argument else 1)
    assert told in read
    assert "canary" not in read
    assert ops.env_file.read_text() == ENV


def test_answered_with_no_the_file_is_as_it_was(ops: Operator) -> None:
    seen = ops.env_file.with_name("seen")
    shown = shlex.quote(json.dumps(PLAN))
    ops.answers["preview"] = {"shell": f"grep DB_PORT {ops.env_file} > {seen}; echo {shown}"}
    code, read = ops("config", "set", "DB_PORT=6432", types="n")
    assert (code, ops.did) == (1, ["preview"])
    assert "DB_PORT=6432" in seen.read_text()  # the preview saw it
    assert "nothing was changed" in read
    assert ops.env_file.read_text() == ENV


def test_a_preview_that_fails_takes_the_change_back(ops: Operator) -> None:
    ops.answers["preview"] = {"error": "the vendor is away"}
    code, read = ops("config", "set", "DB_PORT=6432", "--yes")
    assert (code, ops.did) == (1, ["preview"])
    assert "nothing was changed" in read
    assert "the vendor is away" in read
    assert ops.env_file.read_text() == ENV


def test_an_up_that_fails_before_anything_rolls_takes_the_change_back(ops: Operator) -> None:
    ops.answers["up"] = {"error": "the vendor is away"}
    code, read = ops("config", "set", "DB_PORT=6432", "--yes")
    assert (code, ops.did) == (1, ROLLED)
    assert "FAILED up: the vendor is away" in read
    assert "Nothing that runs was changed, and the settings are as they were" in read
    assert ops.env_file.read_text() == ENV


def test_an_edit_by_somebody_else_meanwhile_is_not_overwritten(ops: Operator) -> None:
    ops.answers["preview"] = {"shell": f"echo '# theirs' >> {ops.env_file}"}
    code, read = ops("config", "set", "DB_PORT=6432", types="n")
    assert code == 1
    assert "was changed by somebody else meanwhile, and is left as it is" in read
    assert ops.env_file.read_text().endswith("# theirs\n")


def test_without_a_terminal_or_yes_nothing_is_begun(ops: Operator) -> None:
    code, read = ops("config", "set", "DB_PORT=6432")
    assert code == 1
    assert "pass --yes" in read
    assert ops.pulumi.log == ""


def test_what_is_set_already_changes_nothing(ops: Operator) -> None:
    ops.answers["preview"] = {"steps": [], "changeSummary": {"same": 120}}
    code, read = ops("config", "set", "DB_PORT=5432", "--yes")
    assert (code, ops.did) == (0, ["preview"])
    assert "says that already" in read
    assert "nothing rolls: it is well" in read


def test_a_file_that_is_a_link_stays_one(ops: Operator, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.env"
    ops.env_file.rename(target)
    ops.env_file.symlink_to(target)
    assert ops("config", "set", "DB_PORT=6432", "--yes")[0] == 0
    assert ops.env_file.is_symlink()
    assert "DB_PORT=6432" in target.read_text()


# --- Ctrl-C -------------------------------------------------------------------------------------


def test_ctrl_c_is_the_engines_to_answer_and_a_preview_that_it_ended_takes_the_change_back(
    ops: Operator,
) -> None:
    ops.answers["preview"] = {"shell": "kill -INT $PPID; kill -INT $$"}
    code, read = ops("config", "set", "DB_PORT=6432", "--yes")
    assert (code, ops.did) == (130, ["preview"])
    assert "nothing was changed" in read
    assert ops.env_file.read_text() == ENV


def test_ctrl_c_during_up_waits_for_an_engine_that_ends_well(ops: Operator) -> None:
    ops.answers["up"] = {"shell": "kill -INT $PPID; echo finished"}
    code, read = ops("config", "set", "DB_PORT=6432", "--yes")
    assert (code, ops.did) == (0, ROLLED)
    assert "finished" in read


def test_ctrl_c_at_the_question_takes_the_change_back(ops: Operator) -> None:
    def interrupted(_question: str) -> str:
        raise KeyboardInterrupt

    ops.monkeypatch.setattr("builtins.input", interrupted)
    code, read = ops("config", "set", "DB_PORT=6432", types="y")
    assert (code, ops.did) == (130, ["preview"])
    assert "Traceback" not in read
    assert ops.env_file.read_text() == ENV


def test_what_is_wrong_with_an_imported_file_is_mended_in_that_file(
    ops: Operator, tmp_path: Path
) -> None:
    file = tmp_path / "windows.env"
    file.write_bytes(ENV.replace("\n", "\r\n").encode())
    code, read = ops("config", "import", str(file), "--dry-run")
    assert code == 1
    assert f"error: {file}: line 1 ends in CRLF" in read
    assert f"perl -pi -e 's/\\r$//' {file}" in read
    assert ops.env_file.name not in read
    assert ops.env_file.read_text() == ENV


def test_a_folder_is_no_env_file(ops: Operator, tmp_path: Path) -> None:
    code, read = ops("config", "import", str(tmp_path), "--yes")
    assert code == 1
    assert f"{tmp_path} is a folder" in read


def test_the_registrys_token_on_a_command_line_is_told_as_the_secret_that_it_is(
    ops: Operator,
) -> None:
    code, read = ops("config", "set", "REGISTRY_TOKEN=canary", "--yes")
    assert code == 1
    assert "REGISTRY_TOKEN is a secret, and stands in this shell's history now" in read
    assert "canary" not in read


def test_unset_says_which_argument_is_no_setting_and_repeats_nothing(ops: Operator) -> None:
    code, read = ops("config", "unset", "DB_HOST", "canary", "--dry-run")
    assert code == 1
    assert "argument 2, which is no setting, does not stand in" in read
    assert "canary" not in read


def test_a_program_reads_a_document_whether_it_is_done_or_refused(ops: Operator) -> None:
    def document(read: str) -> Any:  # standard output comes first
        return json.JSONDecoder().raw_decode(read)[0]

    code, read = ops("config", "set", "DB_PORT=6432", "--yes", "--json")
    assert (code, document(read)["exitCode"], document(read)["ended"]) == (0, 0, "succeeded")
    code, read = ops("config", "set", "DB_PORT=no", "--dry-run", "--json")
    assert (code, document(read)["exitCode"], document(read)["ended"]) == (1, 1, "refused")
    (problem,) = document(read)["problems"]
    assert "DB_PORT" in problem["what"]
    assert "DB_PORT" in problem["mend"]


# --- unset, import ------------------------------------------------------------------------------


def test_unset_takes_a_line_out(ops: Operator) -> None:
    ops.env_file.write_text(ENV + "TIMEZONE=UTC\n")
    code, read = ops("config", "unset", "TIMEZONE", "--yes")
    assert (code, ops.did) == (0, ROLLED)
    assert ops.env_file.read_text() == ENV
    assert "rolls api and worker" in read


def test_unset_of_what_the_application_needs_is_refused(ops: Operator) -> None:
    code, read = ops("config", "unset", "DB_HOST", "--yes")
    assert (code, ops.did) == (1, [])
    assert "DB_HOST is missing" in read
    code, read = ops("config", "unset", "TIMEZONE", "--yes")
    assert code == 1
    assert "does not stand in" in read
    assert ops.env_file.read_text() == ENV


def test_import_takes_a_whole_file_over_and_shows_what_differs(
    ops: Operator, tmp_path: Path
) -> None:
    fresh = tmp_path / "new.env"
    fresh.write_text("# new\n" + sample.env_text({**sample.ENVIRONMENT, "DB_PORT": "6432"}))
    code, read = ops("config", "import", str(fresh), types="y")
    assert (code, ops.did) == (0, ROLLED)
    assert ops.env_file.read_text() == fresh.read_text()
    assert stat.S_IMODE(ops.env_file.stat().st_mode) == 0o640
    assert [line.split()[:3] for line in read.splitlines() if "DB_PORT" in line] == [
        ["DB_PORT", "5432", "6432"]
    ]


def test_import_where_no_env_file_is_makes_one_for_its_owner_alone(
    ops: Operator, tmp_path: Path
) -> None:
    fresh = tmp_path / "new.env"
    fresh.write_text(ENV)
    ops.env_file.unlink()
    assert ops("config", "import", str(fresh), types="n")[0] == 1
    assert not ops.env_file.exists()
    assert ops("config", "import", str(fresh), types="y")[0] == 0
    assert stat.S_IMODE(ops.env_file.stat().st_mode) == 0o600


def test_import_of_a_file_with_secrets_in_it_names_their_verb(
    ops: Operator, tmp_path: Path
) -> None:
    fresh = tmp_path / "book.env"
    fresh.write_text(ENV + "SECRET_KEY=canary-key\n")
    code, read = ops("config", "import", str(fresh), "--yes")
    assert code == 1
    assert "python -m ops secret set SECRET_KEY" in read
    assert "canary" not in read
    assert ops.env_file.read_text() == ENV


def test_import_of_what_is_not_there_is_refused(ops: Operator, tmp_path: Path) -> None:
    code, read = ops("config", "import", str(tmp_path / "none.env"), "--yes")
    assert (code, "there is no file" in read) == (1, True)


# --- diff ---------------------------------------------------------------------------------------


def deployment(service: str, config_map: str) -> dict[str, Any]:
    container = {
        "name": service,
        "envFrom": [
            {"configMapRef": {"name": config_map}},
            {"secretRef": {"name": "honeydue-secrets-0123456789"}},
        ],
    }
    return {
        "metadata": {"name": service},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }


def config_map(name: str, **changed: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": {**sample.ENVIRONMENT, **changed}}


@pytest.fixture
def cluster(tmp_path: Path, ops: Operator) -> Iterator[Cluster]:
    made = Cluster(tmp_path / "cluster")
    ops.answers["stack_output"] = {"kubeconfig": made.kubeconfig}
    yield made
    made.stop()


def test_diff_compares_with_what_each_deployment_is_told_now(
    ops: Operator, cluster: Cluster
) -> None:
    cluster.objects = {
        "deployments": [
            deployment("api", "a"),
            deployment("worker", "b"),
            deployment("admin", "a"),
        ],
        "configmaps": [
            config_map("a", DB_PORT="1234"),
            config_map("b"),
            config_map("retained", DB_PORT="9"),
        ],
    }
    code, read = ops("config", "diff", "--json")
    assert code == 0
    assert json.loads(read)["differ"] == [
        {"key": "DB_PORT", "runs": "1234", "file": "5432", "services": ["api"]}
    ]
    assert json.loads(read)["runsIn"] == "cluster"
    assert "secrets" not in " ".join(cluster.asked)
    code, read = ops("config", "diff")
    assert ["DB_PORT", "1234", "5432", "api"] in [line.split() for line in read.splitlines()]


def test_diff_of_another_file(ops: Operator, cluster: Cluster, tmp_path: Path) -> None:
    cluster.objects = {
        "deployments": [deployment(service, "a") for service in ("api", "worker", "admin")],
        "configmaps": [config_map("a")],
    }
    assert "what runs is what" in ops("config", "diff")[1]
    other = tmp_path / "other.env"
    other.write_text(ENV + "DAILY_DIGEST_HOUR=4\nTOKEN=canary\n")
    code, read = ops("config", "diff", str(other))
    assert code == 0
    assert ["DAILY_DIGEST_HOUR", "-", "4", "worker"] in [line.split() for line in read.splitlines()]
    assert "canary" not in read


def test_diff_while_no_api_server_answers_shows_what_was_deployed_last(
    ops: Operator, cluster: Cluster
) -> None:
    cluster.stop()
    ops.answers["stack_export"] = {
        "deployment": {
            "resources": [
                {"type": "kubernetes:apps/v1:Deployment", "inputs": deployment("api", "a")},
                {"type": "kubernetes:core/v1:ConfigMap", "inputs": config_map("a", DEBUG="true")},
            ]
        }
    }
    code, read = ops("config", "diff")
    assert code == 0
    assert "no API server answers" in read
    assert "what was deployed last, from the state" in read
    assert ["DEBUG", "true", "false", "api"] in [line.split() for line in read.splitlines()]


def test_diff_of_a_stack_that_was_never_deployed_is_refused(ops: Operator) -> None:
    ops.answers["stack_output"] = {}
    code, read = ops("config", "diff")
    assert (code, "never deployed" in read) == (1, True)


# --- the rehearsal ------------------------------------------------------------------------------


def test_the_rehearsal_has_the_same_verbs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HONEYDUE_REHEARSAL_HOME", str(tmp_path))
    assert main(["config", "show", "DB_HOST", "--engine", "rehearsal"]) == 0
    assert "db.honeydue.test" in capfd.readouterr().out
    words = ["config", "set", "DAILY_DIGEST_HOUR=4", "--dry-run", "--engine", "rehearsal"]
    assert main(words) == 0
    assert "rolls worker; api and admin stay" in capfd.readouterr().out
    assert main(["config", "diff", "--engine", "rehearsal"]) == 1
    assert "never deployed" in capfd.readouterr().err


# --- the pure parts -----------------------------------------------------------------------------

NAMES = st.sampled_from(["A", "B", "C", "D"])
LINES = st.lists(st.sampled_from(["A=1", "B=2", "C=", "D=x=y", "# A=0", "", "#B"]), max_size=8)


@given(LINES, st.booleans(), st.dictionaries(NAMES, st.sampled_from(["", "1", "a=b"]), min_size=1))
def test_what_is_edited_has_the_new_values_and_every_other_line_as_it_was(
    lines: list[str], ends: bool, values: dict[str, str]
) -> None:
    lines = list(dict.fromkeys(lines))
    text = "\n".join(lines) + ("\n" if ends and lines else "")
    edited = env_edit.with_values(text, values, "ABCD")
    read, problems = env_file.read(edited.encode(), "x")
    before, _ = env_file.read(text.encode(), "x")
    assert read == {**(before or {}), **values}
    assert problems == []
    kept = [line for line in lines if line.partition("=")[0] not in values]
    others = [line for line in edited.splitlines() if line.partition("=")[0] not in values]
    assert [line for line in others if line] == [line for line in kept if line]


@given(LINES, st.sets(NAMES))
def test_what_is_taken_out_is_gone_and_every_other_line_is_as_it_was(
    lines: list[str], keys: set[str]
) -> None:
    lines = list(dict.fromkeys(lines))
    left = env_edit.without("\n".join(lines), keys)
    assert left.splitlines() == [
        line for line in "\n".join(lines).splitlines() if line.partition("=")[0] not in keys
    ]


def test_nothing_rolls_for_nothing() -> None:
    assert rolling({"DB_PORT": "1"}, {"DB_PORT": "1"}) == ()
    assert what_rolls(()) == "rolls nothing"
    assert what_rolls(("api", "worker", "admin")) == "rolls api and worker and admin"
