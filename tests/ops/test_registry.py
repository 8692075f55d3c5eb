"""`ops registry import`: all of the file or nothing, and the token never where `ps` shows it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ops import cli
from tests.ops.pulumi import Pulumi

GOOD = """\
REGISTRY=gitea.treytartt.com
REGISTRY_NAMESPACE=admin
REGISTRY_USERNAME=admin
REGISTRY_TOKEN=canary-token-0123456789
"""


@pytest.fixture
def pulumi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pulumi:
    made = Pulumi(tmp_path / "bin").answers(config_set="")
    monkeypatch.setenv("PATH", f"{made.folder}{os.pathsep}{os.environ['PATH']}")
    return made


def imported(tmp_path: Path, text: str, *flags: str) -> int:
    file = tmp_path / "registry.env"
    file.write_text(text)
    return cli.main(["registry", "import", str(file), "--stack", "prod", *flags])


def test_the_four_values_reach_the_stack_and_the_token_encrypted(
    pulumi: Pulumi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert imported(tmp_path, GOOD) == 0
    for key in ("server", "namespace", "username"):
        assert f"--path honeydue:registry.{key} " in pulumi.log
    assert "--path --secret honeydue:registry.token " in pulumi.log
    told = capsys.readouterr()
    assert "canary" not in pulumi.log + told.out + told.err
    assert "rolls nothing" in told.out


def test_a_dry_run_shows_what_would_be_set_and_sets_nothing(
    pulumi: Pulumi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert imported(tmp_path, GOOD, "--dry-run") == 0
    told = capsys.readouterr().out
    assert "honeydue:registry.server" in told
    assert told.endswith("dry run: nothing was changed\n")
    assert "canary" not in told
    assert "config set" not in pulumi.log


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD.replace("canary-token-0123456789", "CHANGE_ME"), "REGISTRY_TOKEN is still a place"),
        (GOOD.replace("REGISTRY=gitea.treytartt.com\n", ""), "REGISTRY is missing"),
        (GOOD + "REGISTRY_TOKN=canary-token\n", "REGISTRY_TOKN is unknown"),
        (GOOD.replace("\n", "\r\n"), "CRLF"),
        (GOOD.replace("canary-token-0123456789", "canary # mine"), "comment"),
    ],
)
def test_a_wrong_file_changes_nothing_and_is_told_without_its_values(
    text: str, told: str, pulumi: Pulumi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert imported(tmp_path, text) == 1
    said = capsys.readouterr().err
    assert told in said
    assert "mend" in said
    assert "canary" not in said
    assert "config" not in pulumi.log


def test_a_missing_file_is_told_with_the_example(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["registry", "import", str(tmp_path / "none.env"), "--stack", "prod"]) == 1
    assert "cp deploy/registry.env.example" in capsys.readouterr().err
