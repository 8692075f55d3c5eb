"""What right settings give, how several problems are told at once, and how `load` reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.runtime import config as pulumi_config
from pulumi.runtime import settings as pulumi_settings
from pydantic import ValidationError

from honeydue import consistency
from honeydue.problems import Problem, SettingsError
from honeydue.settings import Settings, load, parse

from .sample import CONFIG, ENV_FILE, GONE, both, config, env, env_text, problems, settings


def test_the_sample_is_right() -> None:
    assert problems() == []


def test_values_arrive_typed() -> None:
    made = settings()
    assert made.protect is True
    assert made.cluster.network_cidr == IPv4Network("10.10.0.0/16")
    assert made.hcloud_token.get_secret_value() == CONFIG["hcloudToken"]
    assert made.secrets["POSTGRES_PASSWORD"].get_secret_value() == "sample-database-password"
    assert made.environment["DB_PORT"] == "5432"


def test_objects_arrive_as_json_the_way_pulumi_hands_them_over() -> None:
    as_text = {k: v if isinstance(v, str) else json.dumps(v) for k, v in CONFIG.items()}
    assert parse("prod", as_text, env_text(), ENV_FILE) == settings()


def test_what_is_optional_may_be_absent() -> None:
    made = settings(
        *(config(key, GONE) for key in ("protect", "cluster", "redis", "snapshots")),
        *(env(key, GONE) for key in ("FCM_PROJECT_ID", "B2_BUCKET_NAME", "B2_ENDPOINT")),
        *(config(f"secrets.{k}", GONE) for k in ("FCM_SERVER_KEY", "B2_KEY_ID", "B2_APP_KEY")),
    )
    assert made.protect is True
    assert made.snapshots is None
    assert made.redis.external_url is None
    assert [node.name for node in made.cluster.nodes] == ["honeydue-1", "honeydue-2", "honeydue-3"]


def test_an_empty_key_means_the_same_as_an_absent_one() -> None:
    assert settings(config("redis", ""), config("snapshots", "")).snapshots is None


@pytest.mark.parametrize("count", [1, 3, 5, 7])
def test_an_odd_number_of_managers_is_right(count: int) -> None:
    names = [{"name": f"honeydue-{n}"} for n in range(1, count + 1)]
    changes = config("cluster.nodes", names), config("cluster.apiNode", "honeydue-1")
    assert len(settings(*changes).cluster.nodes) == count


@pytest.mark.parametrize(
    "tag", ["237c6b8", "6f303dbbaa", "0" * 40, "237c6b8-dirty", "237c6b8-dirty-ab12", "1234567"]
)
def test_a_git_short_sha_is_a_right_tag(tag: str) -> None:
    assert settings(config("images.api", tag)).images.api == tag


def test_a_sha_without_a_letter_may_come_as_a_number() -> None:
    """`pulumi config set --path honeydue:images.api 1234567` stores one."""
    assert settings(config("images.api", 1234567)).images.api == "1234567"


@pytest.mark.parametrize("number", [123456, True, -1234567])
def test_a_number_that_may_have_lost_a_zero_is_no_sha(number: object) -> None:
    with pytest.raises(SettingsError, match=r"images\.api"):
        settings(config("images.api", number))


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        settings().cluster.name = "other"  # type: ignore[misc]


def test_a_nodes_private_address_is_host_ten_plus_its_number() -> None:
    cluster = settings().cluster
    assert [cluster.private_ip(node) for node in cluster.nodes] == [
        IPv4Address("10.10.1.11"),
        IPv4Address("10.10.1.12"),
        IPv4Address("10.10.1.13"),
    ]


def test_the_first_node_is_the_founder() -> None:
    assert settings().cluster.founder.name == "honeydue-1"


def test_the_api_node_is_the_chosen_one_or_the_first() -> None:
    assert settings().cluster.api_node_or_first.name == "honeydue-2"
    unset = settings(config("cluster.apiNode", None)).cluster
    assert unset.api_node_or_first.name == "honeydue-1"


def test_a_node_is_where_it_says_or_where_the_cluster_is() -> None:
    cluster = settings(config("cluster.nodes.1.location", "fsn1")).cluster
    assert [cluster.location_of(node) for node in cluster.nodes] == ["nbg1", "fsn1", "nbg1"]


def test_hosts_are_api_admin_and_landing() -> None:
    assert settings().hosts == ("api.myhoneydue.com", "admin.myhoneydue.com", "myhoneydue.com")


# Several problems


def test_every_problem_is_told_at_once_sorted_by_place() -> None:
    told = problems(
        config("dns.zoneId", "abc"),
        config("hcloudToken", GONE),
        config("cluster.nodes", [{"name": f"honeydue-{n}"} for n in (1, 2)]),
        config("cluster.nodes.0.generation", 0),
        config("secrets.SECRET_KEY", "short"),
        env("DEBUG", "true"),
        env("BASE_URL", "https://www.myhoneydue.com"),
    )
    assert [problem.key for problem in told] == [
        "honeydue:cluster.nodes",
        "honeydue:cluster.nodes[0].generation",
        "honeydue:dns.zoneId",
        "honeydue:hcloudToken",
        "honeydue:secrets.SECRET_KEY",
        "deploy/prod.env: BASE_URL",
        "deploy/prod.env: DEBUG",
    ]


def test_an_empty_configuration_lists_every_required_key() -> None:
    with pytest.raises(SettingsError) as caught:
        parse("prod", {}, "", ENV_FILE)
    assert {p.wrong.partition(",")[0] for p in caught.value.problems} == {"is missing"}
    keys = [problem.key for problem in caught.value.problems]
    assert len(keys) == len(set(keys))
    for key in ("hcloudToken", "operator.sshPublicKey", "registry.token", "secrets.SECRET_KEY"):
        assert f"honeydue:{key}" in keys
    assert "deploy/prod.env: DB_HOST" in keys


def test_the_message_counts_aligns_and_says_how_secrets_are_set() -> None:
    with pytest.raises(SettingsError) as caught:
        settings(config("images.api", "latest"), config("hcloudToken", "abc"))
    assert str(caught.value) == (
        "2 settings of stack prod are wrong. Nothing was declared.\n"
        "\n"
        "  honeydue:hcloudToken\n"
        "    wrong  has 3 characters; a Hetzner Cloud token has exactly 64\n"
        "    mend   pulumi config set -s prod --secret honeydue:hcloudToken\n"
        "\n"
        "  honeydue:images.api\n"
        "    wrong  must not be latest: a rollback could not name what ran before\n"
        "    mend   pulumi config set -s prod --path honeydue:images.api <git short SHA>\n"
        "\n"
        "`pulumi config set --secret` without a value asks for it, unseen.\n"
    )


def test_one_problem_is_told_in_the_singular() -> None:
    with pytest.raises(SettingsError) as caught:
        settings(env("DEBUG", "true"))
    assert str(caught.value).startswith("1 setting of stack prod is wrong. Nothing was declared.")


def test_lines_are_sorted_as_numbers() -> None:
    text = "bad\n" * 12
    with pytest.raises(SettingsError) as caught:
        parse("prod", CONFIG, text, ENV_FILE)
    lines = [p.key for p in caught.value.problems if "line" in p.key]
    assert lines == [f"deploy/prod.env: line {n}" for n in range(1, 13)]


def test_no_rule_between_settings_reads_what_a_draft_does_not_have() -> None:
    """A rule that used a derived property would end silently on every draft."""
    for rule in consistency.RULES:
        assert [*rule(settings())] == []
    source = Path(consistency.__file__).read_text()
    derived = ("founder", "api_node_or_first", "private_ip", "location_of", ".hosts", "node.number")
    assert [name for name in derived if name in source] == []


# Secrets in clear


def test_a_secret_that_stands_in_clear_is_told() -> None:
    encrypted = {"hcloudToken", "cloudflareToken", "redis", "snapshots"}
    with pytest.raises(SettingsError) as caught:
        parse("prod", CONFIG, env_text(), ENV_FILE, secret_keys=encrypted)
    assert caught.value.problems == [
        Problem(
            "honeydue:registry.token",
            "is not encrypted in Pulumi.prod.yaml; if it was ever committed, revoke it",
            "pulumi config set -s prod --secret --path honeydue:registry.token",
        ),
        Problem(
            "honeydue:secrets",
            "are not encrypted in Pulumi.prod.yaml; if ever committed, change them",
            "pulumi config set -s prod --secret --path honeydue:secrets.<KEY>",
        ),
    ]


# Loading


@contextmanager
def running(stack: str, values: dict[str, Any], secret_keys: list[str]) -> Iterator[None]:
    """Pulumi's runtime as a program finds it."""
    before = pulumi_config.CONFIG.get(), pulumi_settings.SETTINGS
    as_text = {
        f"honeydue:{k}": v if isinstance(v, str) else json.dumps(v) for k, v in values.items()
    }
    pulumi_config.set_all_config(as_text, [f"honeydue:{key}" for key in secret_keys])
    pulumi_settings.configure(pulumi_settings.Settings(project="honeydue", stack=stack))
    try:
        yield
    finally:
        pulumi_config.set_all_config(before[0], [])
        pulumi_settings.configure(before[1])


ENCRYPTED = ["hcloudToken", "cloudflareToken", "registry", "redis", "snapshots", "secrets"]


def loaded(stack: str = "prod", **changes: Any) -> Settings:
    values = {**CONFIG, **changes}
    with running(stack, values, ENCRYPTED):
        return load()


def test_load_reads_the_stack_and_the_file_that_it_names(tmp_path: Path) -> None:
    file = tmp_path / "own.env"
    file.write_text(env_text())
    assert loaded(envFile=str(file)) == settings()


def test_load_takes_the_stacks_own_file_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "drill.env").write_text(env_text())
    assert loaded(stack="drill").stack == "drill"


def test_load_ends_the_program_with_every_problem_and_no_trace_of_the_values(
    tmp_path: Path,
) -> None:
    with pytest.raises(pulumi.RunError) as caught:
        loaded(envFile=str(tmp_path / "none.env"), hcloudToken="canary-token")
    assert str(caught.value).startswith("2 settings of stack prod are wrong.")
    assert "canary-token" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_load_finds_misspelt_keys_too(tmp_path: Path) -> None:
    file = tmp_path / "own.env"
    file.write_text(env_text())
    with pytest.raises(pulumi.RunError, match="did you mean protect"):
        loaded(envFile=str(file), protekt="true")


def test_load_reads_what_the_cli_passes_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pulumi's language host hands configuration over as PULUMI_CONFIG(_SECRET_KEYS)."""
    file = tmp_path / "own.env"
    file.write_text(env_text())
    values = {f"honeydue:{k}": json.dumps(v) for k, v in CONFIG.items() if not isinstance(v, str)}
    values |= {f"honeydue:{k}": v for k, v in CONFIG.items() if isinstance(v, str)}
    values["honeydue:envFile"] = str(file)
    values["pulumi:disable-default-providers"] = '["*"]'
    monkeypatch.setenv("PULUMI_CONFIG", json.dumps(values))
    keys = [f"honeydue:{key}" for key in ENCRYPTED]
    monkeypatch.setenv("PULUMI_CONFIG_SECRET_KEYS", json.dumps(keys))
    with running("prod", {}, []):
        assert load() == settings()


def test_changes_in_a_test_do_not_leak_into_the_sample() -> None:
    settings(both(config("cluster.nodes.0.generation", 7), env("TIMEZONE", "UTC")))
    assert "generation" not in CONFIG["cluster"]["nodes"][0]
