"""What each resource type of pulumi-hcloud means in requests to the API.

The requests, their order and the force-replacement rules follow terraform-provider-hcloud, which is
what Pulumi's plugin wraps. `Kind` is a resource with an id and a name of its own; the three that
are only relations (subnet, server network, firewall attachment) override most of it.
"""

# ruff: noqa: ARG002 - every kind has the same hooks, and few need all that they are given

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from typing import Any, ClassVar, Final

from rehearsal.engine.provider import Context, Properties, ProviderError
from rehearsal.providers.hcloud_api import Api, Record, Refused, sold_out


@dataclass(frozen=True)
class Change:
    """An update; `names` are the top-level properties in which `old` and `new` inputs differ."""

    old: Properties
    new: Properties
    names: frozenset[str]


class Kind:
    """A resource with its own id. Class attributes are property names as on the wire."""

    path: ClassVar[str] = ""
    one: ClassVar[str] = ""
    replaces: ClassVar[frozenset[str]] = frozenset()
    """What cannot be changed in place."""
    unordered: ClassVar[frozenset[str]] = frozenset()
    """Lists that are sets to Terraform: another order is no change."""
    computed: ClassVar[frozenset[str]] = frozenset()
    """Outputs that only the vendor knows before they are made (unless given as inputs)."""
    unread: ClassVar[frozenset[str]] = frozenset()
    """Inputs that the API does not give back: what was given stands."""
    defaults: ClassVar[Mapping[str, Any]] = {"labels": {}}
    named: ClassVar[bool] = True
    framework: ClassVar[bool] = False
    """Whether the plugin has it on Terraform's newer plugin framework. Of those the bridge does not
    find out that a fixed name cannot be there twice (pulumi-terraform-bridge issues 823, 930):
    unless the program says delete_before_replace, the new one is made first, and refused."""

    def body(self, api: Api, inputs: Properties) -> Record:
        """The body of the POST."""
        raise NotImplementedError

    def finish(self, api: Api, id_: str, inputs: Properties, ctx: Context) -> None:
        """What is done after the POST: protection, networks."""

    def outputs(self, record: Record, inputs: Properties) -> Properties:
        """The record in the SDK's names."""
        raise NotImplementedError

    def change(self, api: Api, id_: str, change: Change, ctx: Context) -> None:
        """Changes in place."""
        body = self.put_fields(change)
        if "name" in change.names:
            body["name"] = change.new["name"]
        if "labels" in change.names:
            body["labels"] = change.new.get("labels") or {}
        if body:
            api.ask("PUT", f"/{self.path}/{id_}", body)
        if "deleteProtection" in change.names:
            self.protect(api, id_, bool(change.new.get("deleteProtection")), ctx)

    def put_fields(self, change: Change) -> Record:
        """More fields of the PUT than name and labels."""
        return {}

    def protect(self, api: Api, id_: str, on: bool, ctx: Context) -> None:
        api.act(f"/{self.path}/{id_}", "change_protection", ctx, {"delete": on})

    # The life of it

    def create(self, api: Api, inputs: Properties, ctx: Context) -> str:
        answer = api.ask("POST", f"/{self.path}", self.body(api, inputs))
        id_ = str(answer[self.one]["id"])
        try:
            api.wait([answer.get("action"), *answer.get("next_actions", [])], ctx)
            api.wait(answer.get("actions", []), ctx)
            self.finish(api, id_, inputs, ctx)
        except (ProviderError, Refused) as error:
            # It is there: it must not be forgotten, whatever failed afterwards.
            raise Unfinished(id_, error) from error
        return id_

    def made(self, api: Api, inputs: Properties) -> str | None:
        """The id of what a create with these inputs has made, whose answer was lost. Its labels say
        that it is this stack's; what only shares the name is someone else's."""
        if not (inputs.get("name") and inputs.get("labels")):
            return None
        record = api.by_name(self.path, inputs["name"])
        ours = record is not None and record["labels"] == inputs["labels"]
        return str(record["id"]) if record is not None and ours else None

    def find(self, api: Api, id_: str, inputs: Properties) -> Properties | None:
        record = api.find(self.path, self.one, id_)
        return None if record is None else self.outputs(record, inputs)

    def delete(self, api: Api, id_: str, inputs: Properties, ctx: Context) -> None:
        answer = api.ask("DELETE", f"/{self.path}/{id_}")
        api.wait([answer.get("action")], ctx)


class Unfinished(Exception):  # noqa: N818 - carries another error
    """The resource was made, and something failed afterwards."""

    def __init__(self, id_: str, cause: Exception) -> None:
        super().__init__(str(cause))
        self.id = id_
        self.cause = cause


class Network(Kind):
    path, one = "networks", "network"
    replaces = frozenset({"ipRange"})
    defaults: ClassVar = {"labels": {}, "deleteProtection": False, "exposeRoutesToVswitch": False}

    def body(self, api: Api, inputs: Properties) -> Record:
        return {
            "name": inputs["name"],
            "ip_range": inputs["ipRange"],
            "labels": inputs.get("labels") or {},
            "expose_routes_to_vswitch": bool(inputs.get("exposeRoutesToVswitch")),
        }

    def finish(self, api: Api, id_: str, inputs: Properties, ctx: Context) -> None:
        if inputs.get("deleteProtection"):
            self.protect(api, id_, True, ctx)

    def put_fields(self, change: Change) -> Record:
        if "exposeRoutesToVswitch" not in change.names:
            return {}
        return {"expose_routes_to_vswitch": bool(change.new.get("exposeRoutesToVswitch"))}

    def outputs(self, record: Record, inputs: Properties) -> Properties:
        return {
            "name": record["name"],
            "ipRange": record["ip_range"],
            "labels": record["labels"],
            "deleteProtection": record["protection"]["delete"],
            "exposeRoutesToVswitch": record["expose_routes_to_vswitch"],
        }


class PlacementGroup(Kind):
    path, one = "placement_groups", "placement_group"
    replaces = frozenset({"type"})
    computed = frozenset({"servers"})

    def body(self, api: Api, inputs: Properties) -> Record:
        labels = inputs.get("labels") or {}
        return {"name": inputs["name"], "type": inputs["type"], "labels": labels}

    def outputs(self, record: Record, inputs: Properties) -> Properties:
        return {name: record[name] for name in ("name", "type", "labels", "servers")}


class SshKey(Kind):
    path, one = "ssh_keys", "ssh_key"
    framework = True
    replaces = frozenset({"publicKey"})
    computed = frozenset({"fingerprint"})

    def body(self, api: Api, inputs: Properties) -> Record:
        labels = inputs.get("labels") or {}
        return {"name": inputs["name"], "public_key": inputs["publicKey"], "labels": labels}

    def outputs(self, record: Record, inputs: Properties) -> Properties:
        # The vendor's answer may lack the trailing newline of a key that was read from a file.
        given = inputs.get("publicKey")
        same = given is not None and given.strip() == record["public_key"].strip()
        return {
            "name": record["name"],
            "fingerprint": record["fingerprint"],
            "publicKey": given if same else record["public_key"],
            "labels": record["labels"],
        }


class PrimaryIp(Kind):
    path, one = "primary_ips", "primary_ip"
    framework = True
    replaces = frozenset({"type", "location", "datacenter"})
    # Assigned by the server that names it in public_nets: Terraform's two are "computed".
    computed = frozenset({"ipAddress", "ipNetwork", "assigneeId", "assigneeType", "location"})
    unread = frozenset({"assigneeType"})  # "unassigned" while no server has it
    defaults: ClassVar = {
        "labels": {},
        "deleteProtection": False,
        "autoDelete": False,
    }

    def body(self, api: Api, inputs: Properties) -> Record:
        body = {
            "name": inputs["name"],
            "type": inputs["type"],
            "auto_delete": bool(inputs.get("autoDelete")),
            "labels": inputs.get("labels") or {},
        }
        if inputs.get("assigneeId"):
            assignee = {"assignee_type": inputs["assigneeType"]}
            return {**body, **assignee, "assignee_id": int(inputs["assigneeId"])}
        return {**body, "location": inputs.get("location")}

    def finish(self, api: Api, id_: str, inputs: Properties, ctx: Context) -> None:
        if inputs.get("deleteProtection"):
            self.protect(api, id_, True, ctx)

    def put_fields(self, change: Change) -> Record:
        if "autoDelete" not in change.names:
            return {}
        return {"auto_delete": bool(change.new.get("autoDelete"))}

    def change(self, api: Api, id_: str, change: Change, ctx: Context) -> None:
        super().change(api, id_, change, ctx)
        new = change.new
        if "assigneeId" in change.names:
            if new.get("assigneeId"):
                body = {"assignee_id": int(new["assigneeId"]), "assignee_type": "server"}
                api.act(f"/primary_ips/{id_}", "assign", ctx, body)
            else:
                api.act(f"/primary_ips/{id_}", "unassign", ctx)

    def outputs(self, record: Record, inputs: Properties) -> Properties:
        ipv6 = IPv6Network(record["ip"]) if record["type"] == "ipv6" else None
        return {
            "name": record["name"],
            "type": record["type"],
            "location": record["location"]["name"],
            "ipAddress": str(ipv6.network_address) if ipv6 else record["ip"],
            "ipNetwork": str(ipv6) if ipv6 else None,
            "assigneeId": record["assignee_id"] or 0,
            "assigneeType": record["assignee_type"],
            "autoDelete": record["auto_delete"],
            "labels": record["labels"],
            "deleteProtection": record["protection"]["delete"],
        }


_RULE_FIELDS: Final = {
    "direction": "direction",
    "protocol": "protocol",
    "port": "port",
    "sourceIps": "source_ips",
    "destinationIps": "destination_ips",
    "description": "description",
}


class Firewall(Kind):
    path, one = "firewalls", "firewall"
    unordered = frozenset({"rules", "sourceIps", "destinationIps", "applyTos"})
    defaults: ClassVar = {"labels": {}, "rules": []}

    def body(self, api: Api, inputs: Properties) -> Record:
        return {
            "name": inputs["name"],
            "labels": inputs.get("labels") or {},
            "rules": _rules(inputs),
            "apply_to": [_resource(target) for target in inputs.get("applyTos") or []],
        }

    def change(self, api: Api, id_: str, change: Change, ctx: Context) -> None:
        super().change(api, id_, change, ctx)
        if "rules" in change.names:
            api.act(f"/firewalls/{id_}", "set_rules", ctx, {"rules": _rules(change.new)})
        if "applyTos" in change.names:
            before = [_resource(target) for target in change.old.get("applyTos") or []]
            after = [_resource(target) for target in change.new.get("applyTos") or []]
            _reapply(api, id_, before, after, ctx)

    def outputs(self, record: Record, inputs: Properties) -> Properties:
        return {
            "name": record["name"],
            "labels": record["labels"],
            "rules": [
                {ours: rule[theirs] for ours, theirs in _RULE_FIELDS.items() if rule[theirs]}
                for rule in record["rules"]
            ],
            "applyTos": [
                {"server": applied["server"]["id"]}
                if applied["type"] == "server"
                else {"labelSelector": applied["label_selector"]["selector"]}
                for applied in record["applied_to"]
            ],
        }


def _rules(inputs: Properties) -> list[Record]:
    return [
        {theirs: rule[ours] for ours, theirs in _RULE_FIELDS.items() if rule.get(ours)}
        for rule in inputs.get("rules") or []
    ]


def _resource(target: Properties) -> Record:
    if target.get("labelSelector"):
        selector = {"selector": target["labelSelector"]}
        return {"type": "label_selector", "label_selector": selector}
    return {"type": "server", "server": {"id": int(target["server"])}}


def _reapply(
    api: Api, firewall: str | int, before: list[Record], after: list[Record], ctx: Context
) -> None:
    """Removes from what is no longer there, then applies to what is new."""
    if less := [target for target in before if target not in after]:
        api.act(f"/firewalls/{firewall}", "remove_from_resources", ctx, {"remove_from": less})
    if more := [target for target in after if target not in before]:
        api.act(f"/firewalls/{firewall}", "apply_to_resources", ctx, {"apply_to": more})


class Server(Kind):
    path, one = "servers", "server"
    replaces = frozenset({"image", "location", "datacenter", "userData", "sshKeys"})
    unordered = frozenset({"firewallIds", "networks", "publicNets", "aliasIps"})
    computed = frozenset(
        {
            "status",
            "ipv4Address",
            "ipv6Address",
            "ipv6Network",
            "backupWindow",
            "primaryDiskSize",
            "location",
            "firewallIds",
        }
    )
    # The plugin does not read public_nets back either.
    unread = frozenset(
        {
            "userData",
            "sshKeys",
            "keepDisk",
            "allowDeprecatedImages",
            "ignoreRemoteFirewallIds",
            "shutdownBeforeDeletion",
            "publicNets",
        }
    )
    defaults: ClassVar = {
        "labels": {},
        "backups": False,
        "deleteProtection": False,
        "rebuildProtection": False,
        "keepDisk": False,
        "allowDeprecatedImages": False,
        "ignoreRemoteFirewallIds": False,
        "shutdownBeforeDeletion": False,
    }

    def body(self, api: Api, inputs: Properties) -> Record:
        server_type = api.by_name("server_types", inputs["serverType"])
        if server_type is None:
            raise ProviderError(f"server type {inputs['serverType']!r} not found")
        image = self._image(api, str(inputs.get("image")), server_type["architecture"])
        body: Record = {
            "name": inputs["name"],
            "server_type": server_type["name"],
            "image": image,
            "ssh_keys": [self._ssh_key(api, str(key)) for key in inputs.get("sshKeys") or []],
            "firewalls": [{"firewall": int(id_)} for id_ in inputs.get("firewallIds") or []],
            "labels": inputs.get("labels") or {},
        }
        optional = {
            "location": inputs.get("location"),
            "user_data": inputs.get("userData"),
            "placement_group": inputs.get("placementGroupId"),
        }
        body |= {name: value for name, value in optional.items() if value}
        if inputs.get("publicNets"):
            body["public_net"] = public = _public_net(inputs["publicNets"])
            # Without any public address it is started after its networks are there.
            if not public["enable_ipv4"] and not public["enable_ipv6"] and inputs.get("networks"):
                body["start_after_create"] = False
        return body

    def _image(self, api: Api, wanted: str, architecture: str) -> int:
        if wanted.isdecimal():
            return int(wanted)
        query = f"/images?name={wanted}&architecture={architecture}&include_deprecated=true"
        found: list[Record] = api.ask("GET", query)["images"]
        if not found:
            raise ProviderError(f"image {wanted!r} for architecture {architecture} not found")
        id_: int = found[0]["id"]
        return id_

    def _ssh_key(self, api: Api, wanted: str) -> int:
        found = api.find("ssh_keys", "ssh_key", wanted) if wanted.isdecimal() else None
        found = found or api.by_name("ssh_keys", wanted)
        if found is None:
            raise ProviderError(f"ssh key {wanted!r} not found")
        id_: int = found["id"]
        return id_

    def create(self, api: Api, inputs: Properties, ctx: Context) -> str:
        try:
            return super().create(api, inputs, ctx)
        except Refused as refused:
            if refused.code == "resource_unavailable":
                place = str(inputs.get("location"))
                what = f"creating server {inputs['name']}"
                raise sold_out(api, inputs["serverType"], place, what) from None
            raise

    def finish(self, api: Api, id_: str, inputs: Properties, ctx: Context) -> None:
        path = f"/servers/{id_}"
        for network in inputs.get("networks") or []:
            api.act(path, "attach_to_network", ctx, _attachment(network))
        public = _public_net(inputs.get("publicNets") or [{}])
        offline = not public["enable_ipv4"] and not public["enable_ipv6"]
        if offline and inputs.get("networks"):
            api.act(path, "poweron", ctx)
        if inputs.get("backups"):
            api.act(path, "enable_backup", ctx)
        if inputs.get("deleteProtection") or inputs.get("rebuildProtection"):
            self._protect_both(api, id_, inputs, ctx)

    def _protect_both(self, api: Api, id_: str, inputs: Properties, ctx: Context) -> None:
        body = {
            "delete": bool(inputs.get("deleteProtection")),
            "rebuild": bool(inputs.get("rebuildProtection")),
        }
        api.act(f"/servers/{id_}", "change_protection", ctx, body)

    def change(self, api: Api, id_: str, change: Change, ctx: Context) -> None:
        path = f"/servers/{id_}"
        record: Record = api.ask("GET", path)["server"]
        new, names = change.new, change.names
        super().change(api, id_, replace(change, names=names - {"deleteProtection"}), ctx)
        if "serverType" in names:
            self._change_type(api, record, new, ctx)
        if "backups" in names:
            api.act(path, "enable_backup" if new.get("backups") else "disable_backup", ctx)
        if "networks" in names:
            self._change_networks(api, record, new.get("networks") or [], ctx)
        if "firewallIds" in names:
            me = [{"type": "server", "server": {"id": record["id"]}}]
            before = {firewall["id"] for firewall in record["public_net"]["firewalls"]}
            after = {int(firewall) for firewall in new.get("firewallIds") or []}
            for firewall in sorted(before - after):
                _reapply(api, firewall, me, [], ctx)
            for firewall in sorted(after - before):
                _reapply(api, firewall, [], me, ctx)
        if "publicNets" in names:
            self._change_public(api, record, new.get("publicNets") or [{}], ctx)
        if "placementGroupId" in names:
            if record["placement_group"]:
                api.act(path, "remove_from_placement_group", ctx)
            if group := new.get("placementGroupId"):
                api.act(path, "add_to_placement_group", ctx, {"placement_group": int(group)})
        if names & {"deleteProtection", "rebuildProtection"}:
            self._protect_both(api, id_, new, ctx)

    def _change_type(self, api: Api, record: Record, new: Properties, ctx: Context) -> None:
        path, was_on = f"/servers/{record['id']}", record["status"] == "running"
        body = {"server_type": new["serverType"], "upgrade_disk": not new.get("keepDisk")}
        if was_on:
            api.act(path, "poweroff", ctx)
        try:
            api.act(path, "change_type", ctx, body)
        except Refused as refused:
            if refused.code != "resource_unavailable":
                raise
            what = f"changing the type of server {new['name']}"
            place = record["location"]["name"]
            raise sold_out(api, new["serverType"], place, what) from None
        finally:
            if was_on:  # a node that could not be changed must not stay off
                api.act(path, "poweron", ctx)

    def _change_networks(
        self, api: Api, record: Record, wanted: list[Properties], ctx: Context
    ) -> None:
        path = f"/servers/{record['id']}"
        new = {body["network"]: body for body in map(_attachment, wanted)}
        for present in record["private_net"]:
            target = new.pop(present["network"], None)
            ip = present["ip"] if target is None else target.get("ip", present["ip"])
            if target is None or ip != present["ip"]:
                api.act(path, "detach_from_network", ctx, {"network": present["network"]})
                if target is not None:
                    new[present["network"]] = target
            elif sorted(target.get("alias_ips", [])) != sorted(present["alias_ips"]):
                body = {"network": present["network"], "alias_ips": target.get("alias_ips", [])}
                api.act(path, "change_alias_ips", ctx, body)
        for body in new.values():
            api.act(path, "attach_to_network", ctx, body)

    def _change_public(
        self, api: Api, record: Record, wanted: list[Properties], ctx: Context
    ) -> None:
        """Power off, swap the addresses, power on."""
        path, target = f"/servers/{record['id']}", _public_net(wanted)
        api.act(path, "poweroff", ctx)
        for version in ("ipv4", "ipv6"):
            present = record["public_net"][version]
            given = target.get(version)
            if present and (not target[f"enable_{version}"] or given not in {None, present["id"]}):
                address = api.ask("GET", f"/primary_ips/{present['id']}")["primary_ip"]
                api.act(f"/primary_ips/{present['id']}", "unassign", ctx)
                if address["auto_delete"]:  # it was made with the server
                    api.ask("DELETE", f"/primary_ips/{present['id']}")
                present = None
            if present is None and target[f"enable_{version}"]:
                assignee = {"assignee_id": record["id"], "assignee_type": "server"}
                if given is not None:
                    api.act(f"/primary_ips/{given}", "assign", ctx, assignee)
                else:
                    made = {"name": f"primary_ip-{record['id']}-{version}", "auto_delete": True}
                    answer = api.ask("POST", "/primary_ips", {**made, **assignee, "type": version})
                    api.wait([answer["action"]], ctx)
        api.act(path, "poweron", ctx)

    def delete(self, api: Api, id_: str, inputs: Properties, ctx: Context) -> None:
        # Like the plugin, it does not lift delete protection: the API refuses, and so it should.
        if inputs.get("shutdownBeforeDeletion"):
            api.act(f"/servers/{id_}", "shutdown", ctx)
        super().delete(api, id_, inputs, ctx)

    def outputs(self, record: Record, inputs: Properties) -> Properties:
        public, private = record["public_net"], record["private_net"]
        ipv6 = IPv6Network(public["ipv6"]["ip"]) if public["ipv6"] else None
        given = {name: inputs.get(name, self.defaults.get(name)) for name in self.unread}
        group = record["placement_group"]
        return {
            **given,
            # The state keeps a hash of it; only the input holds the text.
            "userData": user_data_hash(inputs.get("userData")),
            "name": record["name"],
            "serverType": record["server_type"]["name"],
            "image": _image_name(record["image"], inputs),
            "location": record["location"]["name"],
            "status": record["status"],
            "labels": record["labels"],
            "ipv4Address": public["ipv4"]["ip"] if public["ipv4"] else None,
            "ipv6Address": str(ipv6[1]) if ipv6 else None,
            "ipv6Network": str(ipv6) if ipv6 else None,
            "firewallIds": sorted(firewall["id"] for firewall in public["firewalls"]),
            "networks": [_private(attached) for attached in private]
            if inputs.get("networks")
            else None,
            "placementGroupId": group["id"] if group else None,
            "backups": record["backup_window"] is not None,
            "backupWindow": record["backup_window"] or "",
            "primaryDiskSize": record["primary_disk_size"],
            "deleteProtection": record["protection"]["delete"],
            "rebuildProtection": record["protection"]["rebuild"],
        }


def user_data_hash(text: str | None) -> str | None:
    """What the plugin keeps of user_data in a server's outputs: base64 of its SHA-1."""
    if text is None:
        return None
    return base64.b64encode(hashlib.sha1(text.encode(), usedforsecurity=False).digest()).decode()


def _image_name(image: Record | None, inputs: Properties) -> str | None:
    if image is None:
        return None
    by_id = not image["name"] or str(image["id"]) == str(inputs.get("image"))
    return str(image["id"]) if by_id else str(image["name"])


def _private(attached: Record) -> Properties:
    return {
        "networkId": attached["network"],
        "ip": attached["ip"],
        "aliasIps": attached["alias_ips"],
        "macAddress": attached["mac_address"],
    }


def _public_net(blocks: list[Properties]) -> Record:
    """Terraform's public_net block as the API's; a linked address switches its version on."""
    block = blocks[0]
    result: Record = {}
    for version in ("ipv4", "ipv6"):
        linked = block.get(version)
        enabled = block.get(f"{version}Enabled")
        result[f"enable_{version}"] = bool(linked) or enabled is None or bool(enabled)
        if linked:
            result[version] = int(linked)
    return result


def _attachment(network: Properties) -> Record:
    """One entry of a server's `networks`, or a ServerNetwork, as the body of attach_to_network."""
    body: Record = {}
    if network.get("subnetId"):
        id_, _, ip_range = str(network["subnetId"]).partition("-")
        body = {"network": int(id_), "ip_range": ip_range}
    else:
        body = {"network": int(network["networkId"])}
    if network.get("ip"):
        body["ip"] = network["ip"]
    if network.get("aliasIps"):
        body["alias_ips"] = list(network["aliasIps"])
    return body


class NetworkSubnet(Kind):
    """Its id is `<network id>-<ip range>`."""

    named = False
    replaces = frozenset({"networkId", "type", "networkZone", "ipRange", "vswitchId"})
    computed = frozenset({"gateway"})
    defaults: ClassVar = {}

    def made(self, api: Api, inputs: Properties) -> str | None:
        id_ = f"{int(inputs['networkId'])}-{IPv4Network(inputs['ipRange'])}"
        return id_ if self.find(api, id_, inputs) else None

    def create(self, api: Api, inputs: Properties, ctx: Context) -> str:
        network = int(inputs["networkId"])
        ip_range = str(IPv4Network(inputs["ipRange"]))
        body = {
            "type": inputs["type"],
            "ip_range": ip_range,
            "network_zone": inputs["networkZone"],
        }
        api.act(f"/networks/{network}", "add_subnet", ctx, body)
        return f"{network}-{ip_range}"

    def find(self, api: Api, id_: str, inputs: Properties) -> Properties | None:
        network_id, _, ip_range = id_.partition("-")
        network = api.find("networks", "network", network_id)
        for subnet in network["subnets"] if network else []:
            if subnet["ip_range"] == ip_range:
                return {
                    "networkId": int(network_id),
                    "type": subnet["type"],
                    "networkZone": subnet["network_zone"],
                    "ipRange": subnet["ip_range"],
                    "gateway": subnet["gateway"],
                }
        return None

    def delete(self, api: Api, id_: str, inputs: Properties, ctx: Context) -> None:
        network, _, ip_range = id_.partition("-")
        api.act(f"/networks/{network}", "delete_subnet", ctx, {"ip_range": ip_range})


class ServerNetwork(Kind):
    """Its id is `<server id>-<network id>`."""

    named = False
    replaces = frozenset({"serverId", "networkId", "subnetId", "ip"})
    unordered = frozenset({"aliasIps"})
    computed = frozenset({"ip", "macAddress", "networkId"})
    unread = frozenset({"subnetId"})
    defaults: ClassVar = {"aliasIps": []}

    def made(self, api: Api, inputs: Properties) -> str | None:
        id_ = f"{int(inputs['serverId'])}-{_attachment(inputs)['network']}"
        return id_ if self.find(api, id_, inputs) else None

    def create(self, api: Api, inputs: Properties, ctx: Context) -> str:
        body = _attachment(inputs)
        api.act(f"/servers/{int(inputs['serverId'])}", "attach_to_network", ctx, body)
        return f"{int(inputs['serverId'])}-{body['network']}"

    def find(self, api: Api, id_: str, inputs: Properties) -> Properties | None:
        server_id, _, network_id = id_.partition("-")
        server = api.find("servers", "server", server_id)
        for attached in server["private_net"] if server else []:
            if str(attached["network"]) == network_id:
                given = {"serverId": int(server_id), "subnetId": inputs.get("subnetId")}
                return {**_private(attached), **given}
        return None

    def change(self, api: Api, id_: str, change: Change, ctx: Context) -> None:
        server, _, network = id_.partition("-")
        if "aliasIps" in change.names:
            body = {"network": int(network), "alias_ips": list(change.new.get("aliasIps") or [])}
            api.act(f"/servers/{server}", "change_alias_ips", ctx, body)

    def delete(self, api: Api, id_: str, inputs: Properties, ctx: Context) -> None:
        server, _, network = id_.partition("-")
        api.act(f"/servers/{server}", "detach_from_network", ctx, {"network": int(network)})


class FirewallAttachment(Kind):
    """Everything that one firewall is applied to; its id is the firewall's."""

    named = False
    replaces = frozenset({"firewallId"})
    unordered = frozenset({"serverIds", "labelSelectors"})
    defaults: ClassVar = {}

    def _targets(self, inputs: Properties) -> list[Record]:
        servers = [_resource({"server": id_}) for id_ in inputs.get("serverIds") or []]
        labels = [_resource({"labelSelector": s}) for s in inputs.get("labelSelectors") or []]
        return [*servers, *labels]

    def made(self, api: Api, inputs: Properties) -> str | None:
        id_ = str(int(inputs["firewallId"]))
        return id_ if self.find(api, id_, inputs) else None

    def create(self, api: Api, inputs: Properties, ctx: Context) -> str:
        try:
            _reapply(api, int(inputs["firewallId"]), [], self._targets(inputs), ctx)
        except Refused as refused:
            if refused.code != "firewall_already_applied":
                raise
        return str(int(inputs["firewallId"]))

    def find(self, api: Api, id_: str, inputs: Properties) -> Properties | None:
        firewall = api.find("firewalls", "firewall", id_)
        if firewall is None or not firewall["applied_to"]:
            return None
        applied = firewall["applied_to"]
        return {
            "firewallId": int(id_),
            "serverIds": [a["server"]["id"] for a in applied if a["type"] == "server"],
            "labelSelectors": [
                a["label_selector"]["selector"] for a in applied if a["type"] == "label_selector"
            ],
        }

    def change(self, api: Api, id_: str, change: Change, ctx: Context) -> None:
        _reapply(api, id_, self._targets(change.old), self._targets(change.new), ctx)

    def delete(self, api: Api, id_: str, inputs: Properties, ctx: Context) -> None:
        _reapply(api, id_, self._targets(inputs), [], ctx)


KINDS: Final[dict[str, Kind]] = {
    "hcloud:index/network:Network": Network(),
    "hcloud:index/networkSubnet:NetworkSubnet": NetworkSubnet(),
    "hcloud:index/placementGroup:PlacementGroup": PlacementGroup(),
    "hcloud:index/firewall:Firewall": Firewall(),
    "hcloud:index/firewallAttachment:FirewallAttachment": FirewallAttachment(),
    "hcloud:index/primaryIp:PrimaryIp": PrimaryIp(),
    "hcloud:index/sshKey:SshKey": SshKey(),
    "hcloud:index/server:Server": Server(),
    "hcloud:index/serverNetwork:ServerNetwork": ServerNetwork(),
}
