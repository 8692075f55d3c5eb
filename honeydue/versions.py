"""Every version and checksum that production is pinned to, in one place."""

from __future__ import annotations

from typing import Final

K3S_VERSION: Final = "v1.34.6+k3s1"
# sha256 of that release's `k3s` (amd64). None: not pinned yet: no published copy of it could be
# read where this was written, and a checksum is never guessed. A node then checks its download
# against the release's own sha256sum-amd64.txt, which protects from a broken download but not from
# a changed release. To pin it, put the first column of what this prints here:
#   curl -fsSL https://github.com/k3s-io/k3s/releases/download/v1.34.6%2Bk3s1/sha256sum-amd64.txt \
#     | grep ' k3s$'
K3S_SHA256_AMD64: Final[str | None] = None

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

# What runs besides the application's own images and K3s's; nothing else is admitted to the cluster
# (honeydue/kubernetes/admission_policy.py). Whole references, always with a digest.
PINNED_IMAGES: Final = (REDIS_IMAGE,)
