"""The rehearsal's kubernetes provider: server-side apply on a real API server.

kubeconfig.py  a kubeconfig in memory, no key on disk
client.py      requests, discovery, errors
values.py      objects as plain values: pruning, comparing, paths
diff.py        what a change means, replacements included
managers.py    who manages which field
readiness.py   is it ready? (pure)
await_.py      waiting for it, and the report when it fails
provider.py    check, diff, create, read, update, delete
"""

from __future__ import annotations

from rehearsal.providers.kubernetes.provider import KubernetesProvider

__all__ = ["KubernetesProvider"]
