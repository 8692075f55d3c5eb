"""The other files ask their question of every workload; this one makes sure "every" is true."""

from __future__ import annotations

from honeydue.images.references import SERVICES
from honeydue.kubernetes.capacity import pods
from honeydue.kubernetes.catalogue import REDIS, WORKLOADS

from .cluster_program import KINDS, agrees_with_golden, declared, workloads

EXPECTED = {"api", "worker", "admin", "redis"}


def test_a_new_workload_must_be_named_here_and_so_meets_every_other_test() -> None:
    assert set(workloads()) == EXPECTED


def test_nothing_makes_pods_that_the_tests_do_not_see() -> None:
    for resource in declared():
        if "template" in resource.inputs.get("spec", {}):
            assert resource.type in KINDS, f"add {resource.type} to cluster_program.KINDS"


def test_the_table_the_images_and_the_arithmetic_agree_on_who_runs() -> None:
    assert {w.name for w in WORKLOADS} == set(SERVICES)
    assert {w.name for w in WORKLOADS} | {REDIS.name} == EXPECTED
    assert {need.owner for need in pods(rollout=True)} == EXPECTED


def test_an_external_redis_leaves_no_trace_of_one_in_the_cluster() -> None:
    recording = declared(redis=False)
    assert set(workloads(recording)) == EXPECTED - {"redis"}
    assert [r.urn for r in recording if "redis" in r.name and r.custom] == []


def test_logical_names_are_a_contract() -> None:
    # A changed name deletes a resource and makes another. If it must be: an alias, GOLDEN=write.
    agrees_with_golden(
        "kubernetes-urns.yaml",
        sorted(r.urn for r in declared(strict=True) if "honeydue:kubernetes:" in r.urn),
    )
