"""The seam between the Hetzner stand-in and what runs on its servers.

The stand-in's API knows servers as records; a `Datacenter` gives them life. The cluster part
implements it (`rehearsal.cluster`); tests of the API use `IdleDatacenter`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Machine:
    """One server as a machine sees itself: what the metadata service and the hypervisor know."""

    id: int
    name: str
    user_data: str
    public_ipv4: str | None
    """A loopback address (127.x.y.z) that only this machine has: its primary IPv4."""
    public_ipv6: str | None
    """The first address of its /64, without prefix length."""
    private_ipv4: str | None
    """None until the server is attached to a network, which real Hetzner does after the start."""
    network_id: int | None
    cores: int
    memory_gb: float
    disk_gb: int
    location: str
    labels: dict[str, str]


class Datacenter(Protocol):
    """Called by the API after the change is stored; must not block (work goes on in threads)."""

    def start(self, machine: Machine) -> None:
        """Power on. A machine that was on before keeps its disk."""

    def update(self, machine: Machine) -> None:
        """Its network attachment or labels changed while it runs."""

    def stop(self, server_id: int) -> None:
        """Power off: processes end, the disk stays."""

    def destroy(self, server_id: int) -> None:
        """Deleted: processes end and the disk goes."""

    def rebuild(self, machine: Machine) -> None:
        """New disk from the image with (new) user_data, then power on."""


class IdleDatacenter:
    """Servers that are only records: for tests of the API."""

    def start(self, machine: Machine) -> None: ...

    def update(self, machine: Machine) -> None: ...

    def stop(self, server_id: int) -> None: ...

    def destroy(self, server_id: int) -> None: ...

    def rebuild(self, machine: Machine) -> None: ...
