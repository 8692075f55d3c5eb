"""`__main__.py` itself, run against the recording monitor: what the whole declares."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

from honeydue import settings as honeydue_settings
from tests.program.production import cloudflare_says, vendor
from tests.program.recording import Recording, record
from tests.settings import sample

MAIN = Path(__file__).resolve().parent.parent.parent / "__main__.py"
URNS = Path(__file__).parent / "golden" / "urns.txt"

# Everything that the program can declare: Redis in the cluster and the origin's certificate too.
EVERYTHING = sample.both(sample.config("redis", sample.GONE), sample.config("dns.ssl", "strict"))


def run(
    monkeypatch: pytest.MonkeyPatch, *changes: sample.Change, preview: bool = False
) -> Recording:
    monkeypatch.setattr(honeydue_settings, "load", lambda: sample.settings(*changes))
    return record(
        lambda: runpy.run_path(str(MAIN)),
        outputs=vendor,
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


def test_a_first_preview_needs_nothing_that_only_up_can_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert len(list(run(monkeypatch, EVERYTHING, preview=True))) == len(
        list(run(monkeypatch, EVERYTHING))
    )


def test_the_outputs_are_what_an_operator_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = run(monkeypatch)
    assert sorted(recording.exports) == ["images", "kubeconfig", "nodes", "snapshots", "urls"]
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
