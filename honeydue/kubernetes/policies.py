"""What limits the workloads: who talks to whom, and how many of them a drain may take at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_kubernetes import networking, policy
from pydantic import SecretStr

from honeydue.kubernetes.catalogue import NAME, REDIS, WORKLOADS, labels
from honeydue.kubernetes.namespace import Namespace
from honeydue.kubernetes.network_rules import external_ports, network_policies
from honeydue.settings import Cluster


@dataclass(frozen=True, kw_only=True)
class PoliciesArgs:
    """`environment` tells which ports live outside; no `external_redis`: Redis runs here."""

    namespace: Namespace
    cluster: Cluster
    environment: Mapping[str, str]
    external_redis: SecretStr | None


class Policies(pulumi.ComponentResource):
    """NetworkPolicies (default deny) and PodDisruptionBudgets: there before the first pod is."""

    def __init__(
        self, name: str, args: PoliciesArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:kubernetes:Policies", name, None, opts)
        child = pulumi.ResourceOptions(
            parent=self,
            # Dies with the namespace; a destroy, or a rebuild, need not reach for it first.
            deleted_with=args.namespace.resource,
        )
        redis = args.external_redis is None
        rules = network_policies(
            pod_cidr=args.cluster.pod_cidr,
            service_cidr=args.cluster.service_cidr,
            network_cidr=args.cluster.network_cidr,
            node_cidr=args.cluster.node_cidr,
            ports=external_ports(
                args.environment,
                redis_url=args.external_redis.get_secret_value() if args.external_redis else None,
            ),
            redis=redis,
        )
        for title, spec in rules.items():
            rule: dict[str, Any] = {
                "metadata": {
                    "name": title,
                    "namespace": args.namespace.namespace,
                    "labels": labels("policies"),
                },
                "spec": spec,
            }
            networking.v1.NetworkPolicy(f"{name}-{title}", **rule, opts=child)
        for workload, budget in disruption_budgets(redis=redis).items():
            limit: dict[str, Any] = {
                "metadata": {
                    "name": workload,
                    "namespace": args.namespace.namespace,
                    "labels": labels(workload),
                },
                "spec": budget,
            }
            policy.v1.PodDisruptionBudget(f"{name}-{workload}-budget", **limit, opts=child)
        self.register_outputs({})


def disruption_budgets(*, redis: bool) -> dict[str, dict[str, Any]]:
    """Workload → spec of its PodDisruptionBudget.

    `maxUnavailable` rather than `minAvailable` for what has replicas, since it stays right when
    their number changes. For the worker the book's `minAvailable: 0`: a drain may take the only one
    (the queue waits), and must not hang on it.
    """
    budgets: dict[str, dict[str, Any]] = {
        w.name: {"minAvailable": 0} if w.singleton else {"maxUnavailable": 1} for w in WORKLOADS
    }
    if redis:
        budgets[REDIS.name] = {"maxUnavailable": 1}
    return {
        name: {
            **budget,
            "selector": {"matchLabels": {NAME: name}},
            # A pod that never gets ready protects nobody and must not block a drain.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        }
        for name, budget in budgets.items()
    }
