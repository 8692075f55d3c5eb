"""No secret in any message, whatever is wrong with it and wherever it was pasted."""

from __future__ import annotations

import copy
import json
import traceback
from typing import Any, Final

import pytest

from honeydue import application
from honeydue.problems import SettingsError
from honeydue.settings import parse

from .sample import APNS_KEY, CONFIG, ENV_FILE, ENVIRONMENT, Change, config, env, env_text, settings

CANARY: Final = "canary-Zq81LkW0"
SECRET_PATHS: Final = (
    "hcloudToken",
    "cloudflareToken",
    "registry.token",
    "redis.externalUrl",
    "snapshots.accessKey",
    "snapshots.secretKey",
    *(f"secrets.{key.name}" for key in application.SECRETS),
)


def told(change: Change | None = None, text: str | None = None) -> str:
    """All that an error could show anywhere: its text, its representation, its traceback."""
    stack: dict[str, Any] = copy.deepcopy(CONFIG)
    environment: dict[str, Any] = dict(ENVIRONMENT)
    if change:
        change(stack, environment)
    # One problem for certain, so that there is always something told.
    stack["dns"]["zoneId"] = "wrong"
    with pytest.raises(SettingsError) as caught:
        parse("prod", stack, text or env_text(environment), ENV_FILE, secret_keys=())
    error = caught.value
    return f"{error}{error!r}" + "".join(traceback.format_exception(error, chain=True))


@pytest.mark.parametrize("path", SECRET_PATHS)
@pytest.mark.parametrize(
    "form",
    [CANARY, f'"{CANARY}"', f"{CANARY}\r\n", f" {CANARY}", f"CHANGE_ME-{CANARY}", CANARY * 400],
    ids=["short", "quoted", "CRLF", "blank", "placeholder", "long"],
)
def test_a_wrong_secret_is_never_shown(path: str, form: str) -> None:
    assert CANARY not in told(config(path, form))


def test_a_secret_of_the_wrong_type_is_never_shown() -> None:
    for path in SECRET_PATHS:
        for value in ([CANARY], {"value": CANARY}):
            assert CANARY not in told(config(path, value))
        assert "4815162342" not in told(config(path, 4815162342))


@pytest.mark.parametrize(
    "path",
    [
        "operator.sshPublicKey",
        "operator.apiCidrs",
        "cluster.name",
        "cluster.nodes.0.name",
        "cluster.nodes.0.serverType",
        "cluster.nodes.0.generation",
        "cluster.podCidr",
        "cluster.bootMinutes",
        "dns.zoneId",
        "dns.api",
        "dns.ssl",
        "registry.server",
        "registry.username",
        "images.api",
        "snapshots.schedule",
        "protect",
        "registry",
        "secrets",
        "envFil",
    ],
)
def test_a_secret_pasted_into_another_setting_is_not_shown(path: str) -> None:
    assert CANARY not in told(config(path, f"{CANARY}!"))


def test_a_secret_pasted_into_the_env_file_is_not_shown() -> None:
    for known in application.ENVIRONMENT:
        assert CANARY not in told(env(known.name, f"{CANARY}!!"))
    for line in (CANARY, f"export SECRET_KEY={CANARY}", f"secret_key={CANARY}"):
        assert CANARY not in told(text=f"{env_text()}{line}\n")
    for key in ("SECRET_KEY", "REDIS_PASSWORD", "UNKNOWN_KEY"):
        assert CANARY not in told(env(key, CANARY))


def test_no_line_of_a_pasted_private_key_is_shown() -> None:
    output = told(text=env_text() + APNS_KEY)
    for line in APNS_KEY.splitlines()[1:-1]:
        assert line not in output


def test_a_section_that_is_broken_json_is_not_shown() -> None:
    broken = json.dumps({"token": CANARY})[:-1]
    assert CANARY not in told(config("registry", broken))
    assert CANARY not in told(config("secrets", broken))


def test_right_settings_hide_their_secrets_when_printed() -> None:
    shown = f"{settings()!r}{settings()}{settings().model_dump_json()}"
    assert "sample-registry-token" not in shown
    assert "sample-database-password" not in shown
    assert "SampleHcloudToken" not in shown
