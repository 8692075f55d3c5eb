"""The rules between settings. Each takes the whole and yields (path, what is wrong with it).

A rule only ever compares values that are right by themselves: when one is not, reading it ends the
rule (see `reading.Draft`). So rules use plain fields, not the models' derived properties.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from honeydue import application, rules
from honeydue.images.references import SERVICES
from honeydue.problems import Path, Wrong

if TYPE_CHECKING:
    from honeydue.settings import Settings

Found = Iterator[tuple[Path, Wrong]]


def managers_are_odd(s: Settings) -> Found:
    count = len(s.cluster.nodes)
    if count % 2 == 0:
        why = f"has {count} managers; an even number survives no more losses than {count - 1} would"
        yield ("cluster", "nodes"), Wrong(why, mend=_nodes(s, 3 if count < 4 else count - 1))
    if count > 7:
        why = f"has {count} managers; etcd is not meant for more than 7"
        yield ("cluster", "nodes"), Wrong(why, mend=_nodes(s, 3))


def _nodes(s: Settings, count: int) -> str:
    names = ", ".join(f"{{name: {s.cluster.name}-{n + 1}}}" for n in range(count))
    return f"Pulumi.{s.stack}.yaml: nodes: [{names}]"


def node_names_are_the_clusters_and_unique(s: Settings) -> Found:
    seen: set[str] = set()
    for i, node in enumerate(s.cluster.nodes):
        path: Path = ("cluster", "nodes", i, "name")
        number = rules.node_number(node.name)
        wanted = f"{s.cluster.name}-{number}"
        if node.name != wanted:
            yield path, Wrong(f"must begin with the cluster's name, {s.cluster.name}", to=wanted)
        elif node.name in seen:
            used = {rules.node_number(other.name) for other in s.cluster.nodes}
            free = next(n for n in itertools.count(1) if n not in used)
            why = f"is another node's name too ({node.name})"
            yield path, Wrong(why, to=f"{s.cluster.name}-{free}")
        seen.add(node.name)


def nodes_fit_into_their_subnet(s: Settings) -> Found:
    """Hetzner keeps the first address for the gateway; the last is the broadcast address."""
    size = s.cluster.node_cidr.num_addresses
    for node in s.cluster.nodes:
        host = 10 + rules.node_number(node.name)
        if host > size - 2:
            why = f"has no address {host}, which {node.name} needs"
            yield ("cluster", "nodeCidr"), Wrong(why, to=f"{s.cluster.node_cidr[0]}/24")
            return


def api_node_is_a_node(s: Settings) -> Found:
    names = [node.name for node in s.cluster.nodes]
    if s.cluster.api_node is not None and s.cluster.api_node not in names:
        yield ("cluster", "apiNode"), Wrong(f"must be one of {', '.join(names)}", to=names[0])


def locations_are_in_the_network_zone(s: Settings) -> Found:
    zone = s.cluster.network_zone
    places: list[tuple[Path, str | None]] = [(("cluster", "location"), s.cluster.location)]
    places += [
        (("cluster", "nodes", i, "location"), node.location)
        for i, node in enumerate(s.cluster.nodes)
    ]
    there = [name for name, its in rules.ZONES.items() if its == zone]
    for path, location in places:
        if location is not None and location not in there:
            why = f"is in network zone {rules.ZONES[location]}, the private network in {zone}"
            yield path, Wrong(why, to=there[0])


def cx_servers_are_in_europe(s: Settings) -> Found:
    for i, node in enumerate(s.cluster.nodes):
        location = node.location or s.cluster.location
        if node.server_type.startswith("cx") and rules.ZONES[location] != "eu-central":
            why = f"is sold in Europe only, not in {location}"
            yield ("cluster", "nodes", i, "serverType"), Wrong(why, to="cpx31")


def node_subnet_lies_in_the_network(s: Settings) -> Found:
    network, nodes = s.cluster.network_cidr, s.cluster.node_cidr
    if not nodes.subnet_of(network):
        why = f"must lie inside cluster.networkCidr ({network})"
        prefix = max(24, network.prefixlen)
        yield ("cluster", "nodeCidr"), Wrong(why, to=f"{network[0]}/{prefix}")


def networks_do_not_overlap(s: Settings) -> Found:
    cidrs = {
        "networkCidr": s.cluster.network_cidr,
        "podCidr": s.cluster.pod_cidr,
        "serviceCidr": s.cluster.service_cidr,
    }
    usual = {"podCidr": "10.42.0.0/16", "serviceCidr": "10.43.0.0/16"}
    for (one, a), (other, b) in itertools.combinations(cidrs.items(), 2):
        if a.overlaps(b):
            why = f"({b}) overlaps cluster.{one} ({a})"
            yield ("cluster", other), Wrong(why, to=usual[other])


def pods_of_every_node_fit(s: Settings) -> Found:
    """The controller manager gives each node a /24 of the pod network."""
    pods, count = s.cluster.pod_cidr, len(s.cluster.nodes)
    if pods.prefixlen > 24 or 2 ** (24 - pods.prefixlen) < count:
        why = f"is too small: each of the {count} nodes takes a /24 of it"
        yield ("cluster", "podCidr"), Wrong(why, to="10.42.0.0/16")
    if pods.prefixlen < 14:
        why = "is wider than /14: room for over 1024 nodes, and no pod reaches what else lies in it"
        yield ("cluster", "podCidr"), Wrong(why, to=f"{pods[0]}/16")


def hosts_are_in_the_zone_and_distinct(s: Settings) -> Found:
    names = {"api": s.dns.api, "admin": s.dns.admin, "landing": s.dns.landing}
    for key, name in names.items():
        if name != s.dns.zone and not name.endswith("." + s.dns.zone):
            to = s.dns.zone if key == "landing" else f"{key}.{s.dns.zone}"
            yield ("dns", key), Wrong(f"is not in the zone {s.dns.zone}", to=to)
    for (one, a), (other, b) in itertools.combinations(names.items(), 2):
        if a == b:
            to = s.dns.zone if other == "landing" else f"{other}.{s.dns.zone}"
            yield ("dns", other), Wrong(f"is the same host as dns.{one}", to=to)


def the_api_answers_for_its_own_host(s: Settings) -> Found:
    allowed = _environment(s, "ALLOWED_HOSTS")
    if allowed and s.dns.api not in allowed.split(","):
        why = f"does not hold dns.api ({s.dns.api}): every request would be refused"
        yield ("environment", "ALLOWED_HOSTS"), Wrong(why, to=f"{s.dns.api},{allowed}")


def the_admin_panel_may_call_the_api(s: Settings) -> Found:
    origins, admin = _environment(s, "CORS_ALLOWED_ORIGINS"), f"https://{s.dns.admin}"
    if origins and admin not in origins.split(","):
        why = f"does not hold the admin panel's origin ({admin})"
        yield ("environment", "CORS_ALLOWED_ORIGINS"), Wrong(why, to=f"{admin},{origins}")


def urls_name_the_api(s: Settings) -> Found:
    for key in ("BASE_URL", "NEXT_PUBLIC_API_URL"):
        url = _environment(s, key)
        if url and urlsplit(url).hostname != s.dns.api:
            why = f"does not point at dns.api ({s.dns.api})"
            yield ("environment", key), Wrong(why, to=f"https://{s.dns.api}")


def database_connections_are_few(s: Settings) -> Found:
    most, idle = _environment(s, "DB_MAX_OPEN_CONNS"), _environment(s, "DB_MAX_IDLE_CONNS")
    if most and idle and int(idle) > int(most):
        why = f"is more than DB_MAX_OPEN_CONNS ({most})"
        yield ("environment", "DB_MAX_IDLE_CONNS"), Wrong(why, to=most)


def groups_are_whole(s: Settings) -> Found:
    """What works only together is given together or not at all."""
    for needed, optional in (
        (("B2_BUCKET_NAME", "B2_ENDPOINT", "B2_KEY_ID", "B2_APP_KEY"), ("B2_REGION",)),
        (("FCM_PROJECT_ID", "FCM_SERVER_KEY"), ()),
    ):
        present = [key for key in needed + optional if key in s.environment or key in s.secrets]
        verb = "is" if len(present) == 1 else "are"
        for key in needed:
            if present and key not in present:
                where = "secrets" if key in _SECRET_NAMES else "environment"
                why = f"is missing, but {', '.join(present)} {verb} given: all or none"
                yield (where, key), Wrong(why)


def passwords_are_not_the_account(s: Settings) -> Found:
    user, password = _environment(s, "POSTGRES_USER"), s.secrets.get("POSTGRES_PASSWORD")
    if user and password and user.lower() in password.get_secret_value().lower():
        yield ("secrets", "POSTGRES_PASSWORD"), Wrong("holds POSTGRES_USER")


def secrets_differ(s: Settings) -> Found:
    """The same value twice is a paste into the wrong field, or a password used twice."""
    known = {key: value.get_secret_value() for key, value in s.secrets.items() if value}
    for (one, a), (other, b) in itertools.combinations(known.items(), 2):
        if a == b:
            yield ("secrets", other), Wrong(f"has the same value as secrets.{one}")


def built(s: Settings) -> tuple[str, ...]:
    """The services that this stack builds; the others run what `images` names."""
    return _unnamed(s) if _may_build(s) else ()


def _may_build(s: Settings) -> bool:
    return s.app is not None if s.image.build is None else s.image.build


def _unnamed(s: Settings) -> tuple[str, ...]:
    return tuple(service for service in SERVICES if getattr(s.images, service) is None)


def something_says_what_runs(s: Settings) -> Found:
    if built(s) and s.app is None:
        why = "is missing, and image.build is true: there is nothing to build from"
        yield ("app", "path"), Wrong(why, to="../honeyDueAPI-go")
    if not _may_build(s):
        why = "is missing, and nothing is built: give a tag or digest, or app.path to build from"
        for service in _unnamed(s):
            yield ("images", service), Wrong(why, to="<git short SHA>")


def who_builds_signs(s: Settings) -> Found:
    if not built(s):
        return
    why = "is missing: what is built is signed before it runs"
    config, module = f"pulumi config set -s {s.stack}", "python -m honeydue.images.signing"
    if s.signing is None or s.signing.private_key is None:
        to = "--secret --path honeydue:signing.privateKey"
        yield ("signing", "privateKey"), Wrong(why, mend=f"{module} generate | {config} {to}")
    if s.signing is None:
        get = f"pulumi config get -s {s.stack} --path honeydue:signing.privateKey"
        to = "--path honeydue:signing.publicKey"
        yield ("signing", "publicKey"), Wrong(why, mend=f"{get} | {module} public | {config} {to}")


_SECRET_NAMES = {key.name for key in application.SECRETS}


def _environment(s: Settings, key: str) -> str | None:
    """A valid value of the env file; None when it is absent or was refused."""
    return s.environment.get(key)


RULES: Final[tuple[Callable[[Settings], Found], ...]] = (
    managers_are_odd,
    node_names_are_the_clusters_and_unique,
    nodes_fit_into_their_subnet,
    api_node_is_a_node,
    locations_are_in_the_network_zone,
    cx_servers_are_in_europe,
    node_subnet_lies_in_the_network,
    networks_do_not_overlap,
    pods_of_every_node_fit,
    hosts_are_in_the_zone_and_distinct,
    the_api_answers_for_its_own_host,
    the_admin_panel_may_call_the_api,
    urls_name_the_api,
    database_connections_are_few,
    groups_are_whole,
    something_says_what_runs,
    who_builds_signs,
    passwords_are_not_the_account,
    secrets_differ,
)
