"""When the gates run, what they are given, and what waits for them."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from honeydue.k3s.gates import script

from .production import HCLOUD_TOKEN, cloudflare_says, declare, production, variant, vendor
from .recording import UNKNOWN, Recorded, record

GATES = [f"honeydue-{i}-gate" for i in (1, 2, 3)]
READY = "cluster-ready-gate"


def gate(name: str) -> Recorded:
    return production().named(name)


def test_gates_and_servers_stand_in_one_line() -> None:
    line = ["honeydue-1-gate", "honeydue-1", "honeydue-2-gate", "honeydue-2"]
    line += ["honeydue-3-gate", "honeydue-3", READY]
    found = [production().named(name) for name in line]
    for before, after in pairwise(found):
        assert before.urn in after.depends_on, f"{after.name} does not wait for {before.name}"


def test_a_gate_runs_anew_when_its_node_is_to_be_touched_or_the_one_before_was_replaced() -> None:
    ids = [s.urn for s in production().all("Server")]
    for i, name in enumerate(GATES):
        triggers = gate(name).inputs["triggers"]
        assert triggers[:2] == [1, "cx33"]
        assert len(triggers) == (2 if i == 0 else 3)
        assert gate(name).property_dependencies["triggers"] == ({ids[i - 1]} if i else set())
    raised = variant(generations=(1, 1, 7)).named("honeydue-3-gate").inputs["triggers"]
    assert raised[0] == 7


def test_the_readiness_gate_runs_anew_when_any_server_is_another_one() -> None:
    ids = {s.urn for s in production().all("Server")}
    assert gate(READY).property_dependencies["triggers"] == ids
    assert len(gate(READY).inputs["triggers"]) == 3


@pytest.mark.parametrize("name", [*GATES, READY])
def test_the_admins_key_is_secret_and_so_is_what_a_gate_says(name: str) -> None:
    assert "environment.HONEYDUE_ADMIN_KEY" in gate(name).secrets
    # And no input: the plugin may compare the old outputs with the new inputs, and a whole
    # `environment` that is secret would then differ from one with secrets in it, in every plan.
    assert set(gate(name).additional_secret_outputs) == {"stdout", "stderr"}


def test_hetzners_token_goes_to_the_gates_that_need_it_and_is_secret() -> None:
    for name in GATES:
        assert gate(name).inputs["environment"]["HCLOUD_TOKEN"] == HCLOUD_TOKEN
        assert "environment.HCLOUD_TOKEN" in gate(name).secrets
    assert "HCLOUD_TOKEN" not in gate(READY).inputs["environment"]


def test_a_gate_knows_every_manager_by_its_public_address() -> None:
    nodes = [{"name": f"honeydue-{i}", "address": f"203.0.113.{i}"} for i in (1, 2, 3)]
    for name in [*GATES, READY]:
        assert json.loads(gate(name).inputs["environment"]["HONEYDUE_NODES"]) == nodes


def test_the_stored_command_holds_no_path_of_this_machine_and_no_secret() -> None:
    for name in GATES:
        assert gate(name).inputs["create"] == script("health")
        assert "dir" not in gate(name).inputs
    assert gate(READY).inputs["create"] == script("ready")
    assert "/home" not in script("health")
    assert "/work" not in script("health")


def test_a_changed_trigger_must_run_create_so_there_is_no_update_command() -> None:
    # With `update` set, the plugin would run that one instead and would not replace.
    for name in [*GATES, READY]:
        assert "update" not in gate(name).inputs


def test_nothing_consumes_what_a_gate_says() -> None:
    gates = {gate(name).urn for name in [*GATES, READY]}
    for r in production():
        for urns in r.property_dependencies.values():
            assert not urns & gates, r.name


def test_the_kubeconfig_is_known_and_secret_while_servers_and_gates_are_unknown() -> None:
    def planned(resource: Recorded) -> dict[str, object]:
        unknown = {"id": ""} if resource.type.endswith((":Server", ":Command")) else {}
        return {**vendor(resource), **unknown}

    plan = record(declare, outputs=planned, call=cloudflare_says, preview=True)
    assert set(plan.named(READY).inputs["triggers"]) == {UNKNOWN}  # or this test tests nothing
    assert plan.exports["kubeconfig"].startswith("apiVersion: v1\n")
    assert plan.secret_exports == {"kubeconfig"}
