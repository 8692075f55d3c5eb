"""`__main__.py` itself, run against the recording monitor: what the whole declares."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

from honeydue import settings as honeydue_settings
from honeydue.images import release
from honeydue.kubernetes.provider import FIELD_OWNER
from tests.images.test_release import BUILDING, BUILT
from tests.images.test_release import made as images_made
from tests.program.production import cloudflare_says, vendor
from tests.program.recording import Recording, record
from tests.settings import sample

MAIN = Path(__file__).resolve().parent.parent.parent / "__main__.py"
URNS = Path(__file__).parent / "golden" / "urns.txt"

# Everything that the program can declare: Redis in the cluster, the origin's certificate, and
# images that are built.
EVERYTHING = sample.both(
    sample.config("redis", sample.GONE), sample.config("dns.ssl", "strict"), *BUILDING
)


def run(
    monkeypatch: pytest.MonkeyPatch, *changes: sample.Change, preview: bool = False
) -> Recording:
    settings = sample.settings(*changes)
    monkeypatch.setattr(honeydue_settings, "load", lambda: settings)
    if settings.built:  # what a checkout would say; tests/images/test_plan.py has real ones
        monkeypatch.setattr(release, "plan", lambda _: BUILT)
    return record(
        lambda: runpy.run_path(str(MAIN)),
        outputs=lambda resource: images_made(resource) or vendor(resource),
        call=cloudflare_says,
        preview=preview,
        stack="prod",
    )


def test_the_table_of_contents_fits_one_screen() -> None:
    assert len(MAIN.read_text().splitlines()) <= 40


def test_logical_names_are_a_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed URN is a deleted and a new resource to Pulumi: give the resource an alias, then
    `UPDATE_GOLDEN=1` records the new name."""
    declared = sorted(resource.urn for resource in run(monkeypatch, EVERYTHING))
    text = "\n".join(declared) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        URNS.write_text(text)
    assert text == URNS.read_text()


def test_every_resource_has_an_explicit_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    without = [
        resource.urn
        for resource in run(monkeypatch, EVERYTHING)
        if resource.custom and not resource.type.startswith("pulumi:") and not resource.provider
    ]
    assert without == []


def test_every_object_in_the_cluster_is_made_inside_the_one_set_of_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objects = [r for r in run(monkeypatch, EVERYTHING) if r.type.startswith("kubernetes:")]
    assert len(objects) > 30
    for resource in objects:
        annotations = resource.inputs["metadata"]["annotations"]
        assert annotations["pulumi.com/patchFieldManager"] == FIELD_OWNER, resource.urn


def test_a_first_preview_needs_nothing_that_only_up_can_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert len(list(run(monkeypatch, EVERYTHING, preview=True))) == len(
        list(run(monkeypatch, EVERYTHING))
    )


def test_the_outputs_are_what_an_operator_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = run(monkeypatch)
    assert sorted(recording.exports) == [
        *("images", "kubeconfig", "nodes", "release", "snapshots", "urls")
    ]
    assert recording.secret_exports == {"kubeconfig"}
    assert recording.exports["snapshots"] == (
        "s3://honeydue-etcd/honeydue at s3.us-west-004.backblazeb2.com"
    )
    assert recording.exports["images"]["admin"].startswith(
        "gitea.treytartt.com/admin/honeydue-admin@sha256:"
    )


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_number_of_managers_is_a_setting(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    nodes = [{"name": f"honeydue-{number}"} for number in range(1, count + 1)]
    changes = sample.both(
        sample.config("cluster.nodes", nodes), sample.config("cluster.apiNode", sample.GONE)
    )
    recording = run(monkeypatch, changes)
    assert len(recording.all("hcloud:index/server:Server")) == count


def test_images_and_nodes_are_made_at_once_and_only_deployments_wait_for_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recording = run(monkeypatch, EVERYTHING)
    by_urn = {resource.urn: resource for resource in recording}
    servers = {r.urn for r in recording.all("hcloud:index/server:Server")}
    images = {r.urn for r in recording.all("docker-build:index:Image")}
    gates = {r.urn for r in recording if r.name.startswith("release-") and r.custom}
    assert len(images) == 3
    assert len(gates) == 6
    for urn in images | gates:
        assert not recording.closure(by_urn[urn]) & servers
    waiting = {r.name for r in recording if r.custom and recording.closure(r) & (images | gates)}
    after_all = {name for name in waiting if name.startswith("workloads-")}
    assert waiting - after_all == {r.name for r in recording if r.urn in gates}
    for service in ("api", "worker", "admin"):
        rollout = recording.named(f"workloads-{service}")
        assert gates <= recording.closure(rollout), "a release is one: all are proven before any"
        cluster = by_urn[rollout.provider.rpartition("::")[0]]  # it waits for the nodes
        assert servers <= recording.closure(cluster)
