"""The kubeconfig, computed from the PKI and the primary addresses alone."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import yaml


def kubeconfig(
    *,
    servers: Mapping[str, str],
    current: str,
    server_ca: str,
    admin_certificate: str,
    admin_key: str,
) -> str:
    """YAML with one cluster and context per node, so that a dead node costs one `--context`.

    `servers`: node → public address; `current`: the node that `kubectl` talks to by itself.
    Certificates and key are PEM.
    """
    if current not in servers:
        raise ValueError(f"there is no node {current!r} for the kubeconfig to open")
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": node,
                "cluster": {
                    "server": f"https://{address}:6443",
                    "certificate-authority-data": _base64(server_ca),
                },
            }
            for node, address in servers.items()
        ],
        "contexts": [
            {"name": node, "context": {"cluster": node, "user": "admin"}} for node in servers
        ],
        "current-context": current,
        "users": [
            {
                "name": "admin",
                "user": {
                    "client-certificate-data": _base64(admin_certificate),
                    "client-key-data": _base64(admin_key),
                },
            }
        ],
    }
    return yaml.safe_dump(document, sort_keys=False)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
