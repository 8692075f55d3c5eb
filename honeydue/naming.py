"""Names and labels that several components must agree on."""

from __future__ import annotations


def labels(*, cluster: str, stack: str) -> dict[str, str]:
    """What every Hetzner resource carries, so that a project's leftovers can be told apart."""
    return {"cluster": cluster, "stack": stack, "managed-by": "pulumi"}


def manager_labels(common: dict[str, str], *, generation: int) -> dict[str, str]:
    """A server's labels. The health gate reads `generation` to know whose turn it is to go."""
    return {**common, "role": "manager", "generation": str(generation)}


def cluster_identifier(*, cluster: str, stack: str) -> str:
    """The Kubernetes provider's identity of the cluster, equal from the first deploy to the last:
    without it a changed kubeconfig would plan the replacement of every workload."""
    return f"{cluster}-{stack}"
