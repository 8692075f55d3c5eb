"""Where references to images are found, and how far back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ops.cluster import REMEMBERED, RUNNING, used_by_cluster
from ops.problems import Refused
from ops.references import newest, references_in
from ops.retention import Reference
from tests.ops.world import Cluster

DIGEST = f"sha256:{'ab' * 32}"


def api(name: str) -> Reference:
    return Reference("honeydue-api", name)


# --- in anything --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("gitea.treytartt.com/admin/honeydue-api:237c6b8", {"237c6b8"}),
        (f"gitea.treytartt.com/admin/honeydue-api@{DIGEST}", {DIGEST}),
        (f"gitea.treytartt.com/admin/honeydue-api:237c6b8@{DIGEST}", {"237c6b8", DIGEST}),
        ("another.host:5000/other/honeydue-api:237C6B8", {"237c6b8"}),
        ("honeydue-api:237c6b8-dirty-0123456789ab", {"237c6b8-dirty-0123456789ab"}),
        (f"docker-pullable://127.0.0.1:3000/admin/honeydue-api@{DIGEST}", {DIGEST}),
        ('an embedded {"image":"admin/honeydue-api:237c6b8"} document', {"237c6b8"}),
        ("gitea.treytartt.com/admin/honeydue-api", set()),
        ("admin/honeydue-api-test:237c6b8", set()),
        ("admin/old-honeydue-api:237c6b8", set()),
        ("admin/my.honeydue-api:237c6b8", set()),
    ],
)
def test_a_reference_is_found_wherever_it_stands(text: str, found: set[str]) -> None:
    assert references_in({"a": [1, None, {"b": text}]}) == {api(name) for name in found}


def test_keys_are_looked_at_too() -> None:
    assert references_in({"honeydue-worker:237c6b8": True}) == {
        Reference("honeydue-worker", "237c6b8")
    }


# --- in the past --------------------------------------------------------------------------------


def past(*states: set[str]) -> Iterator[frozenset[Reference]]:
    return iter([frozenset(map(api, state)) for state in states])


def test_so_many_releases_back_and_no_further() -> None:
    states = past({"e"}, {"d"}, {"c"}, {"b"}, {"a"})
    assert newest(states, 3) == {api("e"), api("d"), api("c")}


def test_a_run_that_changed_nothing_is_no_release() -> None:
    assert newest(past({"c"}, {"c"}, {"c"}, {"b"}, {"a"}), 2) == {api("c"), api("b")}


def test_a_run_that_failed_half_way_is_none_either() -> None:
    half = {"new worker", "old api"}
    states = past({"new worker", "new api"}, half, {"old worker", "old api"}, {"older"})
    # The half names the old api first, and so takes that release's place: one more is kept.
    assert newest(states, 3) >= set(map(api, ("old worker", "old api", "new api")))


def test_what_is_older_than_needed_is_not_even_read() -> None:
    def states() -> Iterator[frozenset[Reference]]:
        yield from past({"b"}, {"a"})
        raise AssertionError("read too far")

    assert newest(states(), 1) == {api("b")}


# --- in the cluster -----------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path / "cluster")
    yield made
    made.stop()


def test_every_kind_that_makes_pods_is_listed(cluster: Cluster) -> None:
    assert used_by_cluster(cluster.kubeconfig) == {}
    assert {path.rsplit("/", 1)[-1] for path in cluster.asked} == {
        *("pods", "replicationcontrollers", "deployments", "replicasets", "statefulsets"),
        *("daemonsets", "controllerrevisions", "jobs", "cronjobs"),
    }


def test_what_a_pod_really_runs_counts_beside_what_it_was_told(cluster: Cluster) -> None:
    status = {"containerStatuses": [{"imageID": f"gitea.test/admin/honeydue-api@{DIGEST}"}]}
    spec = {"initContainers": [{"image": "gitea.test/admin/honeydue-worker:237c6b8"}]}
    cluster.objects["pods"] = [{"metadata": {"name": "api"}, "spec": spec, "status": status}]
    assert used_by_cluster(cluster.kubeconfig) == {
        api(DIGEST): RUNNING,
        Reference("honeydue-worker", "237c6b8"): RUNNING,
    }


def test_what_no_pod_has_is_told_apart_from_what_runs(cluster: Cluster) -> None:
    for name, kind in (("old", "replicasets"), ("new", "replicasets"), ("new", "pods")):
        cluster.runs(f"gitea.test/admin/honeydue-api:{name}", kind)
    assert used_by_cluster(cluster.kubeconfig) == {api("new"): RUNNING, api("old"): REMEMBERED}


def test_when_one_node_is_down_the_next_one_is_asked(cluster: Cluster) -> None:
    config = yaml.safe_load(cluster.kubeconfig)
    down = {**config["clusters"][0]["cluster"], "server": "https://127.0.0.1:1"}
    config["clusters"].append({"name": "down", "cluster": down})
    config["contexts"].append({"name": "down", "context": {"cluster": "down", "user": "admin"}})
    config["current-context"] = "down"
    cluster.runs("gitea.test/admin/honeydue-api:237c6b8")
    assert used_by_cluster(json.dumps(config)).keys() == {api("237c6b8")}


def test_another_cluster_at_that_address_is_not_believed(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Cluster(tmp_path / "other" / "cluster")
    try:
        config = yaml.safe_load(cluster.kubeconfig)
        server = yaml.safe_load(other.kubeconfig)["clusters"][0]["cluster"]["server"]
        config["clusters"][0]["cluster"]["server"] = server
        with pytest.raises(Refused, match="CERTIFICATE_VERIFY_FAILED"):
            used_by_cluster(json.dumps(config))
        assert other.asked == []
    finally:
        other.stop()


@pytest.mark.parametrize("text", ["", "{", "{}", '{"contexts": []}'])
def test_what_is_no_kubeconfig_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="kubeconfig"):
        used_by_cluster(text)


def test_no_key_is_written_to_disk(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "tmp"
    empty.mkdir()
    monkeypatch.setenv("TMPDIR", str(empty))
    monkeypatch.setattr("tempfile.tempdir", str(empty))
    used_by_cluster(cluster.kubeconfig)
    assert list(empty.iterdir()) == []
