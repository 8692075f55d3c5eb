"""A stand-in for the Hetzner Cloud API: enough of it for hcloud-go, the Python client and Pulumi's
plugin, and for a rehearsal's disasters. It is not the cloud.

    cloud = Hetzner(store=Path("hetzner.json"), token=None, datacenter=IdleDatacenter(), block=90)
    listener = Listener(cloud.wsgi_app); listener.start()
    cloud.resume()                        # after a restart: the servers that were on are on again
    HCLOUD_ENDPOINT = listener.url + "/v1"

Where it differs from the vendor on purpose:
* public IPv4 addresses are loopback addresses (127.<block>.0.0/16), IPv6 documentation addresses;
* a change is made when it is asked for, and only its action takes time (the vendor makes it during
  the action); so a deleted server's addresses are free at once;
* what no part of this project uses (volumes, load balancers, floating IPs, DNS, snapshots, routes)
  is not there: asking for it is an error that is logged loudly.

The operator's side, beside that of rehearsal.clouds.http:

    DELETE /_rehearsal/servers/<id or name>  a server is lost, protected or not
    PUT    /_rehearsal/sold-out              {"server_type": "cx33", "location": "nbg1",
                                              "sold_out": true}
    PUT    /_rehearsal/action-seconds        {"seconds": 0.5}: how long an action runs
    PUT    /_rehearsal/failing-action        {"command": "start_server", "code": "action_failed",
                                              "message": "…"}: how the next one of these ends
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rehearsal.clouds.hetzner import addresses, firewalls, networks, others, servers
from rehearsal.clouds.hetzner.cloud import Cloud
from rehearsal.clouds.hetzner.dialect import HetznerDialect
from rehearsal.clouds.hetzner.records import empty, without_user_data
from rehearsal.clouds.http import App, Store
from rehearsal.clouds.machines import Datacenter

__all__ = ["Hetzner"]


class Hetzner:
    """One project. `block` is the second number of its public IPv4 addresses, 127.<block>.0.0/16.

    `token` None accepts any token. `action_seconds` is the time that an action is "running".
    """

    def __init__(
        self,
        store: Path,
        token: str | None,
        datacenter: Datacenter,
        block: int,
        *,
        action_seconds: float = 0.5,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not 1 <= block <= 254:
            raise ValueError(f"block must be from 1 to 254, not {block}")
        self.app = App(
            "Hetzner Cloud",
            store=Store(store, initial=empty),
            dialect=HetznerDialect(token),
            root="/v1",
            clock=clock,
            sleep=sleep,
            shown=without_user_data,
        )
        self.wsgi_app = self.app.wsgi_app
        self._cloud = Cloud(self.app, datacenter, block, action_seconds)
        for part in (servers, networks, firewalls, addresses, others):
            part.declare(self._cloud)

    def resume(self) -> None:
        """Powers on every server that was on when the last process ended."""
        with self.app.store.transaction() as state:
            machines = [
                self._cloud.machine(state, server)
                for server in state["servers"].values()
                if server["power"] == "on"
            ]
        for machine in machines:
            self._cloud.datacenter.start(machine)
