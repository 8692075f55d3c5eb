"""Every version and checksum that production is pinned to, in one place."""

from __future__ import annotations

from typing import Final

K3S_VERSION: Final = "v1.34.6+k3s1"
K3S_SHA256_AMD64: Final = "TO-BE-FOUND"  # replaced by the k3s component's author

NODE_IMAGE: Final = "ubuntu-24.04"
SERVER_TYPE: Final = "cx33"

# The chart that K3s v1.34.6+k3s1 carries (k3s-io/k3s pull request 13812, k3s-io/k3s-charts);
# tests/program/golden/traefik-chart-values.yaml records which values it knows.
TRAEFIK_CHART: Final = "39.0.501+up39.0.5"  # Traefik v3.6.10

# uid 999, gid 1000 (the image's own `redis` user). The digest is the multi-platform index.
REDIS_IMAGE: Final = (
    "docker.io/library/redis:8.2.3-alpine"
    "@sha256:08ad0b1d280850169a790dba1393ff7a90aef951fc19632cf4d3ce4f78e679ba"
)
