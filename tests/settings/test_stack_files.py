"""The committed stack files and examples say what the code says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from honeydue import application
from honeydue.problems import Problem, SettingsError
from honeydue.settings import parse

ROOT: Final = Path(__file__).resolve().parents[2]


def stack_file(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / f"Pulumi.{name}.yaml").read_text())
    return loaded


def short(config: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("honeydue:"): value for key, value in config.items()}


def test_the_example_env_file_is_written_from_the_table() -> None:
    """After a change of the table: python -m honeydue.application > deploy/prod.env.example"""
    assert (ROOT / "deploy/prod.env.example").read_text() == application.example_file()


def test_the_example_env_file_lacks_nothing_but_what_only_the_operator_knows() -> None:
    with pytest.raises(SettingsError) as caught:
        parse("prod", {}, application.example_file(), "deploy/prod.env")
    told = [p for p in caught.value.problems if p.key.startswith("deploy/prod.env")]
    unknown = [key.name for key in application.ENVIRONMENT if key.example == "CHANGE_ME"]
    assert [p.key.removeprefix("deploy/prod.env: ") for p in told] == sorted(unknown)
    assert {p.wrong for p in told} == {"is still a placeholder"}


def test_every_placeholder_of_the_table_says_what_to_write() -> None:
    for key in application.ENVIRONMENT:
        assert (key.example == "CHANGE_ME") == bool(key.like), key.name


def test_production_as_committed_lacks_nothing_but_what_only_the_operator_knows() -> None:
    config = short(stack_file("prod")["config"])
    with pytest.raises(SettingsError) as caught:
        parse("prod", config, None, config.pop("envFile"), secret_keys=())
    assert [(p.key.removeprefix("honeydue:"), p.wrong) for p in caught.value.problems[:-1]] == [
        ("app.path", "is still a placeholder"),
        ("cloudflareToken", "is missing"),
        ("dns.zoneId", "is still a placeholder"),
        ("hcloudToken", "is missing"),
        ("operator.apiCidrs[0]", "is still a placeholder"),
        ("operator.sshPublicKey", "is still a placeholder"),
        ("registry.token", "is missing"),
        ("secrets.APNS_AUTH_KEY", "is missing"),
        ("secrets.EMAIL_HOST_PASSWORD", "is missing"),
        ("secrets.POSTGRES_PASSWORD", "is missing"),
        ("secrets.SECRET_KEY", "is missing"),
        ("signing.privateKey", "is missing: what is built is signed before it runs"),
        ("signing.publicKey", "is still a placeholder"),
    ]
    last = caught.value.problems[-1]
    assert last.key == "deploy/prod.env"
    assert isinstance(last, Problem)


def test_no_value_of_a_secret_stands_in_clear_in_a_stack_file() -> None:
    for name in ("prod", "rehearsal"):
        config = short(stack_file(name)["config"])
        values = [config.get("hcloudToken"), config.get("cloudflareToken")]
        values += [config["registry"].get("token"), *config.get("secrets", {}).values()]
        assert all(value is None or list(value) == ["secure"] for value in values), name


def test_the_rehearsal_is_right_with_its_own_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = pytest.importorskip("rehearsal.engine.secrets", reason="needs cryptography")
    project = pytest.importorskip("rehearsal.engine.project")
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "rehearsal")
    loaded = project.Project.load(ROOT)
    file = project.StackFile.load(loaded, "rehearsal")
    seen = project.Configuration.of(loaded, file, secrets.open_crypter(file.salt))
    keys = {key.removeprefix("honeydue:") for key in seen.secret_keys}
    name = "deploy/rehearsal.env"
    made = parse(
        "rehearsal", short(seen.values), (ROOT / name).read_bytes(), name, secret_keys=keys
    )
    assert made.protect is False
    assert made.dns.zone == "honeydue.test"
    assert made.cluster.boot_minutes == 60
    assert made.snapshots is None
