"""Names by content: a change is a new object and a rollout, the same content is nothing at all."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pulumi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from honeydue.application import SECRETS
from honeydue.images.references import SERVICES
from honeydue.kubernetes.catalogue import WORKLOADS
from honeydue.kubernetes.configuration import Configuration, ConfigurationArgs, docker_config
from honeydue.kubernetes.hashing import content_hash, keyed_hash
from honeydue.kubernetes.namespace import Namespace, NamespaceArgs

from .cluster_program import CANARIES, ENVIRONMENT, declared, registry, secret, template, workloads
from .recording import record

DATA = st.dictionaries(st.text(), st.text(), max_size=5)


def test_the_hash_is_the_same_on_every_machine() -> None:
    # Recorded: if it changed, every deployed stack would roll everything once.
    assert content_hash({"DEBUG": "false", "PORT": "8000"}) == "994db35869"
    assert keyed_hash({"SECRET_KEY": "s"}, "key") == "365c680da3"


@given(DATA)
def test_the_order_of_keys_is_nothing(data: dict[str, str]) -> None:
    backwards = dict(reversed(list(data.items())))
    assert content_hash(data) == content_hash(backwards)
    assert keyed_hash(data, "key") == keyed_hash(backwards, "key")


@given(DATA, DATA)
def test_other_content_is_another_name(one: dict[str, str], other: dict[str, str]) -> None:
    assert (content_hash(one) == content_hash(other)) == (one == other)


def test_a_value_cannot_be_moved_across_its_key() -> None:
    assert content_hash({"A": "1", "B": ""}) != content_hash({"A": "", "B": "1"})
    assert content_hash({"A": '1","B":"2'}) != content_hash({"A": "1", "B": "2"})


def test_the_key_decides_the_name_of_a_secret() -> None:
    assert keyed_hash({"A": "1"}, "key") != keyed_hash({"A": "1"}, "another")
    assert keyed_hash({"A": "1"}, "key") != content_hash({"A": "1"})
    with pytest.raises(ValueError, match="without a key"):
        keyed_hash({"A": "1"}, "")


def test_configuration_and_secrets_are_immutable_and_named_by_content() -> None:
    recording = declared()
    for name, kind, prefix in (
        *(
            (
                f"configuration-config-{name}",
                "kubernetes:core/v1:ConfigMap",
                f"honeydue-config-{name}",
            )
            for name in SERVICES
        ),
        ("configuration-secrets", "kubernetes:core/v1:Secret", "honeydue-secrets"),
        ("redis-config", "kubernetes:core/v1:ConfigMap", "honeydue-redis-config"),
        ("redis-secret", "kubernetes:core/v1:Secret", "honeydue-redis"),
    ):
        resource = recording.named(name)
        assert resource.type == kind
        assert resource.inputs["immutable"] is True
        assert re.fullmatch(prefix + "-[0-9a-f]{10}", resource.inputs["metadata"]["name"])


def test_every_immutable_object_has_a_hash_in_its_name_and_no_other_has() -> None:
    # An immutable object under a fixed name could never be changed at all.
    for kind in ("kubernetes:core/v1:ConfigMap", "kubernetes:core/v1:Secret"):
        for resource in declared(strict=True).all(kind):
            hashed = bool(re.search("-[0-9a-f]{10}$", resource.inputs["metadata"]["name"]))
            assert hashed == bool(resource.inputs.get("immutable")), resource.name


def test_what_earlier_revisions_refer_to_is_kept() -> None:
    kept = [r.name for r in declared() if r.retain_on_delete]
    assert kept == [
        *(f"configuration-config-{name}" for name in SERVICES),
        "configuration-secrets",
    ]


@pytest.mark.parametrize(
    ("key", "value", "readers"),
    [
        ("DB_HOST", "db2.vendor.net", {"api", "worker"}),
        ("ALLOWED_HOSTS", "api.myhoneydue.com,myhoneydue.com", {"api"}),
        ("DAILY_DIGEST_HOUR", "4", {"worker"}),
        ("NEXT_PUBLIC_API_URL", "https://api.myhoneydue.com/v2", {"admin"}),
        ("TIMEZONE", "Europe/Berlin", {"api", "worker"}),  # new: not in the file before
    ],
)
def test_a_changed_setting_rolls_every_workload_that_reads_it_and_no_other(
    key: str, value: str, readers: set[str]
) -> None:
    assert _rolled(setting=(key, value)) == readers


def test_the_table_gives_the_secret_to_those_who_see_it() -> None:
    # There is one Secret: whoever sees it reads, and rolls for, every key of it.
    sees = tuple(workload.name for workload in WORKLOADS if workload.secrets)
    assert {key.services for key in SECRETS} == {sees}


def test_a_changed_secret_rolls_api_and_worker_but_not_the_admin_panel() -> None:
    assert _rolled(secret_key="another") == {"api", "worker"}


def test_a_rotated_registry_token_rolls_nothing_and_changes_one_object_in_place() -> None:
    assert _rolled(token="another-token") == set()
    before, after = declared(), declared(token="another-token")
    changed = {r.name for r in before if r.custom and r.inputs != after.named(r.name).inputs}
    assert changed == {"configuration-pull"}
    metadata = [r.named("configuration-pull").inputs["metadata"]["name"] for r in (before, after)]
    assert metadata[0] == metadata[1]
    provider = before.one("pulumi:providers:kubernetes")
    assert provider.inputs["enableSecretMutable"] == "true"


def test_pods_read_the_very_objects_that_are_declared() -> None:
    recording = declared()
    config = {
        name: recording.named(f"configuration-config-{name}").inputs["metadata"]["name"]
        for name in SERVICES
    }
    secret = recording.named("configuration-secrets").inputs["metadata"]["name"]
    for name, expected in {
        "api": [{"configMapRef": {"name": config["api"]}}, {"secretRef": {"name": secret}}],
        "worker": [{"configMapRef": {"name": config["worker"]}}, {"secretRef": {"name": secret}}],
        "admin": [{"configMapRef": {"name": config["admin"]}}],
    }.items():
        (container,) = template(workloads()[name])["spec"]["containers"]
        assert container["envFrom"] == expected


def test_workloads_wait_for_the_configuration_the_policies_and_redis() -> None:
    recording = declared()
    needed = {
        recording.named(name).urn
        for name in (
            *(f"configuration-config-{service}" for service in SERVICES),
            "configuration-secrets",
            "configuration-pull",
            "policies-default-deny",
            "redis-server",
            "honeydue-serving",
        )
    }
    for name in ("api", "worker", "admin"):
        assert needed <= recording.closure(workloads()[name])


def test_the_data_is_what_was_set_and_each_service_has_what_it_reads() -> None:
    recording = declared()
    read = {
        name: recording.named(f"configuration-config-{name}").inputs["data"] for name in SERVICES
    }
    assert {key: value for data in read.values() for key, value in data.items()} == ENVIRONMENT
    assert {name: set(data) for name, data in read.items()} == {
        "api": {"DEBUG", "DB_HOST", "DB_PORT", "ALLOWED_HOSTS"},
        "worker": {"DEBUG", "DB_HOST", "DB_PORT", "DAILY_DIGEST_HOUR"},
        "admin": {"NEXT_PUBLIC_API_URL"},
    }
    data = recording.named("configuration-secrets").inputs["data"]
    plain = {key: base64.b64decode(value).decode() for key, value in data.items()}
    assert plain == {
        **CANARIES,
        "REDIS_URL": "redis://:canary-generated-password@redis:6379/0",
        "REDIS_PASSWORD": "canary-generated-password",
    }


def test_an_external_redis_is_used_as_it_is() -> None:
    data = declared(redis=False).named("configuration-secrets").inputs["data"]
    url = base64.b64decode(data["REDIS_URL"]).decode()
    assert url == "rediss://default:canary-external-redis@redis.vendor.net:6380"
    assert "REDIS_PASSWORD" not in data


def test_in_the_first_preview_only_the_generated_names_are_unknown() -> None:
    names: dict[str, Any] = {}

    def program() -> None:
        namespace = Namespace("honeydue", NamespaceArgs())
        configuration = Configuration(
            "configuration",
            ConfigurationArgs(
                namespace=namespace,
                environment=ENVIRONMENT,
                secrets=secret(CANARIES),
                generated={},
                registry=registry(),
            ),
        )
        pulumi.export("config", configuration.configs["api"])
        configuration.configs["api"].apply(lambda name: names.update(config=name))
        configuration.secrets.apply(lambda name: names.update(secrets=name))

    record(program, preview=True)
    assert set(names) == {"config"}
    assert names["config"].startswith("honeydue-config-api-")


def test_a_key_with_two_origins_is_refused_by_name() -> None:
    def program() -> None:
        Configuration(
            "configuration",
            ConfigurationArgs(
                namespace=Namespace("honeydue", NamespaceArgs()),
                environment={"REDIS_URL": "redis://x"},
                secrets=secret({"REDIS_URL": "redis://canary"}),
                generated={},
                registry=registry(),
            ),
        )

    with pytest.raises(pulumi.RunError, match=r"more than once: REDIS_URL; each key") as refused:
        record(program)
    assert "canary" not in str(refused.value)


def test_the_docker_login_is_the_one_kubelet_understands() -> None:
    login = json.loads(docker_config("gitea.treytartt.com", "admin", "pat"))
    assert login == {
        "auths": {
            "gitea.treytartt.com": {
                "username": "admin",
                "password": "pat",
                "auth": base64.b64encode(b"admin:pat").decode(),
            }
        }
    }


def _rolled(**change: Any) -> set[str]:
    """Names of the workloads whose pod template differs after a change."""
    before, after = workloads(), workloads(declared(**change))
    return {name for name in before if template(before[name]) != template(after[name])}
