"""What is not any more as the last `up` left it: in Cloudflare's DNS, and in the cluster.

The engine compares the program with its state. What somebody changes by hand beside it neither a
preview nor an `up` sees, until `refresh` has asked everybody. Here they are asked each time that
somebody looks at the status; nothing is written down.

Pure, but for `records_of`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from honeydue import rules
from honeydue.problems import Wrong
from ops.api import FIELD_MANAGER, NAMESPACE
from ops.diagnosis import ago, dig, items, moment, text
from ops.engine import Engine
from ops.problems import Problem, refused
from ops.quantities import quantity

Json = Mapping[str, Any]

SECONDS: Final = 2.0  # that Cloudflare is given
_PAGE: Final = 5000  # records: a zone of ours fits in one answer
_LONGEST: Final = 60  # characters of a value
_TOLD: Final = 4  # of what is alike
_SECRET: Final = "4dabf18193072939515e22adb298388d"  # Pulumi's mark of what is no plain value
_NOTHING: Final = "nothing"


@dataclass(frozen=True, kw_only=True)
class Drift:
    """One thing that differs: `said` of `what`, by whom and since when, as far as is known."""

    what: str
    said: str
    how: str
    since: datetime | None = None
    mend: str


def again(engine: Engine) -> str:
    """What makes the world as the program wants it. `refresh` first: without it `up` compares with
    the state, and finds nothing. Forced, since a field belongs to who set it last, and without that
    the API server refuses to take it from him."""
    verb = "pulumi" if engine.kind == "pulumi" else "python -m rehearsal"
    force = "PULUMI_K8S_ENABLE_PATCH_FORCE=true"
    stack = f"--stack {engine.stack}"
    return f"{verb} refresh {stack} && {force} {verb} up {stack}"


def problems(found: Iterable[Drift], now: datetime) -> list[Problem]:
    """What is alike in one line: many fields of one object, one fate of many records."""
    told: list[Drift] = []
    for (what, how, mend), fields in groupby(found, lambda each: (each.what, each.how, each.mend)):
        mine = list(fields)
        since = max((each.since for each in mine if each.since), default=None)
        said = _some([each.said for each in mine], "; ")
        told.append(Drift(what=what, said=said, how=how, since=since, mend=mend))
    alike: dict[tuple[str, str, str], list[Drift]] = {}
    for each in told:
        alike.setdefault((each.said, each.how, each.mend), []).append(each)
    return [
        Problem(
            f"{_some([each.what for each in mine], ', ')}: {said} ({_by(how, mine[0], now)})",
            mend,
        )
        for (said, how, mend), mine in alike.items()
    ]


def _by(how: str, drift: Drift, now: datetime) -> str:
    return f"{how}, {ago(now, drift.since)} ago" if drift.since is not None else how


def _some(said: Sequence[str], between: str) -> str:
    rest = len(said) - _TOLD
    return between.join(said[:_TOLD]) + (f" and {rest} more" if rest > 0 else "")


# --- DNS ----------------------------------------------------------------------------------------

_RECORDS: Final = ("cloudflare:index/dnsRecord:DnsRecord", "cloudflare:index/record:Record")
_LEADING: Final = ("A", "AAAA", "CNAME")  # what decides where a name's users go
_TOKEN: Final = (
    "make one at https://dash.cloudflare.com/profile/api-tokens, then: pulumi config set --secret "
    "honeydue:cloudflareToken"
)
_DASHBOARD: Final = "delete it at https://dash.cloudflare.com (DNS, Records)"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record that the stack has made."""

    id: str
    zone: str
    kind: str
    name: str
    content: str
    proxied: bool

    def __str__(self) -> str:
        return f"DNS {self.kind} {self.name} to {self.content}"


def records_in(resources: Iterable[Json]) -> list[Record]:
    """Of a checkpoint's resources (ops.engine.resources_of)."""
    return [
        Record(
            id=text(each.get("id")),
            zone=text(dig(each, "inputs", "zoneId")),
            kind=text(dig(each, "inputs", "type")),
            name=text(dig(each, "inputs", "name")),
            content=text(dig(each, "inputs", "content")),
            proxied=dig(each, "inputs", "proxied") is True,
        )
        for each in resources
        if each.get("type") in _RECORDS and not each.get("delete") and each.get("id")
    ]


def records_of(zone: str, *, base: str, token: str) -> list[Json]:
    """All records of a zone, as Cloudflare's API has them now. Raises Refused."""
    try:
        rules.cloudflare_token(token)
    except Wrong as wrong:  # and httpx would quote it
        raise refused(
            f"the DNS records are not known: honeydue:cloudflareToken {wrong}", _TOKEN
        ) from None
    found: list[Json] = []
    page, pages = 1, 1
    while page <= pages:
        answer = _get(f"{base.rstrip('/')}/zones/{zone}/dns_records", token, page)
        if not isinstance(answer, dict) or not isinstance(answer.get("result"), list):
            raise _unanswered(base, "its answer is no list of records")
        found += [each for each in answer["result"] if isinstance(each, dict)]
        total = dig(answer, "result_info", "total_pages")
        page, pages = page + 1, total if isinstance(total, int) else 1
    return found


def _get(url: str, token: str, page: int) -> Any:
    try:
        answer = httpx.get(
            url,
            params={"per_page": str(_PAGE), "page": str(page)},
            headers={"Authorization": f"Bearer {token}"},
            timeout=SECONDS,
        )
        if answer.is_success:
            return answer.json()
    except httpx.TimeoutException:
        raise _unanswered(url, f"no answer within {SECONDS:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as cause:
        said = re.sub(r"^\[Errno -?\d+\] ", "", " ".join(str(cause).split()))
        raise _unanswered(url, said or type(cause).__name__) from None
    if answer.status_code in (400, 401, 403):
        raise refused(
            f"Cloudflare does not show the DNS records to the token of honeydue:cloudflareToken: "
            f"it answers {answer.status_code}",
            f"it needs Zone > DNS > Edit for this zone: {_TOKEN}",
        )
    raise _unanswered(url, f"it answers {answer.status_code}")


def _unanswered(url: str, why: str) -> Exception:
    return refused(
        f"the DNS records are not known: Cloudflare's API at {urlsplit(url).netloc}: {why}",
        "nothing for users: names go on as they are without it; look at this machine's network, "
        "and at https://www.cloudflarestatus.com",
    )


def of_records(wanted: Sequence[Record], live: Sequence[Json], again: str) -> list[Drift]:
    """What differs in type, name, content or proxied, what is gone, and what leads users of our
    names elsewhere. `live`: of the zones of `wanted`; `again`: what mends it."""
    there = {text(each.get("id")): each for each in live}
    ours = {each.id for each in wanted}
    strange = {key: each for key, each in there.items() if key not in ours}
    found: list[Drift] = []
    for record in wanted:
        now = there.get(record.id)
        if now is None:
            twin = next((key for key, each in strange.items() if _leads_as(each, record)), None)
            found.append(_lost(record, None if twin is None else strange.pop(twin), again))
            continue
        changed = [
            f"{name} {was} → {_value(became)}"
            for name, was, became in (
                ("type", record.kind, now.get("type")),
                ("name", record.name, now.get("name")),
                ("content", record.content, now.get("content")),
                ("proxied", _yes(record.proxied), _yes(now.get("proxied"))),
            )
            if became != was
        ]
        if changed:
            found.append(
                Drift(
                    what=str(record),
                    said=", ".join(changed),
                    how="changed by hand",
                    since=_modified(now),
                    mend=again,
                )
            )
    names = {record.name for record in wanted}
    found += [
        Drift(
            what=f"DNS {each.get('type')} {each.get('name')} to {_value(each.get('content'))}",
            said="a record that is not the stack's, for a name of ours: it leads users elsewhere",
            how="made by hand",
            since=_modified(each),
            mend=f"{_DASHBOARD}: no `up` touches what it has not made",
        )
        for each in strange.values()
        if each.get("type") in _LEADING and each.get("name") in names
    ]
    return found


def _leads_as(each: Json, record: Record) -> bool:
    """Made anew by hand: another record to the API, the same to users."""
    same = ("type", record.kind), ("name", record.name), ("content", record.content)
    return all(each.get(key) == value for key, value in same)


def _lost(record: Record, twin: Json | None, again: str) -> Drift:
    if twin is None:
        said, how, since, mend = "missing", "deleted by hand", None, again
    else:
        proxied = "" if twin.get("proxied") is record.proxied else ", and not proxied as ours was"
        said = f"is another record than the stack's{proxied}"
        how, since = "deleted and made anew by hand", _modified(twin)
        mend = f"{_DASHBOARD}, then: {again}"
    return Drift(what=str(record), said=said, how=how, since=since, mend=mend)


def _yes(value: object) -> str:
    return "yes" if value is True else "no"


def _modified(record: Json) -> datetime | None:
    return moment(record.get("modified_on"))


def newest(wanted: Sequence[Record], live: Sequence[Json]) -> datetime | None:
    """When one of the stack's records was changed last."""
    ours = {each.id for each in wanted}
    times = [at for each in live if text(each.get("id")) in ours and (at := _modified(each))]
    return max(times, default=None)


# --- the cluster --------------------------------------------------------------------------------

# Pulumi's type → (what it is called, its plural). Deployments go by the service's name alone.
_KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "kubernetes:apps/v1:Deployment": ("", "deployments"),
    "kubernetes:apps/v1:StatefulSet": ("StatefulSet ", "statefulsets"),
    "kubernetes:core/v1:Service": ("Service ", "services"),
    "kubernetes:networking.k8s.io/v1:Ingress": ("Ingress ", "ingresses"),
    "kubernetes:networking.k8s.io/v1:NetworkPolicy": ("NetworkPolicy ", "networkpolicies"),
    "kubernetes:policy/v1:PodDisruptionBudget": ("PodDisruptionBudget ", "poddisruptionbudgets"),
    "kubernetes:core/v1:ConfigMap": ("ConfigMap ", "configmaps"),
    "kubernetes:core/v1:Secret": ("Secret ", "secrets"),
}
LISTS: Final = {
    "services": f"/api/v1/namespaces/{NAMESPACE}/services",
    "configmaps": f"/api/v1/namespaces/{NAMESPACE}/configmaps",
    "secrets": f"/api/v1/namespaces/{NAMESPACE}/secrets",
    "ingresses": f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/ingresses",
    "networkpolicies": f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies",
    "poddisruptionbudgets": f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets",
}
"""What the comparison needs beside what the status lists anyway."""

# Lists whose elements have a key, as the API server merges them (listMapKey in its OpenAPI). Every
# other list is one value: of ours, those of an Ingress' rules and of envFrom.
_KEYS: Final[Mapping[str, str]] = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "ports": "name",
    "volumeMounts": "mountPath",
    "topologySpreadConstraints": "topologyKey",
}
_QUANTITIES: Final = ("limits", "requests", "sizeLimit", "storage")
# Values that somebody may have typed a secret into.
_UNSHOWN: Final = ("env", "data", "command", "args")
# What `kubectl rollout` writes, which is told as what it is, or is no difference at all.
_HARMLESS: Final = ("paused", "kubectl.kubernetes.io/restartedAt", "kubernetes.io/change-cause")
_OURS: Final = ("pulumi-kubernetes", FIELD_MANAGER)
# Controllers of the cluster itself, which fill in what is theirs to fill in.
_CLUSTERS: Final = ("kube-controller-manager", "k3s", "helm", "deploy@", "traefik")


@dataclass(frozen=True)
class _Owner:
    """Who set some fields last; `fields`: the rest of his FieldsV1 from where we are. Empty: all
    that is below."""

    name: str
    at: datetime | None
    fields: Json

    @property
    def is_foreign(self) -> bool:
        return not self.name.startswith((*_OURS, *_CLUSTERS))


def compared(resources: Iterable[Json]) -> Iterator[tuple[str, str, str, Json]]:
    """(what it is called, plural, name, inputs) of what the stack has made in the namespace."""
    for each in resources:
        kind = _KINDS.get(text(each.get("type")))
        inputs = each.get("inputs")
        if kind is None or each.get("delete") or not isinstance(inputs, dict):
            continue
        if dig(inputs, "metadata", "namespace") == NAMESPACE:
            name = text(dig(inputs, "metadata", "name"))
            yield f"{kind[0]}{name}", kind[1], name, inputs


def of_objects(
    resources: Iterable[Json], lists: Mapping[str, Sequence[Any]], again: str
) -> list[Drift]:
    """Every object that the stack has made, against `lists` (plural → live objects; kinds that are
    not there were not listed). `again`: what mends it."""
    found: list[Drift] = []
    for what, plural, name, inputs in compared(resources):
        if plural not in lists:
            continue
        live = next((x for x in lists[plural] if dig(x, "metadata", "name") == name), None)
        if live is None:
            lost = Drift(what=what, said="missing", how="deleted by hand", mend=again)
            found.append(lost)
        elif plural != "secrets":  # immutable, or a login: that it is there is what counts
            found += differences(what, inputs, live, again)
    return found


def differences(what: str, inputs: Json, live: Any, again: str) -> list[Drift]:
    """The fields of `inputs` that `live` has otherwise, and what others have added to its spec by
    hand. What only the API server knows (defaults, status) is no difference."""
    owners = [
        _Owner(text(dig(each, "manager")), moment(dig(each, "time")), each["fieldsV1"])
        for each in items(dig(live, "metadata", "managedFields"))
        if isinstance(dig(each, "fieldsV1"), dict) and dig(each, "subresource") != "status"
    ]
    wanted = {
        "metadata": {
            key: {k: v for k, v in inputs["metadata"].get(key, {}).items() if k not in _HARMLESS}
            for key in ("labels", "annotations")
            if isinstance(inputs.get("metadata", {}).get(key), dict)
        },
        **{key: inputs[key] for key in ("spec", "data") if key in inputs},
    }
    return list(_walk(_Place(what, again, ()), wanted, live, owners))


@dataclass(frozen=True)
class _Place:
    """Where in an object we are."""

    what: str
    again: str
    path: tuple[str, ...]

    def at(self, key: str) -> _Place:
        return _Place(self.what, self.again, (*self.path, key))

    @property
    def is_spec(self) -> bool:
        return self.path[:1] == ("spec",)

    @property
    def label(self) -> str:
        """`replicas`, `resources.limits.memory`, `env PORT`."""
        path = list(self.path)
        for begin in (["spec"], ["template", "spec"], ["containers", self.what]):
            if path[: len(begin)] == begin and len(path) > len(begin):
                path = path[len(begin) :]
        if path[0] in _KEYS and len(path) > 1:
            path[:2] = [f"{path[0]} {path[1]}"]
        return ".".join(path)

    def drift(self, was: Any, became: Any, owners: Sequence[_Owner]) -> Drift:
        by = max(
            (each for each in owners if each.is_foreign),
            key=lambda each: each.at.timestamp() if each.at else 0.0,
            default=None,
        )
        said = f"{self.label} {_value(was)} → {_value(became)}"
        if any(each in _UNSHOWN for each in self.path) or _is_large(was) or _is_large(became):
            said = f"{self.label} {'is gone' if became is None else 'differs'}"
        how, since = "changed by hand", None
        if by is not None:
            how, since = f"changed by hand, field manager {_plain(by.name)}", by.at
        elif any(each.name.startswith(_OURS[0]) for each in owners):
            how = "set by a run of which this state knows nothing"
        return Drift(what=self.what, said=said, how=how, since=since, mend=self.again)

    def added(self, owner: _Owner) -> Drift:
        """An `up` that changes nothing else of the object leaves it: the program never set it."""
        kind, _, name = self.what.rpartition(" ")
        edit = f"kubectl -n {NAMESPACE} edit {(kind or 'deployment').lower()} {name}"
        return Drift(
            what=self.what,
            said=f"{self.label} is not the program's",
            how=f"added by hand, field manager {_plain(owner.name)}",
            since=owner.at,
            mend=f"take it out: {edit}",
        )


def _walk(place: _Place, wanted: Any, live: Any, owners: Sequence[_Owner]) -> Iterator[Drift]:
    if isinstance(wanted, dict) and _SECRET in wanted:
        return
    if isinstance(wanted, dict) and (isinstance(live, dict) or not wanted):
        yield from _walk_map(place, wanted, live or {}, owners)
        return
    key = _KEYS.get(place.path[-1], "") if place.path else ""
    if isinstance(wanted, list) and isinstance(live, list | None):
        keyed = [_by_key(each, key) for each in (wanted, live or [])]
        if key and keyed[0] is not None and keyed[1] is not None:
            yield from _walk_elements(place, (keyed[0], keyed[1]), owners)
            return
        if len(wanted) == len(live or []):
            for number, (was, became) in enumerate(zip(wanted, live or [], strict=True)):
                yield from _walk(place.at(str(number)), was, became, owners)
            return
    if not _same(place.path, wanted, live):
        yield place.drift(wanted, live, owners)


def _walk_map(place: _Place, wanted: Json, live: Json, owners: Sequence[_Owner]) -> Iterator[Drift]:
    for key, was in wanted.items():
        yield from _walk(place.at(key), was, live.get(key), _of_field(owners, key))
    for key in live if place.is_spec else ():
        if key in wanted or key in _HARMLESS:
            continue
        if key in _KEYS:
            yield from _walk(place.at(key), [], live[key], _of_field(owners, key))
        else:
            yield from _by_hand(place.at(key), _of_field(owners, key))


def _walk_elements(
    place: _Place, lists: tuple[Mapping[str, Any], Mapping[str, Any]], owners: Sequence[_Owner]
) -> Iterator[Drift]:
    wanted, live = lists
    for name, was in wanted.items():
        became = live.get(name)
        yield from _walk(place.at(name), was, became, _of_element(owners, (was, became)))
    for name, became in live.items():
        if name not in wanted and place.is_spec:
            yield from _by_hand(place.at(name), _of_element(owners, (became,)))


def _by_hand(place: _Place, owners: Sequence[_Owner]) -> Iterator[Drift]:
    """Only where somebody says that it is his: all else is the API server's."""
    for each in owners:
        below = {name.removeprefix("f:") for name in each.fields if name != "."}
        if each.is_foreign and not (below and below <= set(_HARMLESS)):
            yield place.added(each)
            return


def _of_field(owners: Sequence[_Owner], key: str) -> list[_Owner]:
    """Those who own the field, or a part of it."""
    return [
        each if not each.fields else _Owner(each.name, each.at, each.fields[f"f:{key}"])
        for each in owners
        if not each.fields or isinstance(each.fields.get(f"f:{key}"), dict)
    ]


def _of_element(owners: Sequence[_Owner], elements: Sequence[Any]) -> list[_Owner]:
    """The same of an element of a list, as it is wanted or as it is."""
    return [
        each if field is None else _Owner(each.name, each.at, each.fields[field])
        for each in owners
        for field in (each.fields or (None,))
        if field is None or _is_of(field, elements)
    ]


def _is_of(field: str, elements: Sequence[Any]) -> bool:
    """Whether `k:{"name":"api"}` means one of these."""
    if not field.startswith("k:"):
        return False
    try:
        key = json.loads(field[2:])
    except ValueError:
        return False
    return any(
        isinstance(each, dict) and all(each.get(name) == value for name, value in key.items())
        for each in elements
    )


def _by_key(elements: list[Any], key: str) -> dict[str, Any] | None:
    """None: they have none, or one of them twice."""
    found = {each[key]: each for each in elements if isinstance(each, dict) and each.get(key)}
    return found if len(found) == len(elements) else None


def _is_large(value: Any) -> bool:
    return isinstance(value, dict | list)


def _same(path: Sequence[str], wanted: Any, live: Any) -> bool:
    if wanted == live or (live is None and wanted in (None, {}, [])):
        return not isinstance(wanted, bool) ^ isinstance(live, bool)
    if any(each in _QUANTITIES for each in path):
        one, other = quantity(wanted), quantity(live)
        return one is not None and one == other
    # Int-or-string.
    plain = (isinstance(each, int | str) and not isinstance(each, bool) for each in (wanted, live))
    return all(plain) and str(wanted) == str(live)


def _value(value: Any) -> str:
    if value is None:
        return _NOTHING
    if isinstance(value, bool):
        return "true" if value else "false"
    said = _plain(str(value))
    if (digest := re.search(r"@sha256:([0-9a-f]{12})", said)) is not None:
        return digest[1]  # as the table of services has it
    return said if len(said) <= _LONGEST else f"{said[: _LONGEST - 1]}…"


def _plain(said: str) -> str:
    """Written by others: one line of print."""
    return "".join(char if char.isprintable() else "?" for char in said)
