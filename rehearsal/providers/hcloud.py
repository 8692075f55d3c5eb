"""The rehearsal's `hcloud` provider: pulumi-hcloud's resource types over the vendor's own client.

Where Pulumi's plugin (the Terraform bridge) differs:
* it invents missing names when it checks, so a preview shows them; here a missing name is known
  after the create (`<logical>-<7 hex>`, which is the same form);
* it fills Terraform's defaults into the inputs; here inputs stay as the program gave them;
* an update compares with what the vendor has, not with the state, so that one that broke off is
  completed (and drift in a changed resource is mended in passing). The plugin compares with the
  state, and a create that broke off has put into it what was asked for: `refresh` comes first;
* a type that cannot be had leaves the server running; the plugin leaves it off, and the API starts
  it when the next `up` changes the type after all;
* deleting what is gone succeeds; for a server the plugin fails with `not_found` until `refresh`;
* when the connection breaks after a create it knows nothing; here the resource is looked up by its
  name and labels, at once and again in the next run, so that nothing is orphaned.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any, Final

from hcloud.helpers.labels import LabelValidator

from rehearsal.engine.provider import (
    UNKNOWN,
    CheckFailure,
    Context,
    Diff,
    Properties,
    ProviderError,
    Unknown,
)
from rehearsal.providers import schema
from rehearsal.providers.compare import changed_paths, root
from rehearsal.providers.hcloud_api import Api, ConnectionLostError, Refused, explain
from rehearsal.providers.hcloud_kinds import KINDS, Change, Kind, Unfinished, user_data_hash

PROVIDER: Final = "pulumi:providers:hcloud"
UNSUPPORTED: Final = {
    "hcloud:index/server:Server": ("datacenter", "iso", "rescue"),
    "hcloud:index/primaryIp:PrimaryIp": ("datacenter",),
    "hcloud:index/networkSubnet:NetworkSubnet": ("vswitchId",),
}


class HcloudProvider:
    """One configured provider. Raises ProviderError when the configuration cannot be."""

    def __init__(self, inputs: Properties) -> None:
        if failures := schema.check(PROVIDER, inputs):
            told = "; ".join(f"{failure.property}: {failure.reason}" for failure in failures)
            raise ProviderError(f"the hcloud provider's configuration is wrong: {told}")
        self._api = Api(inputs)

    def check(
        self,
        type_: str,
        olds: Properties | None,  # noqa: ARG002 - the protocol's
        news: Properties,
    ) -> tuple[Properties, list[CheckFailure]]:
        inputs = {name: value for name, value in news.items() if value is not None}
        failures = schema.check(type_, inputs)
        if not failures and type_ not in KINDS:
            failures = [CheckFailure("", f"the rehearsal does not know the type {type_!r}")]
        for name in UNSUPPORTED.get(type_, ()):
            if name in inputs:
                failures.append(
                    CheckFailure(name, "the rehearsal's Hetzner Cloud has no such thing")
                )
        if not failures:
            failures = _check_labels(inputs.get("labels"))
        if type_ == "hcloud:index/server:Server" and not failures:
            failures = _check_server(inputs)
        if type_ == "hcloud:index/primaryIp:PrimaryIp" and not failures:
            failures = _check_address(inputs)
        return inputs, failures

    def diff(
        self,
        type_: str,
        id: str,  # noqa: ARG002 - the protocol's
        old_inputs: Properties,
        old_outputs: Properties,  # noqa: ARG002 - the protocol's
        new_inputs: Properties,
    ) -> Diff:
        if type_ == PROVIDER:
            return Diff(changed=changed_paths(old_inputs, new_inputs))
        kind = KINDS[type_]
        changed = _changed(kind, old_inputs, new_inputs)
        replaces = tuple(path for path in changed if root(path) in kind.replaces)
        # A name that stays cannot be there twice; nothing else tells the bridge to delete first.
        fixed = (
            kind.named
            and not kind.framework
            and bool(new_inputs.get("name"))
            and new_inputs.get("name") == old_inputs.get("name")
        )
        return Diff(changed, replaces, delete_before_replace=bool(replaces) and fixed)

    def create(self, type_: str, inputs: Properties, ctx: Context) -> tuple[str, Properties]:
        kind = KINDS[type_]
        if ctx.dry_run:
            return "", self._predicted(type_, inputs, {})
        inputs = _named(kind, inputs, ctx)
        what = f"creating {_label(type_, inputs)}"
        try:
            id_ = kind.create(self._api, inputs, ctx)
        except Unfinished as unfinished:
            cause = unfinished.cause
            told = explain(cause, what) if isinstance(cause, Refused) else cause
            outputs = self._outputs_or_inputs(kind, unfinished.id, inputs)
            raise ProviderError(
                f"{told}; it exists all the same (id {unfinished.id}), and the next `up` goes on",
                id=unfinished.id,
                outputs=outputs,
            ) from None
        except Refused as refused:
            raise explain(refused, what) from None
        except ConnectionLostError as lost:
            raise self._after_lost_connection(kind, inputs, lost) from None
        return id_, self._read_back(kind, id_, inputs, what)

    def find(
        self,
        type_: str,
        inputs: Properties,
        ctx: Context,  # noqa: ARG002 - the protocol's
    ) -> tuple[str, Properties] | None:
        kind = KINDS[type_]
        try:
            id_ = kind.made(self._api, inputs)
            found = None if id_ is None else kind.find(self._api, id_, inputs)
        except Refused as refused:
            raise explain(refused, f"looking for {_label(type_, inputs)}") from None
        return None if id_ is None or found is None else (id_, _present(found))

    def read(
        self,
        type_: str,
        id: str,
        inputs: Properties,
        outputs: Properties,  # noqa: ARG002 - the protocol's
        ctx: Context,  # noqa: ARG002 - the protocol's
    ) -> tuple[Properties, Properties] | None:
        kind = KINDS[type_]
        try:
            found = kind.find(self._api, id, inputs)
        except Refused as refused:
            raise explain(refused, f"reading {_label(type_, inputs)}") from None
        if found is None:
            return None
        return _observed(type_, kind, inputs, found), _present(found)

    def update(  # noqa: PLR0917 - the protocol's
        self,
        type_: str,
        id: str,
        old_inputs: Properties,
        old_outputs: Properties,
        new_inputs: Properties,
        ctx: Context,
    ) -> Properties:
        kind = KINDS[type_]
        if ctx.dry_run:
            return self._predicted(type_, new_inputs, old_outputs)
        if kind.named and not new_inputs.get("name"):
            new_inputs = {**new_inputs, "name": old_outputs["name"]}
            old_inputs = {"name": old_outputs["name"], **old_inputs}
        what = f"changing {_label(type_, new_inputs)}"
        try:
            found = kind.find(self._api, id, old_inputs)
            if found is None:
                raise ProviderError(f"{what}: it is gone; run `refresh`, then `up` makes it anew")
            # Against what is there, not against the state: an update that broke off half-way, or a
            # create that did (its old and new inputs are equal), is completed and not repeated.
            there = _observed(type_, kind, old_inputs, found)
            names = frozenset(root(path) for path in _changed(kind, there, new_inputs))
            kind.change(self._api, id, Change(old_inputs, new_inputs, names), ctx)
        except Refused as refused:
            raise explain(refused, what) from None
        return self._read_back(kind, id, {**old_outputs, **new_inputs}, what)

    def delete(
        self,
        type_: str,
        id: str,
        inputs: Properties,
        outputs: Properties,  # noqa: ARG002 - the protocol's
        ctx: Context,
    ) -> None:
        try:
            KINDS[type_].delete(self._api, id, inputs, ctx)
        except Refused as refused:
            if refused.code != "not_found":
                raise explain(refused, f"deleting {_label(type_, inputs)}") from None

    def invoke(self, token: str, args: Mapping[str, Any]) -> Properties:  # noqa: ARG002
        raise ProviderError(f"the rehearsal's hcloud provider has no function {token!r}")

    def _read_back(self, kind: Kind, id_: str, inputs: Properties, what: str) -> Properties:
        """What the vendor has. Others build on it (an address becomes a record), so when it cannot
        be read the step is not complete, and the next `up` reads it."""
        try:
            found = kind.find(self._api, id_, inputs)
            why = "it is not there"
        except (ProviderError, Refused) as error:
            found, why = None, str(error)
        if found is None:
            raise ProviderError(
                f"{what}: it was done (id {id_}) but cannot be read back: {why}; run `up` again",
                id=id_,
                outputs=_present(inputs),
            )
        return _present(found)

    def _outputs_or_inputs(self, kind: Kind, id_: str, inputs: Properties) -> Properties:
        """What the vendor has; what was asked for when it cannot be read just now."""
        try:
            found = kind.find(self._api, id_, inputs)
        except (ProviderError, Refused):
            found = None
        return _present(found if found is not None else inputs)

    def _after_lost_connection(
        self, kind: Kind, inputs: Properties, lost: ConnectionLostError
    ) -> ProviderError:
        """Looks at once whether the create that got no answer was made all the same; when this gets
        no answer either, the engine asks again in the next run (`find`)."""
        try:
            id_ = kind.made(self._api, inputs)
        except (ProviderError, Refused):
            return lost
        if id_ is None:
            return lost
        return ProviderError(
            f"{lost}. It was made all the same (id {id_}) and is kept in the state; run `up` again",
            id=id_,
            outputs=self._outputs_or_inputs(kind, id_, inputs),
        )

    def _predicted(self, type_: str, inputs: Properties, old_outputs: Properties) -> Properties:
        """Outputs as far as they are known before the change is made."""
        kind = KINDS[type_]
        predicted: Properties = dict(kind.defaults)
        if old_outputs:
            predicted |= {name: old_outputs[name] for name in kind.computed if name in old_outputs}
        else:
            predicted |= dict.fromkeys(kind.computed, UNKNOWN)
        if kind.named:
            predicted["name"] = old_outputs.get("name", UNKNOWN)
        predicted |= {name: value for name, value in inputs.items() if value is not None}
        if type_ == "hcloud:index/server:Server":
            text = predicted.get("userData")
            if not isinstance(text, Unknown):
                predicted["userData"] = user_data_hash(text)
            predicted["networks"] = _with_unknown_macs(inputs, old_outputs)
        return _present(predicted)


def _with_unknown_macs(inputs: Properties, old_outputs: Properties) -> Any:
    """A server's `networks` before it is attached: the vendor chooses the MAC address."""
    networks = inputs.get("networks")
    if not isinstance(networks, list):
        return networks
    macs = {n.get("networkId"): n.get("macAddress") for n in old_outputs.get("networks") or []}
    return [
        {"macAddress": macs.get(n.get("networkId")) or UNKNOWN, **n} if isinstance(n, dict) else n
        for n in networks
    ]


def _check_labels(labels: Any) -> list[CheckFailure]:
    """The plugin refuses these at preview (hcloud.ValidateResourceLabels): a stack's name may be
    longer than a label's value, or end with a hyphen."""
    if not isinstance(labels, Mapping) or any(isinstance(v, Unknown) for v in labels.values()):
        return []
    fits, why = LabelValidator.validate_verbose(dict(labels))
    return [] if fits else [CheckFailure("labels", why)]


def _check_address(inputs: Properties) -> list[CheckFailure]:
    """What the plugin itself refuses of a primary IP, before any request."""
    failures = []
    if sum(name in inputs for name in ("location", "assigneeId")) != 1:
        failures.append(CheckFailure("location", "exactly one of location and assigneeId is given"))
    if "assigneeId" in inputs and "assigneeType" not in inputs:
        failures.append(CheckFailure("assigneeType", "is required with assigneeId"))
    return failures


def _check_server(inputs: Properties) -> list[CheckFailure]:
    """What the plugin itself refuses of a server, before any request."""
    failures = []
    both = inputs.get("deleteProtection", False), inputs.get("rebuildProtection", False)
    if UNKNOWN not in both and both[0] != both[1]:
        failures.append(
            CheckFailure("rebuildProtection", "must have the same value as deleteProtection")
        )
    if "image" not in inputs:
        failures.append(CheckFailure("image", "is required to create a server"))
    user_data = inputs.get("userData")
    if isinstance(user_data, str) and len(user_data.encode()) > 32 * 1024:
        failures.append(
            CheckFailure("userData", f"has {len(user_data.encode())} bytes; Hetzner takes 32768")
        )
    networks = inputs.get("networks")
    if isinstance(networks, list):
        ids = [n.get("networkId") for n in networks if isinstance(n, dict)]
        known = [id_ for id_ in ids if id_ is not None and id_ is not UNKNOWN]
        if len(known) != len(set(known)):
            failures.append(CheckFailure("networks", "a server is attached to each network once"))
    return failures


def _named(kind: Kind, inputs: Properties, ctx: Context) -> Properties:
    if not kind.named or inputs.get("name"):
        return inputs
    logical = ctx.urn.rpartition("::")[2]
    return {**inputs, "name": f"{logical}-{secrets.token_hex(4)[:7]}"}


def _label(type_: str, inputs: Properties) -> str:
    name = inputs.get("name")
    short = type_.rpartition(":")[2]
    return f"{short} {name}" if name else short


def _changed(kind: Kind, old: Properties, new: Properties) -> tuple[str, ...]:
    """Changed paths, where an absent value is its default and a set has no order."""
    paths: list[str] = []
    for name in dict.fromkeys([*old, *new]):
        before, after = (_settled(kind, name, side.get(name)) for side in (old, new))
        if _canonical(kind, name, before) != _canonical(kind, name, after):
            paths += changed_paths({name: before}, {name: after})
    return tuple(paths)


def _settled(kind: Kind, name: str, value: Any) -> Any:
    return kind.defaults.get(name) if value is None else value


def _canonical(kind: Kind, name: str, value: Any) -> Any:
    """A value in a form in which equal means the same: sets sorted, nothing empty, 1.0 as 1."""
    if isinstance(value, Unknown):
        return object()  # equals nothing, not even another unknown
    if isinstance(value, Mapping):
        members = {key: _canonical(kind, key, member) for key, member in value.items()}
        return {key: member for key, member in members.items() if member not in (None, [])}
    if isinstance(value, list):
        items = [_canonical(kind, name, item) for item in value]
        return sorted(items, key=_sort_key) if name in kind.unordered else items
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _sort_key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _present(outputs: Properties) -> Properties:
    return {name: value for name, value in outputs.items() if value is not None}


def _observed(type_: str, kind: Kind, inputs: Properties, found: Properties) -> Properties:
    """The inputs that would describe what the vendor has now."""
    if not inputs:  # an import: everything that can be an input
        declared = schema.properties(type_)
        return {
            name: value
            for name, value in _present(found).items()
            if name in declared and name not in kind.unread and value != kind.defaults.get(name)
        }
    observed = dict(inputs)
    managed = {name for name in kind.defaults if name in found} | set(inputs)
    for name in managed - kind.unread:
        before = _settled(kind, name, inputs.get(name))
        after = _like(before, found.get(name))
        if _canonical(kind, name, before) != _canonical(kind, name, after):
            observed[name] = after
    return observed


def _like(given: Any, found: Any) -> Any:
    """Leaves out of `found` the members that nobody gave (a MAC address), when the lists fit."""
    if isinstance(given, list) and isinstance(found, list):
        names = {name for item in given if isinstance(item, Mapping) for name in item}
        if names and len(given) == len(found):
            return [{name: v for name, v in item.items() if name in names} for item in found]
    return found
