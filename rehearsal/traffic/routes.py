"""Traefik's routers and servers, made of Kubernetes' objects. Pure.

After pkg/provider/kubernetes/ingress/kubernetes.go of Traefik v3.6 and the chart's defaults:
* a router's priority is the length of its rule; Prefix compares characters, not path elements
  (strictPrefixMatching is off);
* servers are endpoints that are ready or serving; one that is terminating and still serving is
  fenced, which without sticky sessions means that nothing new is sent to it;
* a Service without servers still has its router (the chart sets allowEmptyServices): 503, not 404;
  one that does not exist has none;
* the first certificate for a name wins, and a Secret that is missing leaves the default one.
Not played: middlewares, sticky sessions, IngressRoute, ImplementationSpecific's pathMatcher.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

Object = Mapping[str, Any]
Objects = Mapping[str, Sequence[Object]]
"""By plural: helmchartconfigs, ingressclasses, ingresses, services, endpointslices, secrets."""

ENTRY_POINTS: Final = ("web", "websecure")
ANNOTATION: Final = "traefik.ingress.kubernetes.io/router."
CONTROLLER: Final = "traefik.io/ingress-controller"
CLOUDFLARE: Final = "173.245.48.0/20"


@dataclass(frozen=True)
class Server:
    """One endpoint: where, and whose. `uid`: the pod's."""

    address: str
    port: int
    namespace: str
    pod: str
    uid: str
    node: str


@dataclass(frozen=True)
class Router:
    host: str
    path: str
    exact: bool
    entry_points: tuple[str, ...]
    tls: bool
    servers: tuple[Server, ...]

    @property
    def priority(self) -> int:
        rules = [f"Host(`{self.host}`)"] if self.host else []
        rules += [f"{'Path' if self.exact else 'PathPrefix'}(`{self.path}`)"] if self.path else []
        return len(" && ".join(rules))

    def fits(self, entry_point: str, tls: bool, host: str, path: str) -> bool:
        """A router with TLS is asked by TLS alone. On `websecure` every one is, by the chart."""
        by_tls = self.tls or entry_point == "websecure"
        if entry_point not in self.entry_points or by_tls != tls:
            return False
        right_path = path == self.path if self.exact else path.startswith(self.path)
        return self.host in ("", host) and right_path


@dataclass(frozen=True)
class Port:
    """`trusts`: whether Cloudflare's proxies are believed about the client (trustedIPs has them, as
    far as the first of their networks shows)."""

    number: int
    trusts: bool


@dataclass(frozen=True)
class Configuration:
    """`ports`: entry point → where it listens on the node; empty: nowhere. `certificates`:
    (chain, key), both PEM."""

    ports: Mapping[str, Port]
    routers: tuple[Router, ...]
    certificates: tuple[tuple[bytes, bytes], ...]

    def route(self, entry_point: str, tls: bool, host: str, path: str) -> Router | None:
        return next((r for r in self.routers if r.fits(entry_point, tls, host, path)), None)


def configuration(objects: Objects) -> Configuration:
    classes = {
        one["metadata"]["name"]
        for one in objects["ingressclasses"]
        if one["spec"].get("controller") == CONTROLLER
    }
    ours = [i for i in objects["ingresses"] if i["spec"].get("ingressClassName") in classes]
    ours.sort(key=_key)
    routers = [router for one in ours for router in _routers(one, objects)]
    secrets = {_key(one): one for one in objects["secrets"]}
    wanted = dict.fromkeys(
        (_key(one)[0], str(section["secretName"]))
        for one in ours
        for section in one["spec"].get("tls") or ()
        if section.get("secretName")
    )
    return Configuration(
        ports=ports(objects["helmchartconfigs"]),
        routers=tuple(sorted(routers, key=lambda router: -router.priority)),
        certificates=tuple(pair for name in sorted(wanted) if (pair := _pair(secrets.get(name)))),
    )


def ports(configs: Iterable[Object]) -> dict[str, Port]:
    """Where Traefik listens on each node: in the host's network only. K3s' own values give it a
    Service of type LoadBalancer instead, for which servicelb, switched off, opens no port."""
    for config in configs:
        if _key(config) == ("kube-system", "traefik"):
            values = yaml.safe_load(config["spec"].get("valuesContent") or "") or {}
            if not values.get("hostNetwork"):
                return {}
            found = {name: (values.get("ports") or {}).get(name) or {} for name in ENTRY_POINTS}
            return {
                name: Port(
                    int(port.get("port", 8000 if name == "web" else 8443)),
                    CLOUDFLARE in ((port.get("forwardedHeaders") or {}).get("trustedIPs") or ()),
                )
                for name, port in found.items()
            }
    return {}


def _routers(ingress: Object, objects: Objects) -> Iterable[Router]:
    said = ingress["metadata"].get("annotations") or {}
    entry_points = said.get(f"{ANNOTATION}entrypoints") or ",".join(ENTRY_POINTS)
    for rule in ingress["spec"].get("rules") or ():
        for path in (rule.get("http") or {}).get("paths") or ():
            servers = _servers(_key(ingress)[0], path["backend"].get("service") or {}, objects)
            if servers is not None:
                yield Router(
                    host=(rule.get("host") or "").lower(),
                    path=path.get("path") or "",
                    exact=path.get("pathType") == "Exact",
                    entry_points=tuple(name.strip() for name in entry_points.split(",")),
                    tls=said.get(f"{ANNOTATION}tls") == "true",
                    servers=tuple(servers),
                )


def _servers(namespace: str, backend: Object, objects: Objects) -> list[Server] | None:
    """None when there is no such Service or port, and so no router."""
    service = next(
        (s for s in objects["services"] if _key(s) == (namespace, backend.get("name"))), None
    )
    asked = backend.get("port") or {}
    port = next(
        (
            port
            for port in (service["spec"].get("ports") or () if service else ())
            if port["port"] == asked.get("number")
            or (port.get("name") and port.get("name") == asked.get("name"))
        ),
        None,
    )
    if port is None:
        return None
    found = {}
    for part in objects["endpointslices"]:
        labels = part["metadata"].get("labels") or {}
        mine = labels.get("kubernetes.io/service-name") == backend["name"]
        if not mine or _key(part)[0] != namespace:
            continue
        number: int = next(
            (p["port"] for p in part.get("ports") or () if p.get("name") == port.get("name")), 0
        )
        for endpoint in part.get("endpoints") or () if number else ():
            if _takes_requests(endpoint.get("conditions") or {}):
                pod = endpoint.get("targetRef") or {}
                for address in endpoint["addresses"]:
                    found[address] = Server(
                        address,
                        number,
                        namespace,
                        pod.get("name", ""),
                        pod.get("uid", ""),
                        endpoint.get("nodeName") or "",
                    )
    return [found[address] for address in sorted(found)]


def _takes_requests(conditions: Object) -> bool:
    ready, serving = bool(conditions.get("ready")), bool(conditions.get("serving"))
    fenced = serving and bool(conditions.get("terminating"))
    return (ready or serving) and not fenced


def _pair(secret: Object | None) -> tuple[bytes, bytes] | None:
    data = (secret or {}).get("data") or {}
    if not data.get("tls.crt") or not data.get("tls.key"):
        return None
    return base64.b64decode(data["tls.crt"]), base64.b64decode(data["tls.key"])


def _key(thing: Object) -> tuple[str, str]:
    return thing["metadata"].get("namespace", ""), thing["metadata"]["name"]
