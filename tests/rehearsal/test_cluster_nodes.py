"""A node's way through its boot, up to where Kubernetes would start."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rehearsal.cluster import binaries
from rehearsal.cluster.binaries import Binaries, BinariesError
from rehearsal.cluster.datacenter import Cluster
from rehearsal.cluster.objects import (
    node_status,
    password_fits,
    password_hash,
    provisioned_volume,
)
from rehearsal.home import Home
from tests.rehearsal.production import Production


@pytest.fixture(scope="module")
def production() -> Production:
    return Production()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A datacenter whose binaries never come."""
    monkeypatch.setattr(binaries, "cached", lambda: None)
    monkeypatch.setattr(Cluster, "prepare", lambda _self: None)
    made = Cluster(Home(tmp_path))
    yield made
    made.close()


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_a_server_waits_for_its_private_address_and_then_for_kubernetes(
    cluster: Cluster, production: Production
) -> None:
    attached = production.machine(1)
    cluster.start(replace(attached, private_ipv4=None, network_id=None))
    until(lambda: cluster.status(101).phase == "waiting-for-network")
    cluster.update(attached)
    until(lambda: cluster.status(101).phase == "waiting-for-binaries")
    assert "Kubernetes is not there yet" in cluster.status(101).line


def test_a_failed_build_is_told_and_does_not_end_the_wait(
    cluster: Cluster, production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(_self: Cluster) -> Binaries | None:
        raise BinariesError("no Go\n  mend: install it")

    monkeypatch.setattr(Cluster, "binaries", failed)
    cluster.start(production.machine(1))
    until(lambda: cluster.status(101).phase == "failed")
    assert "mend: install it" in cluster.status(101).line
    monkeypatch.setattr(Cluster, "binaries", lambda _self: None)
    until(lambda: cluster.status(101).phase == "waiting-for-binaries")


def test_a_node_that_cannot_boot_says_why_on_its_console_and_stays_down(
    cluster: Cluster, production: Production, tmp_path: Path
) -> None:
    cluster.start(replace(production.machine(1), user_data="#cloud-config\nwrite_file: []\n"))
    until(lambda: cluster.status(101).phase == "failed")
    console = (tmp_path / "nodes/101/console.log").read_text()
    assert "failed: user_data: cloud-config has no key 'write_file'; did you mean" in console


def test_a_server_without_k3s_is_just_up(cluster: Cluster, production: Production) -> None:
    cluster.start(replace(production.machine(1), user_data="#cloud-config\npackages: [vim]\n"))
    until(lambda: cluster.status(101).phase == "running")


def test_a_reboot_keeps_the_disk_and_a_rebuild_makes_a_new_one(
    cluster: Cluster, production: Production, tmp_path: Path
) -> None:
    def wrote() -> bool:
        return (tmp_path / "nodes/101/booted").exists()

    mark = tmp_path / "nodes/101/disk/mark"
    cluster.start(production.machine(1))
    until(wrote)
    mark.touch()
    cluster.stop(101)
    cluster.start(production.machine(1))
    until(lambda: cluster.status(101).phase == "waiting-for-binaries")
    assert mark.exists()
    cluster.rebuild(production.machine(1))
    until(lambda: not mark.exists() and wrote())


def test_a_destroyed_server_leaves_no_disk_and_never_starts_again(
    cluster: Cluster, production: Production, tmp_path: Path
) -> None:
    cluster.start(production.machine(1))
    until(lambda: cluster.status(101).phase == "waiting-for-binaries")
    cluster.destroy(101)
    until(lambda: not (tmp_path / "nodes/101").exists())
    cluster.start(production.machine(1))
    assert cluster.statuses() == {}


def test_no_one_else_may_read_a_nodes_disk(
    cluster: Cluster, production: Production, tmp_path: Path
) -> None:
    cluster.start(production.machine(1))
    until((tmp_path / "nodes/101/booted").exists)
    assert (tmp_path / "nodes/101").stat().st_mode & 0o777 == 0o700


def test_a_node_password_is_kept_as_a_hash_that_only_it_fits() -> None:
    stored = password_hash("canary")
    assert stored.startswith("$1:")
    assert "canary" not in stored
    assert password_fits("canary", stored)
    assert not password_fits("another", stored)
    assert not password_fits("canary", "junk")


def test_reservations_are_taken_from_what_a_node_offers(
    cluster: Cluster, production: Production
) -> None:
    cluster.start(production.machine(1))
    until(lambda: cluster.status(101).phase == "waiting-for-binaries")
    config = cluster._nodes[101].config
    assert config is not None
    status = node_status(production.machine(1), config, "v1.34.6+k3s1")
    assert (status["capacity"]["cpu"], status["allocatable"]["cpu"]) == ("4", "3000m")
    kept = int(status["capacity"]["memory"][:-2]) - int(status["allocatable"]["memory"][:-2])
    assert kept == 2048 * 1024


def test_a_volume_is_made_only_for_a_placed_claim_of_local_path() -> None:
    claim = {
        "metadata": {"name": "data", "namespace": "x", "uid": "1", "annotations": {}},
        "spec": {
            "storageClassName": "local-path",
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    placed = {"volume.kubernetes.io/selected-node": "honeydue-2"}
    on_node = {**claim, "metadata": {**claim["metadata"], "annotations": placed}}
    volume = provisioned_volume(on_node)
    assert provisioned_volume(claim) is None
    assert volume is not None
    assert volume["spec"]["claimRef"]["uid"] == "1"
    other = {**on_node, "spec": {**claim["spec"], "storageClassName": "other"}}
    assert provisioned_volume(other) is None
