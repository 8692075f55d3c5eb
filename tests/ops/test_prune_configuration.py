"""`ops config prune`: old ConfigMaps and Secrets go, and never one that anything needs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from honeydue.images.references import SERVICES
from honeydue.kubernetes.catalogue import labels
from ops import prune_configuration
from ops.api import Api, Conflict
from ops.cli import main
from ops.engine import Engine, Run
from ops.problems import Refused, refused
from ops.prune_configuration import keep, names_in, ours, prune
from ops.releases import releases
from tests.ops.api_servers import Json, Nodes
from tests.ops.operator import Piped
from tests.ops.past import (
    ENVIRONMENT,
    Past,
    all_of,
    config_map,
    deploy,
    resources,
    run,
    secret,
)
from tests.ops.pulumi import Pulumi

NOW = datetime(2026, 11, 22, 17, 0, tzinfo=UTC)


def thing(name: str, *, days: float = 10, **changes: Any) -> Json:
    """As the API server lists it."""
    return {
        "metadata": {
            "name": name,
            "namespace": "honeydue",
            "uid": f"uid of {name}",
            "resourceVersion": "7",
            "creationTimestamp": f"{NOW - timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}",
            "labels": labels("configuration"),
        },
        "immutable": True,
        "data": {"KEY": "Y2FuYXJ5"},
        **changes,
    }


def pods_of(config: str, secrets: str, **metadata: Any) -> Json:
    """A maker of pods, or a pod's own half of it."""
    containers = [
        {
            "name": "api",
            "envFrom": [{"configMapRef": {"name": config}}, {"secretRef": {"name": secrets}}],
        }
    ]
    spec = {"template": {"spec": {"containers": containers}}}
    return {"metadata": {"name": "api", **metadata}, "spec": spec}


def hashed(number: int, service: str = "api") -> str:
    return f"honeydue-config-{service}-{number:010x}"


def hidden(number: int) -> str:
    return f"honeydue-secrets-{number:010x}"


# --- what is ours -------------------------------------------------------------------------------


def test_what_the_program_makes_is_recognized_by_name_labels_and_being_immutable() -> None:
    made = ours("ConfigMap", thing(hashed(1)))
    assert made is not None
    assert made.path == f"/api/v1/namespaces/honeydue/configmaps/{hashed(1)}"
    made = ours("Secret", thing(hidden(1)))
    assert made is not None
    assert made.path == f"/api/v1/namespaces/honeydue/secrets/{hidden(1)}"
    assert "Y2FuYXJ5" not in repr(made)


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        ("ConfigMap", thing("kube-root-ca.crt")),
        ("ConfigMap", thing("honeydue-redis-config-0123456789")),
        ("ConfigMap", thing("honeydue-config-0123456789")),  # of before issue 6
        ("ConfigMap", thing("honeydue-config-api-012345678")),
        ("ConfigMap", thing("honeydue-config-api-01234567890")),
        ("ConfigMap", thing("honeydue-config-api-0123456789-backup")),
        ("ConfigMap", thing("my-honeydue-config-api-0123456789")),
        ("ConfigMap", thing("honeydue-config-cron-0123456789")),
        ("ConfigMap", thing(hidden(1))),
        ("Secret", thing(hashed(1))),
        ("Secret", thing("gitea-credentials")),
        ("Secret", thing("honeydue-redis-0123456789")),
        ("Secret", thing(hidden(1), immutable=False)),
        ("Secret", {key: value for key, value in thing(hidden(1)).items() if key != "immutable"}),
        ("Secret", {**thing(hidden(1)), "metadata": {"name": hidden(1)}}),
        (
            "ConfigMap",
            {
                **thing(hashed(1)),
                "metadata": {
                    **thing(hashed(1))["metadata"],
                    "labels": {**labels("configuration"), "app.kubernetes.io/managed-by": "me"},
                },
            },
        ),
        ("ConfigMap", None),
    ],
)
def test_nothing_else_is_ever_touched(kind: str, item: Any) -> None:
    assert ours(kind, item) is None


def test_a_name_counts_wherever_it_stands() -> None:
    applied = json.dumps(pods_of(hashed(1), hidden(2)))
    item = {"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied": applied}}}
    assert names_in(item) == {hashed(1), hidden(2)}
    assert names_in({"volumes": [{"configMap": {"name": hashed(3, "worker")}}]}) == {
        hashed(3, "worker")
    }


def test_what_is_new_may_belong_to_a_run_under_way() -> None:
    things = [
        made
        for days in (0.01, 0.05)
        if (made := ours("ConfigMap", thing(hashed(int(days * 100)), days=days)))
    ]
    kept, goes = keep(things, {}, NOW)
    assert list(kept.values()) == ["just made"]
    assert [each.name for each in goes] == [hashed(5)]


# --- random clusters and histories --------------------------------------------------------------


@dataclass
class Cluster:
    """What of ops.api.Api is asked. `lists`: path → what is there."""

    lists: dict[str, list[Json]] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    partial: str = ""  # of the end of a path: a list with a next page
    missing: str = ""  # of the end of a path: no such list
    touched: str = ""  # a name that somebody changes before it is deleted
    dies_after: int = 1000  # deletions

    def get(self, path: str) -> Any:
        kind = path.rsplit("/", maxsplit=1)[-1]
        if kind == self.missing:
            return None
        more = {"continue": "next"} if kind == self.partial else {}
        return {"items": self.lists.get(kind, []), "metadata": more}

    def delete(self, path: str, *, like: Any) -> bool:
        kind, name = path.split("/")[-2:]
        there = next(each for each in self.lists[kind] if each["metadata"]["name"] == name)
        assert like["metadata"]["uid"] == there["metadata"]["uid"]
        assert like["metadata"]["resourceVersion"] == there["metadata"]["resourceVersion"]
        if name == self.touched:
            raise Conflict()
        if len(self.deleted) == self.dies_after:
            raise refused("no API server answers", "look")
        self.lists[kind].remove(there)
        self.deleted.append(name)
        return True

    def now(self) -> datetime:
        return NOW


@dataclass
class Stack:
    """What of ops.engine.Engine is asked."""

    history: list[Run] = field(default_factory=list)  # newest first
    now: list[Json] = field(default_factory=list)
    locked: int = 0

    def runs(self) -> Iterator[Run]:
        yield from self.history

    def state(self) -> Any:
        return {"deployment": {"resources": self.now}}

    @contextmanager
    def alone(self) -> Iterator[None]:
        self.locked += 1
        yield


def pruned(stack: Stack, cluster: Cluster, count: int = 30) -> tuple[str, ...]:
    return prune(cast(Engine, stack), cast(Api, cluster), count)


def production(seed: int) -> tuple[Stack, Cluster, dict[str, set[str]]]:
    """A random one, and by itself, name by name, who needs what."""
    chance = Random(seed)
    stack, cluster = Stack(), Cluster()
    needed: dict[str, set[str]] = {"pods": set(), "makers": set(), "state": set()}
    made: set[str] = set()
    for number in range(1, chance.randint(2, 12)):
        environment = ENVIRONMENT | {"DB_HOST": chance.choice(("a.net", "b.net", "c.net", "d.net"))}
        which = str(chance.randint(0, 4))
        left = resources(
            all_of(chance.choice(("aaaaaaa", "bbbbbbb"))), environment=environment, secrets=which
        )
        made |= names_in(left)
        result = chance.choice(("succeeded", "succeeded", "failed"))
        stack.history.insert(0, run(number, left, deploy("aaaaaaa"), result=result))
        stack.now = left
    needed["state"] = set(names_in(stack.now))
    made |= {hashed(chance.randrange(10**6), chance.choice(SERVICES)) for _ in range(4)}
    made |= {hidden(chance.randrange(10**6)) for _ in range(2)}
    configs = sorted(name for name in made if "config" in name)
    secrets = sorted(made - set(configs))
    kinds = ("replicasets", "deployments", "statefulsets", "jobs", "controllerrevisions")
    for _ in range(chance.randint(0, 4)):
        kind, who = chance.choice((("pods", "pods"), *((kind, "makers") for kind in kinds)))
        config, hides = chance.choice(configs), chance.choice(secrets)
        needed[who] |= {config, hides}
        cluster.lists.setdefault(kind, []).append(pods_of(config, hides))
    cluster.lists["configmaps"] = [
        *map(thing, configs),
        thing("kube-root-ca.crt"),
        thing("honeydue-redis-config-e402aa571e"),
    ]
    cluster.lists["secrets"] = [*map(thing, secrets), thing("gitea-credentials")]
    return stack, cluster, needed


@given(st.integers(0, 2**32), st.integers(1, 6))
@settings(max_examples=200, deadline=None)
def test_nothing_goes_that_a_pod_a_replica_set_a_release_or_the_state_names(
    seed: int, count: int
) -> None:
    stack, cluster, needed = production(seed)
    before = {each["metadata"]["name"] for kind in cluster.lists.values() for each in kind}
    listed = releases(stack.history, limit=count)
    released = {
        name for each in listed for name in (*each.config_maps.values(), *each.secrets.values())
    }
    needed_by_any = released.union(*needed.values())
    gone = set(pruned(stack, cluster, count))
    assert gone == set(cluster.deleted)
    assert not gone & needed_by_any
    assert gone <= before
    assert stack.locked == 1
    # And nothing is left behind either.
    ours_left = {
        each["metadata"]["name"]
        for kind in ("configmaps", "secrets")
        for each in cluster.lists[kind]
        if names_in(each["metadata"]["name"])
    }
    assert ours_left <= needed_by_any
    assert pruned(stack, cluster, count) == ()


@given(st.integers(0, 2**32), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_to_keep_more_releases_never_lets_more_go(seed: int, count: int) -> None:
    fewer, more = production(seed), production(seed)
    assert set(pruned(*more[:2], count + 1)) <= set(pruned(*fewer[:2], count))


# --- refusals -----------------------------------------------------------------------------------


def old(stack: Stack | None = None) -> tuple[Stack, Cluster]:
    """One ConfigMap that may go."""
    return stack or Stack(), Cluster({"configmaps": [thing(hashed(1))]})


@pytest.mark.parametrize("fault", ["partial", "missing"])
@pytest.mark.parametrize(
    "kind",
    [
        *("configmaps", "secrets", "pods", "replicationcontrollers", "deployments", "replicasets"),
        *("statefulsets", "daemonsets", "controllerrevisions", "jobs", "cronjobs"),
    ],
)
def test_while_one_list_is_not_whole_nothing_goes(fault: str, kind: str) -> None:
    stack, cluster = old()
    setattr(cluster, fault, kind)
    with pytest.raises(Refused, match=f"cannot be listed whole: /api.*/{kind} gave no list"):
        pruned(stack, cluster)
    assert not cluster.deleted


def test_while_one_of_the_releases_cannot_be_read_nothing_goes() -> None:
    stack, cluster = old(
        Stack([run(2, resources(all_of("a"))), run(1, refused("it is cut off", "bring it back"))])
    )
    with pytest.raises(Refused, match="it is cut off"):
        pruned(stack, cluster)
    assert not cluster.deleted
    assert pruned(stack, cluster, 1) == (hashed(1),)  # one that does not matter may be damaged


def test_what_somebody_touches_meanwhile_stays() -> None:
    stack, cluster = old()
    cluster.lists["configmaps"].append(thing(hashed(2)))
    cluster.touched = hashed(1)
    assert pruned(stack, cluster) == (hashed(2),)


def test_after_a_fault_in_the_middle_it_says_how_far_it_came() -> None:
    stack, cluster = old()
    cluster.lists["configmaps"] += [thing(hashed(2)), thing(hashed(3))]
    cluster.dies_after = 2
    with pytest.raises(Refused) as refusal:
        pruned(stack, cluster)
    assert str(refusal.value) == (
        "stopped: 2 of 3 deleted; each is by itself\n"
        "    mend   run the same again, and it goes on from there\n"
        "no API server answers\n"
        "    mend   look"
    )
    cluster.dies_after = 1000
    assert pruned(stack, cluster) == (hashed(3),)


# --- the verb -----------------------------------------------------------------------------------

Ops = Callable[..., tuple[int, str]]


@dataclass
class Prod:
    nodes: Nodes
    state: Path


@pytest.fixture
def prod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Prod]:
    """Two releases; of an older one that is not listed any more the objects are still there."""
    nodes = Nodes(tmp_path / "nodes")
    state = tmp_path / "state"
    state.mkdir()
    past = Past(state)
    newer = ENVIRONMENT | {"DB_HOST": "b.net"}
    past.add(resources(all_of("aaaaaaa")))
    now = resources(all_of("aaaaaaa"), environment=newer)
    past.add(now)
    pulumi = Pulumi(tmp_path / "bin").answers(
        whoami={"url": f"file://{state}"},
        stack_output={"kubeconfig": nodes.kubeconfig},
        stack_export={"deployment": {"resources": now}},
    )
    monkeypatch.setenv("PATH", str(pulumi.folder), prepend=os.pathsep)
    nodes.objects.kinds |= {
        "configmaps": [
            *(thing(config_map(service)) for service in SERVICES),
            *(thing(config_map(service, newer)) for service in ("api", "worker")),
            thing(hashed(1), days=700),
            thing(hashed(2), days=650),
            thing("kube-root-ca.crt"),
        ],
        "secrets": [thing(secret("first")), thing(hidden(3), days=600)],
        "replicasets": [pods_of(hashed(2), secret("first"))],
    }
    yield Prod(nodes, state)
    nodes.stop()


@pytest.fixture
def ops(prod: Prod, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ops:
    def ran(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.stdin", Piped(""))
        code = main(["config", "prune", *words, "--stack", "prod"])
        printed = capsys.readouterr()
        read = printed.out + printed.err
        assert "Y2FuYXJ5" not in read
        return code, "".join(f"{line.rstrip()}\n" for line in read.splitlines())

    assert prod
    return ran


def left(prod: Prod) -> set[str]:
    kinds = prod.nodes.objects.kinds
    return {each["metadata"]["name"] for kind in ("configmaps", "secrets") for each in kinds[kind]}


def test_it_shows_what_goes_and_deletes_it(prod: Prod, ops: Ops) -> None:
    before = left(prod)
    code, read = ops("--yes")
    assert code == 0
    assert re.sub(r"\d+ d$", "… d", read, flags=re.MULTILINE) == (
        "Goes                            Kind       Age\n"
        f"{hashed(1)}  ConfigMap  … d\n"
        f"{hidden(3)}     Secret     … d\n"
        "\n"
        "2 of 9 objects go: nothing names them any more\n"
        "2 objects deleted\n"
    )
    assert before - left(prod) == {hashed(1), hidden(3)}
    assert ops("--yes") == (0, "nothing goes: all of 7 objects are needed, or new\n")


def test_a_dry_run_changes_nothing(prod: Prod, ops: Ops) -> None:
    before = left(prod)
    code, read = ops("--dry-run")
    assert code == 0
    assert read.endswith("nothing was changed (--dry-run)\n")
    assert left(prod) == before


def test_where_nobody_can_be_asked_nothing_goes(prod: Prod, ops: Ops) -> None:
    before = left(prod)
    code, read = ops()
    assert code == 1
    assert "pass --yes" in read
    assert left(prod) == before


def test_fewer_releases_let_more_go(prod: Prod, ops: Ops) -> None:
    assert ops("--yes", "--keep", "1")[0] == 0
    # admin reads no DB_HOST: both releases have the same one.
    gone = {config_map("api"), config_map("worker"), hashed(1), hidden(3)}
    assert not gone & left(prod)
    assert config_map("admin") in left(prod)
    assert hashed(2) in left(prod)


def test_for_programs(prod: Prod, ops: Ops) -> None:
    assert prod
    told = json.loads(ops("--yes", "--json")[1])
    assert told["deleted"] == [hashed(1), hidden(3)]
    assert told["goes"] == [
        {"kind": "ConfigMap", "name": hashed(1)},
        {"kind": "Secret", "name": hidden(3)},
    ]
    why = {each["name"]: each["keptBecause"] for each in told["kept"]}
    assert why[hashed(2)] == "for kubectl rollout undo"
    assert why[config_map("api")] == "release 1"
    assert why[config_map("admin")] == "in the state"


def test_while_a_run_is_under_way_it_is_refused(prod: Prod, ops: Ops) -> None:
    locks = prod.state / ".pulumi/locks/organization/honeydue/prod"
    locks.mkdir(parents=True)
    (locks / "x.json").write_text(
        json.dumps({"username": "ann", "hostname": "x", "pid": 1, "timestamp": "now"})
    )
    before = left(prod)
    code, read = ops("--yes")
    assert code == 1
    assert "locked by ann@x" in read
    assert left(prod) == before


def test_without_an_api_server_it_is_refused(prod: Prod, ops: Ops) -> None:
    prod.nodes.stop()
    code, read = ops("--yes")
    assert code == 1
    assert "no API server answers" in read


def test_more_that_goes_than_was_shown_is_refused(
    prod: Prod, ops: Ops, monkeypatch: pytest.MonkeyPatch
) -> None:
    survey = prune_configuration.survey

    def later(*arguments: Any) -> Any:
        found = survey(*arguments)
        prod.nodes.objects.kinds["replicasets"].clear()  # while the operator reads
        return found

    monkeypatch.setattr(prune_configuration, "survey", later)
    before = left(prod)
    code, read = ops("--yes")
    assert code == 1
    assert "more would go than was shown" in read
    assert left(prod) == before
