"""The Helm values that turn K3s' packaged Traefik into the one production has.

Written for the chart in versions.TRAEFIK_CHART. K3s merges them over its own (image, tolerations,
priority system-cluster-critical). The chart drops a wrongly nested value without a word, so a test
holds every path below against the recorded list of the chart's own values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml


def traefik_values(*, trusted_ips: Sequence[str]) -> dict[str, Any]:
    """Values for a Traefik on each node that answers on the node's own 80 and 443.

    `trusted_ips` are Cloudflare's ranges: only from them are X-Forwarded-* headers believed. There
    is no redirect to https here: with Cloudflare's flexible mode the origin is asked over http, and
    a redirect would loop for ever (Cloudflare's "always use https" does it at the edge).
    """

    def trusted() -> dict[str, Any]:  # anew for each port: a shared one becomes a YAML anchor
        return {"forwardedHeaders": {"trustedIPs": sorted(trusted_ips)}}

    return {
        "deployment": {
            "kind": "DaemonSet",
            # In the host's network DNS would otherwise be the host's, not the cluster's.
            "dnsPolicy": "ClusterFirstWithHostNet",
        },
        "hostNetwork": True,
        "ports": {"web": {"port": 80, **trusted()}, "websecure": {"port": 443, **trusted()}},
        # servicelb is off and DNS points at the nodes: a LoadBalancer would stay pending for ever,
        # and its address would be waited for in vain.
        "service": {"enabled": False},
        "providers": {"kubernetesIngress": {"publishedService": {"enabled": False}}},
        # Two cannot hold one host's port 80: the old pod goes before the new one comes.
        "updateStrategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0},
        },
        "logs": {"access": {"enabled": True, "format": "json"}},
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "resources": {
            "requests": {"cpu": "100m", "memory": "256Mi"},
            "limits": {"memory": "256Mi"},
        },
        # Ports below 1024 in the host's network: an added capability does not reach a process that
        # is not root (it is not made ambient), so it is root, and of root's powers it keeps this
        # one.
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
        },
        "podSecurityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": False,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def values_content(*, trusted_ips: Sequence[str]) -> str:
    """The values as the YAML text that `HelmChartConfig.spec.valuesContent` holds."""
    return yaml.safe_dump(traefik_values(trusted_ips=trusted_ips), sort_keys=False)
