"""What may run: the cluster's own refusal of every image that is not the program's."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import pulumi
from pulumi_kubernetes.admissionregistration import v1 as admissionregistration

from honeydue.kubernetes.admission_policy import policies
from honeydue.settings import Registry
from honeydue.versions import PINNED_IMAGES

# An API server takes up a changed policy at its next look, once a second (policyRefreshInterval in
# k8s.io/apiserver, admission/plugin/policy/generic/policy_source.go), and learns of it by a watch.
SETTLE_SECONDS: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class AdmissionArgs:
    """`registry`: of it server and namespace, where the application's images live."""

    registry: Registry


class Admission(pulumi.ComponentResource):
    """Three ValidatingAdmissionPolicies with a binding each (docs/adr/0008).

    Whatever makes pods comes after it: a new pin, or another registry, must be allowed before the
    StatefulSet or Deployment asks for it. Their names never change, so a change is an update in
    place, without a moment in which nothing is enforced. They belong to the cluster and not to the
    namespace, hence no `deleted_with`; and they are not retained, since a policy that outlives the
    program would refuse its successor's images.

    Pulumi waits for neither kind. A first policy may come into force a moment late, as what follows
    is allowed by it anyway.
    """

    def __init__(
        self, name: str, args: AdmissionArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:kubernetes:Admission", name, None, opts)
        settled = pulumi.ResourceHook(f"{name}-settled", settle)
        for made in policies(
            server=args.registry.server, namespace=args.registry.namespace, pinned=PINNED_IMAGES
        ):
            short = made.name.removeprefix("honeydue-images-")
            policy = admissionregistration.ValidatingAdmissionPolicy(
                f"{name}-{short}",
                **made.policy,
                opts=pulumi.ResourceOptions(
                    parent=self,
                    # `create` too: a policy of a restored snapshot is taken over (upsert).
                    hooks=pulumi.ResourceHookBinding(
                        after_create=[settled], after_update=[settled]
                    ),
                ),
            )
            admissionregistration.ValidatingAdmissionPolicyBinding(
                f"{name}-{short}-binding",
                **made.binding,
                opts=pulumi.ResourceOptions(parent=self, depends_on=[policy]),
            )
        self.register_outputs({})


async def settle(args: pulumi.ResourceHookArgs) -> None:
    """Waits until the change is in force: for a second the API server still has the policy before
    it, which would refuse the very image that this `up` brings. A policy's first generation has
    none before it."""
    metadata = (args.new_outputs or {}).get("metadata") or {}
    if metadata.get("generation") != 1:
        await asyncio.sleep(SETTLE_SECONDS)
