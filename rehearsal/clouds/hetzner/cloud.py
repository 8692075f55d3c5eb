"""What the parts of the stand-in share: the app, the datacenter, and actions on one resource."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Network
from typing import Any

from rehearsal.clouds.hetzner import records
from rehearsal.clouds.hetzner.catalogue import SERVER_TYPES
from rehearsal.clouds.hetzner.dialect import refuse
from rehearsal.clouds.hetzner.records import KINDS, Record
from rehearsal.clouds.http import App, Call, Reply, State
from rehearsal.clouds.machines import Datacenter, Machine


@dataclass
class Cloud:
    app: App
    datacenter: Datacenter
    block: int
    action_seconds: float
    failing: dict[str, dict[str, str]] = field(default_factory=dict)
    """Command → {"code", "message"}: how the next action of this command will end."""

    def act(self, call: Call, command: str, *resources: tuple[str, int]) -> dict[str, Any]:
        """Starts an action and returns its JSON."""
        action = records.start_action(
            call.state, call.now, command, self.action_seconds, *resources
        )
        if failure := self.failing.pop(command, None):
            action["error"] = failure
            self._undo(call, resources)
        return records.action_json(action, call.now)

    def _undo(self, call: Call, resources: tuple[tuple[str, int], ...]) -> None:
        """An action that fails has changed nothing, but what it was to make is there, and off."""
        before = self.app.store.saved()
        call.effects.clear()
        made = [
            call.state[kind][str(id_)]
            for kind, one in KINDS.items()
            for name, id_ in resources
            if name == one and str(id_) in call.state[kind] and str(id_) not in before[kind]
        ]
        for record in made:
            if "power" in record:
                record["power"] = "off"
        if not made:
            call.state.update({kind: before[kind] for kind in KINDS})

    def acted(self, call: Call, command: str, *resources: tuple[str, int]) -> Reply:
        """The usual answer of `POST …/actions/<command>`."""
        return Reply({"action": self.act(call, command, *resources)}, 201)

    def unlocked(self, call: Call, kind: str) -> Record:
        """The record that the path names; `locked` while an action on it runs."""
        record = records.get(call.state, kind, call.values["id"])
        if records.running_commands(call.state, call.now, KINDS[kind], record["id"]):
            raise refuse("locked", f"{KINDS[kind]} is locked (another action is running)")
        return record

    def machine(self, state: State, server: Record) -> Machine:
        """A server as its datacenter sees it."""
        server_type = SERVER_TYPES[server["server_type"]]
        ipv4, ipv6 = (
            state["primary_ips"][str(server[version])]["ip"] if server[version] else None
            for version in ("ipv4", "ipv6")
        )
        private = server["private_net"][0] if server["private_net"] else None
        return Machine(
            id=server["id"],
            name=server["name"],
            user_data=server["user_data"],
            public_ipv4=ipv4,
            public_ipv6=str(IPv6Network(ipv6)[1]) if ipv6 else None,
            private_ipv4=private["ip"] if private else None,
            network_id=private["network"] if private else None,
            cores=server_type.cores,
            memory_gb=server_type.memory,
            disk_gb=server["primary_disk_size"],
            location=server["location"],
            labels=dict(server["labels"]),
        )

    def after(self, call: Call, server: Record, tell: Callable[[Machine], None]) -> None:
        """Tells the datacenter about a server as it is now, once the change is stored."""
        machine = self.machine(call.state, server)
        call.after(lambda: tell(machine))

    def tell_update(self, call: Call, server: Record) -> None:
        if server["power"] == "on":
            self.after(call, server, self.datacenter.update)
