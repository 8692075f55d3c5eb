"""Every version and checksum that production is pinned to, in one place."""

from __future__ import annotations

from typing import Final

K3S_VERSION: Final = "v1.34.6+k3s1"
K3S_SHA256_AMD64: Final = "TO-BE-FOUND"  # replaced by the k3s component's author

NODE_IMAGE: Final = "ubuntu-24.04"
SERVER_TYPE: Final = "cx33"
