"""The one way into the cluster: every Kubernetes resource goes through the provider made here."""

from __future__ import annotations

from typing import Any, Final, cast

import pulumi
import pulumi_kubernetes as kubernetes

# Prefixed as the plugin prefixes its own, so that it is known for Pulumi's.
FIELD_OWNER: Final = "pulumi-kubernetes-honeydue"


def connect(
    name: str,
    kubeconfig: pulumi.Input[str],
    cluster_identifier: str,
    ready: pulumi.Resource,
    opts: pulumi.ResourceOptions | None = None,
) -> kubernetes.Provider:
    """Makes the provider.

    `kubeconfig` is text and must be known at preview: were it unknown, every object in the cluster
    would be shown as perhaps different. So it comes from the PKI alone, and the wait for the
    cluster is an order (`ready`), not a value: the plugin decides once, when it is configured and
    without a retry, whether the cluster can be reached.

    `cluster_identifier` must be the same from the first deploy on (`<cluster>-<stack>`): with it a
    changed kubeconfig updates the provider; without it, it would replace everything in the cluster.
    """
    return kubernetes.Provider(
        name,
        kubeconfig=pulumi.Output.secret(kubeconfig).apply(never_empty),
        cluster_identifier=cluster_identifier,
        enable_server_side_apply=True,
        # A killed `up` and a restored snapshot both leave objects that are ours but not in the
        # state; and a configuration that comes back finds its retained, identical ConfigMap.
        upsert_existing_objects=True,
        # The pull secret and the origin's certificate keep their names and are rotated in place.
        # What is `immutable: true` (named by content) is still replaced: the plugin looks at that
        # field (provider/pkg/provider/force_new.go).
        enable_secret_mutable=True,
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[ready])),
    )


def never_empty(kubeconfig: str) -> str:
    """Empty means "not set" to the plugin: it would take the operator's own current context."""
    if not kubeconfig.strip():
        raise pulumi.RunError("the kubeconfig is empty; refusing to use this machine's own context")
    return kubeconfig


def inside(
    provider: kubernetes.Provider, *others: pulumi.ProviderResource
) -> pulumi.ResourceOptions:
    """Options of every component in the cluster: its providers, and whose its objects' fields are.

    The plugin would make up another field manager at each create, and keep it in the state. What a
    killed `up` or a lost state has left would be taken over all the same, but then with two
    managers: the next change of a field would be a conflict with the first one, and a field that
    the program drops would stay for ever (fieldManagerName in provider/pkg/provider/provider.go).
    """
    return pulumi.ResourceOptions(providers=[*others, provider], transformations=[_owned])


def _owned(
    args: pulumi.ResourceTransformationArgs,
) -> pulumi.ResourceTransformationResult | None:
    if not args.type_.startswith("kubernetes:"):
        return None
    metadata = cast("dict[str, Any]", args.props["metadata"])  # as this program writes them
    annotations = {**metadata.get("annotations", {}), "pulumi.com/patchFieldManager": FIELD_OWNER}
    props = {**args.props, "metadata": {**metadata, "annotations": annotations}}
    return pulumi.ResourceTransformationResult(props=props, opts=args.opts)
