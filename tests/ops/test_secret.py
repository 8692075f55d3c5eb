"""`ops secret`: values by prompt, pipe or file go to the engine by standard input only."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from honeydue import application, rules
from ops import secret_values
from ops.cli import main
from ops.engine import REPOSITORY, Engine
from tests.ops.operator import Operator, ops
from tests.settings import sample

__all__ = ["ops"]  # the fixture

ROLLED = ["preview", "up --yes --skip-preview"]
CANARY = "canary-Vb3nQx8Lr5Tz1Wk7Yp4Dc9"


def put(path: str) -> str:
    return f"config set --path --secret honeydue:{path}"


@pytest.fixture(autouse=True)
def _seen_nowhere(ops: Operator) -> None:
    """Whatever a test reads goes through here: no value is in it, in argv, or in the env file."""
    call = type(ops).__call__

    def hunting(self: Operator, *words: str, **more: str | None) -> tuple[int, str]:
        code, read = call(self, *words, **more)
        for text in (read, self.pulumi.log, self.env_file.read_text()):
            assert "canary" not in text
            for value in sample.CONFIG["secrets"].values():
                assert value not in text
        assert "Traceback" not in read
        return code, read

    ops.monkeypatch.setattr(Operator, "__call__", hunting)


# --- set ----------------------------------------------------------------------------------------


def test_set_asks_for_the_value_encrypts_previews_and_rolls(ops: Operator) -> None:
    code, read = ops("secret", "set", "POSTGRES_PASSWORD", types=f"{CANARY}\ny")
    assert code == 0
    assert ops.did == [put("secrets.POSTGRES_PASSWORD"), *ROLLED]
    assert ops.pulumi.stdin == CANARY
    assert "POSTGRES_PASSWORD  new value  api, worker" in read
    assert "rolls api and worker; admin stays" in read


def test_set_takes_a_file_as_it_is(ops: Operator, tmp_path: Path) -> None:
    file = tmp_path / "AuthKey_ABC.p8"
    file.write_text(sample.APNS_KEY)
    del ops.config["secrets"]["APNS_AUTH_KEY"]
    words = ("secret", "set", "APNS_AUTH_KEY", "--from-file", str(file), "--yes")
    code, read = ops(*words)
    assert (code, ops.did) == (0, [put("secrets.APNS_AUTH_KEY"), *ROLLED])
    assert ops.pulumi.stdin == sample.APNS_KEY.rstrip("\n")
    assert "APNS_AUTH_KEY  set     api, worker" in read


def test_set_takes_a_pipe(ops: Operator) -> None:
    code, _ = ops("secret", "set", "EMAIL_HOST_PASSWORD", "--yes", pipes=f"{CANARY}\n")
    assert (code, ops.pulumi.stdin) == (0, CANARY)


def test_dry_run_sets_nothing(ops: Operator) -> None:
    code, read = ops("secret", "set", "EMAIL_HOST_PASSWORD", "--dry-run", pipes=CANARY)
    assert (code, ops.did) == (0, [])
    assert "dry run" in read


def test_the_value_that_is_set_already_changes_nothing(ops: Operator) -> None:
    same = sample.CONFIG["secrets"]["EMAIL_HOST_PASSWORD"]
    ops.answers["preview"] = {"steps": [], "changeSummary": {"same": 120}}
    code, read = ops("secret", "set", "EMAIL_HOST_PASSWORD", "--yes", pipes=same)
    assert (code, ops.did) == (0, ["preview"])
    assert "has that already" in read


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SECRET_KEY", "canary", "honeydue:secrets.SECRET_KEY has 6 characters; at least 50"),
        ("POSTGRES_PASSWORD", "canary-honeydue_app", "POSTGRES_PASSWORD holds POSTGRES_USER"),
        ("B2_APP_KEY", sample.CONFIG["secrets"]["B2_KEY_ID"], "has the same value as"),
        ("REGISTRY_TOKEN", "canary", "honeydue:registry.token has 6 characters"),
        ("canary", "1", "no secret has that name"),
        ("EMAIL_HOST_PASSWORD", "canary\ncanary", "holds a line break"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_set(
    ops: Operator, name: str, value: str, told: str
) -> None:
    code, read = ops("secret", "set", name, "--yes", pipes=value)
    assert (code, ops.did) == (1, [])
    assert told in read


def test_what_is_no_text_is_refused(ops: Operator, tmp_path: Path) -> None:
    file = tmp_path / "bytes"
    file.write_bytes(b"\xff\xfe")
    code, read = ops("secret", "set", "SECRET_KEY", "--from-file", str(file), "--yes")
    assert (code, "no text in UTF-8" in read) == (1, True)


def test_answered_with_no_the_old_value_is_put_back(ops: Operator) -> None:
    code, read = ops("secret", "set", "EMAIL_HOST_PASSWORD", types=f"{CANARY}\nn")
    old = sample.CONFIG["secrets"]["EMAIL_HOST_PASSWORD"]
    assert code == 1
    assert ops.did == [put("secrets.EMAIL_HOST_PASSWORD"), "preview", *ops.did[:1]]
    assert ops.pulumi.stdin == CANARY + old
    assert "nothing was changed" in read


def test_answered_with_no_a_value_that_was_not_there_is_taken_out(ops: Operator) -> None:
    del ops.config["secrets"]["FCM_SERVER_KEY"]
    ops.env_file.write_text(ops.env_file.read_text().replace("FCM_PROJECT_ID=honeydue-app\n", ""))
    code, read = ops("secret", "set", "FCM_SERVER_KEY", types=f"{CANARY}\nn")
    assert (code, ops.did) == (1, [])
    assert "FCM_PROJECT_ID is missing" in read  # the pair is whole or not there
    ops.env_file.write_text(ops.env_file.read_text() + "FCM_PROJECT_ID=honeydue-app\n")
    code, _ = ops("secret", "set", "FCM_SERVER_KEY", types=f"{CANARY}\nn")
    assert code == 1
    rm = "config rm --path honeydue:secrets.FCM_SERVER_KEY"
    assert ops.did == [put("secrets.FCM_SERVER_KEY"), "preview", rm]


def test_a_preview_that_fails_puts_the_old_value_back(ops: Operator) -> None:
    ops.answers["preview"] = {"error": "the API server does not answer"}
    code, _ = ops("secret", "set", "EMAIL_HOST_PASSWORD", "--yes", pipes=CANARY)
    assert code == 1
    assert ops.did == [put("secrets.EMAIL_HOST_PASSWORD"), "preview", *ops.did[:1]]


def test_a_new_stack_gets_its_secrets_one_after_the_other_and_rolls_when_it_is_whole(
    ops: Operator,
) -> None:
    del ops.config["secrets"]["SECRET_KEY"], ops.config["registry"]["token"]
    code, read = ops("secret", "rotate", "SECRET_KEY", "--yes")
    assert (code, ops.did) == (0, [put("secrets.SECRET_KEY")])
    assert "set. Nothing rolls yet: 1 other setting is wrong or missing" in read
    assert "honeydue:registry.token is missing" in read


# --- rotate -------------------------------------------------------------------------------------


def test_rotating_the_secret_key_makes_a_strong_one_that_nobody_sees(ops: Operator) -> None:
    code, read = ops("secret", "rotate", "SECRET_KEY", types="y")
    made = ops.pulumi.stdin
    assert (code, ops.did) == (0, [put("secrets.SECRET_KEY"), *ROLLED])
    rules.secret_key(made)
    assert len(made) == 64
    assert made not in read + ops.pulumi.log
    assert "has to log in again" in read
    assert secret_values.strong_key() != made


def test_rotating_the_registrys_token_rolls_nothing(ops: Operator) -> None:
    code, read = ops("secret", "rotate", "REGISTRY_TOKEN", types=f"{CANARY}\ny")
    assert (code, ops.did) == (0, [put("registry.token"), *ROLLED])
    assert ops.pulumi.stdin == CANARY
    assert "rolls nothing; the pull secret is made anew, in place" in read
    assert "/user/settings/applications" in read


@pytest.mark.parametrize("name", [key.name for key in application.SECRETS])
def test_of_every_secret_that_others_issue_it_is_said_where(name: str) -> None:
    assert bool(secret_values.SECRETS[name].issued) == (name != "SECRET_KEY")


def test_what_is_issued_as_a_pair_is_rotated_as_one(ops: Operator) -> None:
    code, read = ops("secret", "rotate", "B2_KEY_ID", types=f"{CANARY}-id\n{CANARY}-key\ny")
    assert code == 0
    assert ops.did == [put("secrets.B2_KEY_ID"), put("secrets.B2_APP_KEY"), *ROLLED]
    assert "secure.backblaze.com" in read
    code, read = ops("secret", "rotate", "B2_APP_KEY", "--yes", pipes=CANARY)
    assert (code, "python -m ops secret import FILE" in read) == (1, True)


# --- import -------------------------------------------------------------------------------------


def imported(ops: Operator, tmp_path: Path, text: str) -> tuple[int, str]:
    file = tmp_path / "secrets.env"
    file.write_text(text)
    return ops("secret", "import", str(file), "--yes")


def test_import_sets_all_that_the_file_names(ops: Operator, tmp_path: Path) -> None:
    text = f"# from the vault\nPOSTGRES_PASSWORD={CANARY}-1\nREGISTRY_TOKEN={CANARY}-2\n"
    code, read = imported(ops, tmp_path, text)
    assert code == 0
    assert ops.did == [put("secrets.POSTGRES_PASSWORD"), put("registry.token"), *ROLLED]
    assert "rolls api and worker; admin stays; the pull secret is made anew" in read
    assert "is not needed any more: rm" in read


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("DB_HOST=canary", "it is no secret: python -m ops config set DB_HOST"),
        ("TOKEN=canary", "TOKEN is none of the secrets"),
        ("B2_APP_KEY=canary$more", "python -m ops secret set KEY"),
        ("B2_APP_KEY=short", "B2_APP_KEY has 5 characters"),
        ("-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----", "--from-file AuthKey"),
        ("canary", "is not KEY=value"),
    ],
)
def test_a_file_with_anything_wrong_in_it_sets_nothing(
    ops: Operator, tmp_path: Path, line: str, told: str
) -> None:
    code, read = imported(ops, tmp_path, f"POSTGRES_PASSWORD={CANARY}\n{line}\n")
    assert (code, ops.did) == (1, [])
    assert told in read


def test_an_empty_file_is_told(ops: Operator, tmp_path: Path) -> None:
    assert "holds no secret" in imported(ops, tmp_path, "# nothing\n")[1]


def test_an_engine_that_takes_the_first_and_not_the_second_ends_with_neither(
    ops: Operator, tmp_path: Path
) -> None:
    second = "config_set__path__secret_honeydue:registry.token"
    ops.answers[second.replace("__", " --")] = {"error": "disk full"}
    text = f"POSTGRES_PASSWORD={CANARY}-1\nREGISTRY_TOKEN={CANARY}-2\n"
    code, read = imported(ops, tmp_path, text)
    assert code == 1
    assert "disk full" in read
    first = put("secrets.POSTGRES_PASSWORD")
    assert ops.did == [first, put("registry.token"), first]
    assert ops.pulumi.stdin.endswith(sample.CONFIG["secrets"]["POSTGRES_PASSWORD"])


# --- at a real terminal, and in the rehearsal ---------------------------------------------------


def test_what_is_typed_at_a_real_terminal_is_not_shown(ops: Operator) -> None:
    ops("config", "show", "DEBUG")  # writes the fake's answers
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "ops", "secret", "set", "POSTGRES_PASSWORD", "--dry-run"],
        cwd=REPOSITORY,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,  # no /dev/tty: the prompt is on these
    ) as child:
        os.close(theirs)
        shown = b""
        while b"nothing is shown" not in shown:
            shown += os.read(ours, 4096)
        os.write(ours, CANARY.encode() + b"\n")
        with suppress(OSError):  # how Linux says that the other end is closed
            while more := os.read(ours, 4096):
                shown += more
    os.close(ours)
    assert child.returncode == 0, shown.decode()
    assert b"dry run" in shown
    assert b"canary" not in shown


def test_the_rehearsal_sets_and_takes_out_by_the_same_verbs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # A home with settings of its own (images), and without images to run: it is not whole, so
    # that nothing rolls and no cluster is needed.
    own = tmp_path / "images.yaml"
    own.write_text("config: {}\n")
    monkeypatch.setenv("HONEYDUE_REHEARSAL_HOME", str(tmp_path))
    file = tmp_path / "value"
    file.write_text(CANARY)
    words = ["secret", "set", "EMAIL_HOST_PASSWORD", "--from-file", str(file), "--yes"]
    assert main([*words, "--engine", "rehearsal"]) == 0
    said = capfd.readouterr()
    assert "Nothing rolls yet" in said.out
    assert CANARY not in said.out + said.err + own.read_text()
    settings = yaml.safe_load(own.read_text())["config"]
    assert settings["honeydue:secrets"]["EMAIL_HOST_PASSWORD"]["secure"].startswith("v1:")
    Engine("rehearsal", "rehearsal").unset("honeydue:secrets.EMAIL_HOST_PASSWORD")
    assert yaml.safe_load(own.read_text())["config"] == {"honeydue:secrets": {}}
