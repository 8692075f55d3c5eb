"""The namespace that holds honeyDue, under Pod Security `restricted`."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
from pulumi_kubernetes import core, scheduling

from honeydue.kubernetes.catalogue import PRIORITIES

_POD_SECURITY = {
    f"pod-security.kubernetes.io/{mode}{suffix}": value
    for mode in ("enforce", "audit", "warn")
    # The version is pinned, so that a Kubernetes upgrade does not tighten the rules by itself.
    for suffix, value in (("", "restricted"), ("-version", "v1.34"))
}


@dataclass(frozen=True, kw_only=True)
class NamespaceArgs:
    """`namespace` is the name in the cluster."""

    namespace: str = "honeydue"


class Namespace(pulumi.ComponentResource):
    """The Namespace and the PriorityClasses that its pods name.

    The classes belong to the whole cluster, but a pod that names one which is missing is refused:
    so they stand with what must be there first.
    """

    namespace: pulumi.Output[str]
    """Its name in the cluster, known once it exists: whatever uses it comes after it. What names a
    PriorityClass must besides depend on this component as a whole."""
    resource: core.v1.Namespace
    """For `deleted_with`: what dies with the namespace need not be deleted one by one."""

    def __init__(
        self, name: str, args: NamespaceArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:kubernetes:Namespace", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        self.resource = core.v1.Namespace(
            name,
            metadata={
                "name": args.namespace,
                "labels": {"app.kubernetes.io/part-of": "honeydue", **_POD_SECURITY},
            },
            opts=child,
        )
        # A value never changes under its name: Kubernetes refuses that, and the plugin does not
        # replace for it, so the preview fails. Another value is another name (PRIORITIES).
        for priority, (value, why) in PRIORITIES.items():
            scheduling.v1.PriorityClass(
                f"{name}-{priority.removeprefix('honeydue-')}",
                metadata={"name": priority},
                value=value,
                description=why,
                opts=child,
            )
        # From the namespace alone: were a class replaced, and so deleted first, everything whose
        # *properties* came from it would be deleted with it. `metadata` is known at preview; an id
        # is not.
        self.namespace = self.resource.metadata.apply(lambda made: str(made["name"]))
        self.register_outputs({"namespace": self.namespace})
