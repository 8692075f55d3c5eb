"""Does production still fit when one of three nodes is gone? Plain arithmetic, held by a test.

Memory is the bound that kills (a request that fits nowhere stays Pending); CPU requests are counted
the same way. Sizes in MiB and thousandths of a core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from honeydue.kubernetes.catalogue import REDIS, WORKLOADS


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one pod asks of its node."""

    owner: str
    cpu_millis: int
    memory_mib: int


# CX33: 4 vCPU, 8 GB, of which Linux shows about 7,700 MiB.
NODE: Final = Need(owner="cx33", cpu_millis=4000, memory_mib=7700)

# On every node, whatever is scheduled. K3s measures 1.6 GB for a server with etcd and a workload
# (docs.k3s.io/reference/resource-profiling); the rest is the OS and the page cache that etcd wants.
PER_NODE: Final = (
    Need(owner="system", cpu_millis=1000, memory_mib=2560),
    Need(owner="traefik", cpu_millis=100, memory_mib=256),
)

# K3s' packaged pods; their requests are 100m/70Mi (CoreDNS, metrics-server) and none (local-path).
ADD_ONS: Final = (
    Need(owner="coredns", cpu_millis=100, memory_mib=170),
    Need(owner="metrics-server", cpu_millis=100, memory_mib=70),
    Need(owner="local-path-provisioner", cpu_millis=50, memory_mib=64),
)


def pods(*, rollout: bool) -> list[Need]:
    """Every pod of the namespace, one entry each; during a rollout with each workload's surge."""
    needs = [Need(owner=REDIS.name, cpu_millis=REDIS.cpu_millis, memory_mib=REDIS.memory_mib)]
    for workload in WORKLOADS:
        count = workload.replicas + (workload.surge if rollout else 0)
        needs += [
            Need(
                owner=workload.name,
                cpu_millis=workload.cpu_millis,
                memory_mib=workload.memory_mib,
            )
        ] * count
    return needs


def fits(needs: list[Need], *, nodes: int) -> bool:
    """Whether first-fit-decreasing finds a place for each pod on that many nodes.

    The scheduler spreads rather than packs, so this is a bound on what is possible, not a forecast;
    the test therefore also demands slack.
    """
    cpu = NODE.cpu_millis - sum(n.cpu_millis for n in PER_NODE)
    memory = NODE.memory_mib - sum(n.memory_mib for n in PER_NODE)
    return place(needs, [(cpu, memory)] * nodes) is None


def place(needs: Sequence[Need], free: Sequence[tuple[int, int]]) -> Need | None:
    """The first that finds no place; None: all do. `free`: of each node, as in `Need`."""
    left = list(free)
    for need in sorted(needs, key=lambda n: n.memory_mib, reverse=True):
        for node, (cpu, memory) in enumerate(left):
            if cpu >= need.cpu_millis and memory >= need.memory_mib:
                left[node] = cpu - need.cpu_millis, memory - need.memory_mib
                break
        else:
            return need
    return None
