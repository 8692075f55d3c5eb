"""The rehearsal's `cloudflare` provider: pulumi-cloudflare 6, terraform-provider-cloudflare 5.

Every call goes through Cloudflare's official Python client. The rules of what is replaced and what
is no change are those of that provider's schemas and of its `ModifyPlan` for DNS records:
- a zone id or a record's type replaces; any other change of a record is one PUT;
- a setting can only be changed. **Deleting a ZoneSetting does nothing**: the zone keeps the value
  (the vendor's provider says so in a warning), and a destroyed stack leaves `ssl` as it was;
- every change of an Origin CA certificate replaces it, and its deletion revokes it.

Where ours differs, on purpose:
- a record or certificate whose creation was answered by a broken connection is found again and
  kept, at once or in the next run. The vendor's provider retries, meets its own record and fails;
  and its certificate is orphaned;
- what is gone already is deleted without a word. The vendor's provider fails with the API's 404
  until `pulumi refresh` has taken it out of the state.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import cloudflare as sdk
import httpx

from rehearsal.engine.provider import (
    UNKNOWN,
    CheckFailure,
    Context,
    Diff,
    Properties,
    ProviderError,
)
from rehearsal.providers import schema
from rehearsal.providers.compare import changed_paths

PROVIDER: Final = "pulumi:providers:cloudflare"
RECORD: Final = "cloudflare:index/dnsRecord:DnsRecord"
SETTING: Final = "cloudflare:index/zoneSetting:ZoneSetting"
CERTIFICATE: Final = "cloudflare:index/originCaCertificate:OriginCaCertificate"

TOKEN: Final = re.compile(r"[0-9A-Za-z\-_]{40,80}")
RECORD_EXISTS: Final = frozenset({81057, 81058})
GONE: Final = 404
# How much older than our request a record may look and still be ours: the clocks are two.
CLOCK_SKEW: Final = timedelta(minutes=2)

Result = dict[str, Any]
_T = TypeVar("_T")


class CloudflareProvider:
    """One explicit provider. Reads CLOUDFLARE_API_TOKEN and CLOUDFLARE_BASE_URL where an input is
    not given, as the vendor's does. Raises ProviderError for a configuration that cannot work."""

    def __init__(self, inputs: Properties) -> None:
        failures = schema.check(PROVIDER, inputs)
        for name in ("apiKey", "apiUserServiceKey", "email"):
            if inputs.get(name) is not None:
                failures.append(CheckFailure(name, "is not rehearsed; use apiToken"))
        if failures:
            raise ProviderError(
                "provider cloudflare: " + "; ".join(f"{f.property}: {f.reason}" for f in failures)
            )
        self._token = inputs.get("apiToken") or os.environ.get("CLOUDFLARE_API_TOKEN")
        self._base_url = inputs.get("baseUrl") or os.environ.get("CLOUDFLARE_BASE_URL")
        if isinstance(self._token, str) and not TOKEN.fullmatch(self._token):
            # The token itself stays out of the message.
            raise ProviderError(
                "provider cloudflare: apiToken: API tokens have 40 to 80 characters and only a-z, "
                "A-Z, 0-9, hyphen and underscore; this one does not look like one. "
                "Set it: pulumi config set --secret honeydue:cloudflareToken <token>"
            )
        self._lock = threading.Lock()
        self._made: sdk.Cloudflare | None = None

    def check(
        self, type_: str, olds: Properties | None, news: Properties
    ) -> tuple[Properties, list[CheckFailure]]:
        del olds
        kind = _kind(type_)
        failures = schema.check(type_, news)
        return news, failures or kind.validate(news)

    def diff(
        self,
        type_: str,
        id: str,
        old_inputs: Properties,
        old_outputs: Properties,
        new_inputs: Properties,
    ) -> Diff:
        del id
        if type_ == PROVIDER:
            return Diff(changed_paths(old_inputs, new_inputs))
        kind = _kind(type_)
        wanted = kind.planned(new_inputs)
        # As Terraform plans: what is wanted against what is there. An input that was taken away is
        # a change only where the vendor does not fill it in by itself.
        there = {name: old_outputs.get(name) for name in wanted}
        for name in kind.clearable:
            if old_inputs.get(name) is not None and name not in wanted:
                there[name] = old_inputs[name]
        changed = kind.differences(there, wanted, old_inputs)
        replacing = kind.replacing
        return Diff(changed, tuple(p for p in changed if replacing is None or p in replacing))

    def create(self, type_: str, inputs: Properties, ctx: Context) -> tuple[str, Properties]:
        kind = _kind(type_)
        if ctx.dry_run:
            return "", kind.predicted(inputs, {})
        result = _asking(lambda: kind.create(self._client(), inputs, ctx))
        return str(result["id"]), kind.outputs(inputs, result)

    def find(self, type_: str, inputs: Properties, ctx: Context) -> tuple[str, Properties] | None:
        del ctx
        kind = _kind(type_)
        result = _asking(lambda: kind.made(self._client(), inputs))
        return None if result is None else (str(result["id"]), kind.outputs(inputs, result))

    def read(
        self, type_: str, id: str, inputs: Properties, outputs: Properties, ctx: Context
    ) -> tuple[Properties, Properties] | None:
        del ctx
        kind = _kind(type_)
        result = _asking(lambda: _unless_gone(lambda: kind.read(self._client(), id, outputs)))
        if result is None or "revoked_at" in result:
            return None
        seen = kind.refreshed(outputs, result)
        return kind.refreshed_inputs(inputs, seen), seen

    def update(  # noqa: PLR0917 - the engine's protocol
        self,
        type_: str,
        id: str,
        old_inputs: Properties,
        old_outputs: Properties,
        new_inputs: Properties,
        ctx: Context,
    ) -> Properties:
        del old_inputs
        kind = _kind(type_)
        if ctx.dry_run:
            return kind.predicted(new_inputs, old_outputs)
        result = _asking(lambda: kind.update(self._client(), id, new_inputs, ctx))
        return kind.outputs(new_inputs, result)

    def delete(
        self, type_: str, id: str, inputs: Properties, outputs: Properties, ctx: Context
    ) -> None:
        del inputs
        kind = _kind(type_)
        if not ctx.dry_run:
            _asking(lambda: _unless_gone(lambda: kind.delete(self._client(), id, outputs)))

    def invoke(self, token: str, args: Mapping[str, Any]) -> Properties:
        given = {name: value for name, value in args.items() if value is not None}
        match token:
            case "cloudflare:index/getIpRanges:getIpRanges":
                _refuse_unknown(token, given, {"networks"})
                return _asking(lambda: _ip_ranges(self._client(), given))
            case "cloudflare:index/getZone:getZone":
                _refuse_unknown(token, given, {"zoneId", "filter"})
                return _asking(lambda: _zone(self._client(), given))
        raise ProviderError(
            f"the rehearsal's provider 'cloudflare' has no function {token!r}; it has getIpRanges "
            "and getZone. Add it in rehearsal/providers/cloudflare.py, or do without it."
        )

    def _client(self) -> sdk.Cloudflare:
        with self._lock:
            if self._made is None:
                self._made = self._connect()
            return self._made

    def _connect(self) -> sdk.Cloudflare:
        if self._token is UNKNOWN or self._base_url is UNKNOWN:
            raise ProviderError(
                "provider cloudflare: apiToken or baseUrl is known only after another resource is "
                "made; give it as configuration, so that a preview can ask Cloudflare too."
            )
        if not self._token:
            raise ProviderError(
                "provider cloudflare: apiToken is not set; pulumi config set --secret "
                "honeydue:cloudflareToken <token>, or set CLOUDFLARE_API_TOKEN."
            )
        return sdk.Cloudflare(api_token=self._token, base_url=self._base_url)


# The resource types


class Kind:
    """What a resource type has of its own; results are the API's own JSON."""

    clearable: tuple[str, ...] = ()
    """Inputs that taking away clears; others then keep the vendor's value."""
    replacing: frozenset[str] | None = None
    """Inputs whose change replaces; None: all of them."""
    computed: tuple[str, ...] = ()

    def validate(self, inputs: Properties) -> list[CheckFailure]:
        """What the SDK's types do not say."""
        del inputs
        return []

    def planned(self, inputs: Properties) -> Properties:
        """The inputs with the provider's defaults."""
        return _given(inputs)

    def differences(
        self, there: Properties, wanted: Properties, old_inputs: Properties
    ) -> tuple[str, ...]:
        del old_inputs
        return changed_paths(there, wanted)

    def predicted(self, inputs: Properties, old_outputs: Properties) -> Properties:
        """The outputs as far as a preview knows them."""
        del old_outputs
        return dict.fromkeys(self.computed, UNKNOWN) | self.planned(inputs)

    def outputs(self, inputs: Properties, result: Result) -> Properties:
        raise NotImplementedError

    def refreshed(self, old: Properties, result: Result) -> Properties:
        """The outputs after a refresh; `old` are those before it."""
        return self.outputs(old, result)

    def refreshed_inputs(self, inputs: Properties, seen: Properties) -> Properties:
        return _given({name: seen.get(name) for name in inputs})

    def create(self, client: sdk.Cloudflare, inputs: Properties, ctx: Context) -> Result:
        raise NotImplementedError

    def made(self, client: sdk.Cloudflare, inputs: Properties) -> Result | None:
        """What a create with these inputs has made, whose answer was lost."""
        raise NotImplementedError

    def read(self, client: sdk.Cloudflare, id: str, outputs: Properties) -> Result:
        raise NotImplementedError

    def update(self, client: sdk.Cloudflare, id: str, inputs: Properties, ctx: Context) -> Result:
        raise NotImplementedError

    def delete(self, client: sdk.Cloudflare, id: str, outputs: Properties) -> Result | None:
        raise NotImplementedError


class _DnsRecord(Kind):
    clearable = ("comment", "priority", "content", "data", "privateRouting")
    # Cloudflare changes no record's type since 2026-06-30.
    replacing = frozenset({"zoneId", "type"})
    computed = (
        "commentModifiedOn",
        "createdOn",
        "meta",
        "modifiedOn",
        "proxiable",
        "settings",
        "tags",
        "tagsModifiedOn",
    )

    def validate(self, inputs: Properties) -> list[CheckFailure]:
        failures = []
        ttl = inputs["ttl"]
        if ttl is not UNKNOWN and ttl != 1 and not 30 <= ttl <= 86400:
            failures.append(
                CheckFailure("ttl", "must be 1 (automatic), or from 60 to 86400 seconds")
            )
        if inputs.get("proxied") is True and ttl not in {1, UNKNOWN}:
            # The vendor's provider lets it pass and plans the same change for ever.
            failures.append(CheckFailure("ttl", "of a proxied record is always 1; set ttl=1"))
        if inputs.get("content") is None and inputs.get("data") is None:
            failures.append(CheckFailure("content", "is required, unless data is given"))
        if inputs.get("includeShadowMetadata") is not None:
            failures.append(CheckFailure("includeShadowMetadata", "is not rehearsed; leave it out"))
        return failures

    def planned(self, inputs: Properties) -> Properties:
        return {"proxied": False} | _given(inputs)

    def differences(
        self, there: Properties, wanted: Properties, old_inputs: Properties
    ) -> tuple[str, ...]:
        there, wanted = dict(there), dict(wanted)
        # The API knows `www.example.org`; `www` and `@` are the same name as long as the program
        # does not change them.
        if wanted["name"] == old_inputs.get("name"):
            there["name"] = wanted["name"]
        if wanted["type"] == "CNAME":  # DNS does not tell cases apart
            for side in (there, wanted):
                if isinstance(side.get("content"), str):
                    side["content"] = side["content"].lower().rstrip(".")
        if not there.get("tags") and not wanted.get("tags"):
            there["tags"] = wanted["tags"] = None
        if isinstance(wanted.get("settings"), Mapping):
            # One that is not given is false.
            both = ({**(there.get("settings") or {})}, {**wanted["settings"]})
            there["settings"], wanted["settings"] = (
                {name: side.get(name, False) for name in sorted(both[0].keys() | both[1].keys())}
                for side in both
            )
        return changed_paths(there, wanted)

    def predicted(self, inputs: Properties, old_outputs: Properties) -> Properties:
        stable = ("createdOn", "proxiable")
        kept = {name: old_outputs[name] for name in stable if name in old_outputs}
        return super().predicted(inputs, old_outputs) | kept

    def outputs(self, inputs: Properties, result: Result) -> Properties:
        # The vendor's provider keeps the name as the program wrote it, until a refresh.
        return self.refreshed(inputs, result) | {"name": inputs["name"]}

    def refreshed(self, old: Properties, result: Result) -> Properties:
        shown = {k: v for k, v in result.items() if k not in {"id", "zone_id", "zone_name"}}
        seen: Properties = _camel(shown)
        own = {"zoneId": old["zoneId"], "meta": json.dumps(result.get("meta") or {})}
        return _given(seen | own)

    def refreshed_inputs(self, inputs: Properties, seen: Properties) -> Properties:
        fresh = super().refreshed_inputs(inputs, seen)
        old, new = str(inputs["name"]).rstrip(".").lower(), str(seen["name"])
        if old in {"@", new} or new.startswith(f"{old}."):
            fresh["name"] = inputs["name"]
        return fresh

    def create(self, client: sdk.Cloudflare, inputs: Properties, ctx: Context) -> Result:
        began = datetime.now(UTC)
        try:
            return _result(_raw(client.dns.records).create(**self._body(inputs)))
        except sdk.APIStatusError as error:
            if not RECORD_EXISTS & _codes(error):
                raise
            twin = self._twin(client, inputs)
            if twin is not None and _was_retried(error):
                made = datetime.fromisoformat(twin["created_on"])
                if made > began - CLOCK_SKEW:
                    ctx.progress("the first answer was lost; the record that it made is kept")
                    return twin
            raise self._exists(inputs, twin, error) from None

    def made(self, client: sdk.Cloudflare, inputs: Properties) -> Result | None:
        return self._twin(client, inputs)

    def read(self, client: sdk.Cloudflare, id: str, outputs: Properties) -> Result:
        return _result(_raw(client.dns.records).get(id, zone_id=outputs["zoneId"]))

    def update(self, client: sdk.Cloudflare, id: str, inputs: Properties, ctx: Context) -> Result:
        del ctx
        try:
            return _result(_raw(client.dns.records).update(id, **self._body(inputs)))
        except sdk.APIStatusError as error:
            if not RECORD_EXISTS & _codes(error):
                raise
            raise self._exists(inputs, self._twin(client, inputs), error) from None

    def delete(self, client: sdk.Cloudflare, id: str, outputs: Properties) -> Result:
        return _result(_raw(client.dns.records).delete(id, zone_id=outputs["zoneId"]))

    def _body(self, inputs: Properties) -> Result:
        body: Result = _snake(self.planned(inputs))
        return body

    def _twin(self, client: sdk.Cloudflare, inputs: Properties) -> Result | None:
        """The record in the zone that these inputs would make again."""
        zone = _result(_raw(client.zones).get(zone_id=inputs["zoneId"]))["name"]
        name = inputs["name"].rstrip(".").lower()
        names = {zone} if name == "@" else {name, f"{name}.{zone}"}
        answer = _raw(client.dns.records).list(
            zone_id=inputs["zoneId"],
            type=inputs["type"],
            content={"exact": inputs.get("content") or ""},
        )
        found: list[Result] = [r for r in answer.json()["result"] if r["name"] in names]
        return found[0] if found else None

    def _exists(
        self, inputs: Properties, twin: Result | None, error: sdk.APIStatusError
    ) -> ProviderError:
        what = f"{inputs['type']} {inputs['name']} → {inputs.get('content')}"
        which = f" (id {twin['id']})" if twin is not None else ""
        # Not `pulumi import`: without the provider and the component that the record belongs to,
        # neither of which is known here, it takes over another resource, beside this one.
        return ProviderError(
            f"Cloudflare already has the record {what}, made outside this stack: {_said(error)}. "
            f"Delete it there{which}, then run it again."
        )


class _ZoneSetting(Kind):
    replacing = frozenset({"zoneId", "settingId"})
    computed = ("editable", "modifiedOn", "timeRemaining")

    def outputs(self, inputs: Properties, result: Result) -> Properties:
        seen: Properties = _camel({k: v for k, v in result.items() if k not in {"id", "value"}})
        # The value of security_header is an object with the API's own names: it is left alone.
        own = {"value": result["value"], "zoneId": inputs["zoneId"], "settingId": result["id"]}
        return _given(seen | own)

    def create(self, client: sdk.Cloudflare, inputs: Properties, ctx: Context) -> Result:
        del ctx
        given = {name: inputs[name] for name in ("value", "enabled") if name in inputs}
        settings = _raw(client.zones.settings)
        return _result(settings.edit(inputs["settingId"], zone_id=inputs["zoneId"], **given))

    def made(self, client: sdk.Cloudflare, inputs: Properties) -> None:
        """A setting is always there, and setting it again is the same."""

    def read(self, client: sdk.Cloudflare, id: str, outputs: Properties) -> Result:
        return _result(_raw(client.zones.settings).get(id, zone_id=outputs["zoneId"]))

    def update(self, client: sdk.Cloudflare, id: str, inputs: Properties, ctx: Context) -> Result:
        del id
        return self.create(client, inputs, ctx)

    def delete(self, client: sdk.Cloudflare, id: str, outputs: Properties) -> None:
        """A setting cannot be deleted: it leaves the state, and the zone keeps its value."""


class _OriginCaCertificate(Kind):
    computed = ("certificate", "expiresOn")
    _validities: Final = (7, 30, 90, 365, 730, 1095, 5475)  # days
    _types: Final = ("origin-rsa", "origin-ecc", "keyless-certificate")

    def validate(self, inputs: Properties) -> list[CheckFailure]:
        failures = []
        if inputs["requestType"] not in {*self._types, UNKNOWN}:
            failures.append(CheckFailure("requestType", f"must be one of {', '.join(self._types)}"))
        if inputs.get("requestedValidity") not in {*self._validities, None, UNKNOWN}:
            days = ", ".join(map(str, self._validities))
            failures.append(CheckFailure("requestedValidity", f"must be one of {days} (days)"))
        return failures

    def planned(self, inputs: Properties) -> Properties:
        return {"requestedValidity": 5475} | _given(inputs)

    def outputs(self, inputs: Properties, result: Result) -> Properties:
        seen: Properties = _camel({name: value for name, value in result.items() if name != "id"})
        return self.planned(inputs) | seen

    def create(self, client: sdk.Cloudflare, inputs: Properties, ctx: Context) -> Result:
        # Never repeated by the client: each request that arrives is signed, and the answer that was
        # lost would be a certificate that nobody knows of.
        once = _raw(client.with_options(max_retries=0).origin_ca_certificates)
        try:
            return _result(once.create(**_snake(self.planned(inputs))))
        except (sdk.APIConnectionError, sdk.InternalServerError):
            with suppress(sdk.APIError):
                made = self.made(client, inputs)
                if made is not None:
                    ctx.progress("the answer was lost; the certificate that was made is kept")
                    return made
            raise

    def update(self, client: sdk.Cloudflare, id: str, inputs: Properties, ctx: Context) -> Result:
        """Nothing can be changed, and one that was found after a lost answer is complete."""
        del inputs, ctx
        return self.read(client, id, {})

    def made(self, client: sdk.Cloudflare, inputs: Properties) -> Result | None:
        """By its signing request, which names a key that only this stack has."""
        for zone in _raw(client.zones).list().json()["result"]:
            listed = _raw(client.origin_ca_certificates).list(zone_id=zone["id"]).json()["result"]
            for one in listed:
                if one.get("csr", "").strip() == inputs["csr"].strip() and "revoked_at" not in one:
                    return _result(_raw(client.origin_ca_certificates).get(one["id"]))
        return None

    def read(self, client: sdk.Cloudflare, id: str, outputs: Properties) -> Result:
        del outputs
        return _result(_raw(client.origin_ca_certificates).get(id))

    def delete(self, client: sdk.Cloudflare, id: str, outputs: Properties) -> Result:
        del outputs
        return _result(_raw(client.origin_ca_certificates).delete(id))


_KINDS: Final[dict[str, Kind]] = {
    RECORD: _DnsRecord(),
    SETTING: _ZoneSetting(),
    CERTIFICATE: _OriginCaCertificate(),
}


def _kind(type_: str) -> Kind:
    try:
        return _KINDS[type_]
    except KeyError:
        raise ProviderError(
            f"the rehearsal's provider 'cloudflare' has no type {type_!r}; it has "
            f"{', '.join(_KINDS)}. Add it in rehearsal/providers/cloudflare.py, or remove the "
            "resource from the program."
        ) from None


# The functions


def _ip_ranges(client: sdk.Cloudflare, args: Mapping[str, Any]) -> Properties:
    ranges: Properties = _camel(_result(_raw(client.ips).list(**args)))
    return ranges | dict(args) | {"id": "ipRanges"}


def _zone(client: sdk.Cloudflare, args: Mapping[str, Any]) -> Properties:
    zone_id = args.get("zoneId")
    if zone_id is None:
        filter_ = _given(args.get("filter") or {})
        _refuse_unknown(
            "getZone filter", filter_, {"name", "status", "match", "order", "direction"}
        )
        if not filter_:
            raise ProviderError("getZone: give zoneId, or filter with a name.")
        found = _raw(client.zones).list(**filter_).json()["result"]
        if len(found) != 1:
            raise ProviderError(
                f"getZone: {len(found)} zones fit the filter {filter_}, and one must; "
                "correct the name, or let the API token see that zone."
            )
        zone_id = found[0]["id"]
    zone: Properties = _camel(_result(_raw(client.zones).get(zone_id=zone_id)))
    return zone | {"zoneId": zone_id, "filter": args.get("filter")}


def _refuse_unknown(token: str, given: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise ProviderError(
            f"{token}: the rehearsal does not know the argument {unknown[0]!r}; "
            f"it knows {', '.join(sorted(known))}."
        )


# The client


def _raw(resource: Any) -> Any:
    """The client's methods with the answer's own JSON: its models would drop what they do not know.

    Typed Any because the client's overloads (one per record type) take no `**body`.
    """
    return resource.with_raw_response


def _result(response: Any) -> Result:
    result: Result = response.json()["result"]
    return result


def _asking(call: Callable[[], _T]) -> _T:
    """Runs a call and turns the client's errors into the operator's."""
    try:
        return call()
    except sdk.APIStatusError as error:
        raise ProviderError(
            f"Cloudflare refused it: {_said(error)}.{_mend(error)}", lost=error.status_code >= 500
        ) from error
    except sdk.APITimeoutError as error:
        raise ProviderError(
            f"Cloudflare did not answer within the client's time ({_asked(error.request)}); "
            "run it again: what was done is not done twice.",
            lost=True,
        ) from error
    except sdk.APIConnectionError as error:
        raise ProviderError(
            f"cannot reach Cloudflare ({_asked(error.request)}): {error.__cause__ or error}. "
            "Check the network, and CLOUDFLARE_BASE_URL if it is set; then run it again.",
            lost=True,
        ) from error


def _unless_gone(call: Callable[[], Result | None]) -> Result | None:
    with suppress(sdk.NotFoundError):
        return call()
    return None


def _asked(request: httpx.Request) -> str:
    return f"{request.method} {request.url.copy_with(query=None)}"


def _errors(error: sdk.APIStatusError) -> list[dict[str, Any]]:
    body = error.body
    listed = body.get("errors") if isinstance(body, dict) else None
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _codes(error: sdk.APIStatusError) -> set[int]:
    return {one["code"] for one in _errors(error) if isinstance(one.get("code"), int)}


def _was_retried(error: sdk.APIStatusError) -> bool:
    return bool(error.request.headers.get("x-stainless-retry-count", "0") != "0")


def _said(error: sdk.APIStatusError) -> str:
    """`An identical record already exists. (81058)`, with the causes that Cloudflare lists."""
    parts = []
    for one in _errors(error):
        causes = [c for c in one.get("error_chain") or [] if isinstance(c, dict)]
        parts += [f"{c.get('message')} ({c.get('code')})" for c in [one, *causes]]
    return "; ".join(parts) or f"HTTP {error.status_code} to {_asked(error.request)}"


def _mend(error: sdk.APIStatusError) -> str:
    codes = _codes(error)
    if codes & {10000, 9109, 9106, 6003, 1000} or error.status_code in {401, 403}:
        return (
            " The API token must be valid and have Zone:Read, DNS:Edit, Zone Settings:Edit and SSL "
            "and Certificates:Edit for this zone; check honeydue:cloudflareToken and the zone id."
        )
    if codes & {7003, 7000}:
        return " The zone id has 32 hex digits; it is on the zone's overview page."
    if error.status_code == 429:
        return " Wait five minutes (1,200 requests are free in each), then run it again."
    if error.status_code >= 500:
        return " That is Cloudflare's own trouble: see cloudflarestatus.com, then run it again."
    return ""


# Names


def _given(inputs: Mapping[str, Any]) -> Properties:
    return {name: value for name, value in inputs.items() if value is not None}


def _snake(value: Any) -> Any:
    """Pulumi's wire names to the API's: `privateRouting` → `private_routing`."""
    if isinstance(value, Mapping):
        return {
            re.sub(r"[A-Z]", lambda m: f"_{m[0].lower()}", k): _snake(v) for k, v in value.items()
        }
    return [_snake(item) for item in value] if isinstance(value, list) else value


def _camel(value: Any) -> Any:
    """The API's names to Pulumi's: `ipv4_cidrs` → `ipv4Cidrs`."""
    if isinstance(value, Mapping):
        return {
            re.sub(r"_([a-z0-9])", lambda m: m[1].upper(), k): _camel(v) for k, v in value.items()
        }
    return [_camel(item) for item in value] if isinstance(value, list) else value
