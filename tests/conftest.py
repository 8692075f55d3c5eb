"""What more than one folder of tests asks for."""

from __future__ import annotations

from tests.registry.forge import forge, forge_home

__all__ = ["forge", "forge_home"]
