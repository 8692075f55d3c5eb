"""The one way into the cluster: every Kubernetes resource goes through the provider made here."""

from __future__ import annotations

import pulumi
import pulumi_kubernetes as kubernetes


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
