"""`ops config` and `ops secret` where something runs: what rolls, and what is taken back."""

from __future__ import annotations

import secrets

import pytest

from honeydue.images.references import SERVICES
from tests.ops.production import Operator, Production, checked, ops, pin, production
from tests.settings import sample

__all__ = ["ops", "production"]  # the fixtures

OLD = {service: pin(service, "1a2b3c4") for service in SERVICES}


def config_maps(production: Production) -> dict[str, str]:
    """Service → the ConfigMap that it reads."""
    return {
        name: made["spec"]["template"]["spec"]["containers"][0]["envFrom"][0]["configMapRef"][
            "name"
        ]
        for name, made in production.objects["deployments"].items()
    }


def test_only_configuration_rolls_and_what_runs_is_pinned_so_that_no_commit_rolls_along(
    ops: Operator, production: Production
) -> None:
    before = config_maps(production)
    assert ops("config", "set", "DAILY_DIGEST_HOUR=4", types="y") == 0
    assert production.tags == dict.fromkeys(SERVICES, "1a2b3c4")
    assert production.images == OLD
    after = config_maps(production)
    assert [s for s in SERVICES if before[s] != after[s]] == ["worker"]
    assert production.runs[-1].message.startswith("config set DAILY_DIGEST_HOUR\n\nBy: ")
    ops.says(
        "rolls worker; api and admin stay",
        "api does not roll",
        "worker rolls",
        "Do it? [y/N]",
        "worker: 1 of 1 ready, converged",
        "https://api.myhoneydue.com/api/health/ 200",
        "config set DAILY_DIGEST_HOUR: done (run 3) in 0 s",
    )


def test_configuration_that_production_does_not_take_is_taken_back(
    ops: Operator, production: Production
) -> None:
    text, before = production.env.read_text(), config_maps(production)

    def urls() -> list[object]:
        broken = config_maps(production) != before
        return [checked(why="503: no pod of it is ready", status=503) if broken else checked()]

    production.urls = urls  # type: ignore[assignment]
    assert ops("config", "set", "DB_PORT=6432", "--yes") == 3
    assert production.env.read_text() == text
    assert config_maps(production) == before
    assert production.runs[-1].message.startswith("take back: config set DB_PORT\n")
    assert "Rolls-back: 3" in production.runs[-1].message
    ops.says(
        "final URLs failed: https://api.myhoneydue.com/api/health/ fails: 503",
        "Rolling back to release 2 (1a2b3c4) and its settings",
        "Rolled back: production runs release 2 (1a2b3c4) and its settings again",
        "changes no image: the settings name what runs",
    )


def test_a_run_that_was_killed_is_gone_on_with_by_the_same_words(
    ops: Operator, production: Production
) -> None:
    text = production.env.read_text().replace("DB_PORT=5432", "DB_PORT=6432")
    production.env.write_text(text)
    assert ops("config", "set", "DB_PORT=6432", "--yes") == 0
    ops.says("says that already", "api rolls", "config set DB_PORT: done")
    assert ops("config", "set", "DB_PORT=6432", "--yes") == 0
    ops.says("says that already", "nothing rolls: it is well")


def test_where_nothing_rolls_a_url_that_fails_afterwards_leaves_the_settings_as_up_made_them(
    ops: Operator, production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    urn = "urn:pulumi:prod::honeydue::kubernetes:core/v1:Secret::gitea-credentials"
    state = {"type": "kubernetes:core/v1:Secret", "custom": True, "inputs": {}}
    production.extra = [{"op": "update", "urn": urn, "oldState": state, "newState": state}]
    secret = production.secret
    monkeypatch.setattr(Production, "secret_named", lambda *_: secret)

    def breaks() -> None:
        production.urls = lambda: [checked(why="503: no pod of it is ready", status=503)]

    production.during["vendor"] = breaks
    file = production.folder / "token"
    file.write_text("gitea-" + secrets.token_hex(20))
    assert ops("secret", "rotate", "REGISTRY_TOKEN", "--from-file", str(file), "--yes") == 4
    assert "token" in production.secrets
    ops.says(
        "FAILED final URLs: https://api.myhoneydue.com/api/health/ fails: 503",
        "Not rolled back: `up` did what the settings say, and they stay so; no service rolled, so "
        "no rollback can mend what is wrong. python -m ops status",
    )


def test_where_nothing_rolls_a_run_that_failed_may_have_done_it_and_is_not_taken_back(
    ops: Operator, production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pull secret is changed in place: kubelet reads it at each pull, and no pod does."""
    production.breaks["vendor"] = "Cloudflare answers 503"
    production.beside = {"update": 1}
    secret = production.secret
    urn = "urn:pulumi:prod::honeydue::kubernetes:core/v1:Secret::gitea-credentials"
    state = {"type": "kubernetes:core/v1:Secret", "custom": True, "inputs": {}}
    production.extra = [{"op": "update", "urn": urn, "oldState": state, "newState": state}]
    monkeypatch.setattr(Production, "secret_named", lambda *_: secret)
    file = production.folder / "token"
    file.write_text("gitea-" + secrets.token_hex(20))
    assert ops("secret", "rotate", "REGISTRY_TOKEN", "--from-file", str(file), "--yes") == 4
    assert production.said == [
        *(f"set honeydue:images.{service} 1a2b3c4" for service in SERVICES),
        "set honeydue:registry.token",
        "up secret rotate REGISTRY_TOKEN",
    ]
    ops.says(
        "FAILED up: Cloudflare answers 503",
        "Not rolled back: nothing was to roll, and some of the rest may be done. The settings say "
        "it: when the cause is mended, run the same again, or a plain `up`",
    )
    assert "othing that runs was changed" not in ops.read


def test_a_secret_that_production_does_not_take_is_taken_back_and_never_shown(
    ops: Operator, production: Production
) -> None:
    key = "canary" + secrets.token_urlsafe(45)
    before = production.secret
    file = production.folder / "key"
    file.write_text(key)

    def urls() -> list[object]:
        broken = len(production.runs) == 3  # of which this is the last
        return [checked(why=f"500: {key}", status=500) if broken else checked()]

    production.urls = urls  # type: ignore[assignment]
    code = ops("secret", "set", "SECRET_KEY", "--from-file", str(file), "--yes")
    assert code == 3
    assert production.secret == before
    assert production.secrets == {"SECRET_KEY": sample.CONFIG["secrets"]["SECRET_KEY"]}
    assert production.runs[-2].message.startswith("secret set SECRET_KEY\n\nBy: ")
    ops.says("secrets changed", "Rolled back: production runs release 2 (1a2b3c4) and its settings")
    assert key not in "".join(run.message for run in production.runs)
