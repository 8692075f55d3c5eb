"""Cloudflare's proxy: a request for a host → the origin that the zone's own records name.

Statuses are Cloudflare's (developers.cloudflare.com, "Cloudflare 5xx errors" and "1xxx errors");
the body is the line that it gives to what is no browser, and `X-Rehearsal` says what happened.
"""

from __future__ import annotations

import itertools
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rehearsal.traffic.http import Answer, Failed, Pool, Request, Why, without

State = Mapping[str, Any]
LOOK_SECONDS: Final = 0.3
"""How old what is known of the zone may be. The real edge takes some seconds."""
STATUS: Final[Mapping[Why, int]] = {
    "refused": 521,
    "connect": 522,
    "unreachable": 523,
    "answer": 524,
    "handshake": 525,
    "certificate": 526,
    "broken": 520,
}
FAILOVER: Final = (521, 522, 523)
"""Another origin is asked once after these ("zero-downtime failover"). The vendor's pages disagree
about the Free plan: the DNS page promises it to every proxied name, an older one to Pro and up."""


@dataclass(frozen=True)
class Site:
    """What the edge knows of one host. `authorities`: PEM of who may vouch for the origin."""

    origins: tuple[str, ...]
    ssl: str
    always_https: bool
    authorities: str


def find(state: State, host: str) -> Site | Answer:
    """The site of `host` in the Cloudflare stand-in's store, or why there is none."""
    zone = next(
        (z for z in state["zones"].values() if host == z["name"] or host.endswith(f".{z['name']}")),
        None,
    )
    if zone is None:
        return _error(409, f"no zone has {host or 'a request without a host'}", code=1001)
    records = [
        record
        for record in state["records"].values()
        if record["zone_id"] == zone["id"] and record["name"] == host
    ]
    addresses = [r for r in records if r["type"] in ("A", "AAAA")]
    if not addresses:
        others = ", ".join(sorted({r["type"] for r in records}))
        found = f"{others} records, which are not followed here" if others else "no record"
        return _error(530, f"{host} has {found}", code=1016)
    # One proxied record is enough: the vendor then proxies them all ("Round-robin DNS").
    if not any(record["proxied"] for record in addresses):
        return _error(530, f"{host} is not proxied: DNS leads past Cloudflare", code=1016)
    # Rehearsed servers have no IPv6 address that could be dialled (they are documentation's).
    origins = tuple(sorted(r["content"] for r in addresses if r["type"] == "A"))
    if not origins:
        return _error(523, f"{host} has AAAA records alone, and no IPv6 is played")
    settings = state["settings"].get(zone["id"], {})

    def setting(name: str, initial: str) -> str:
        return str(settings.get(name, {}).get("value", initial))

    return Site(
        origins=origins,
        ssl=setting("ssl", "full"),
        always_https=setting("always_use_https", "off") == "on",
        authorities="".join(a["certificate"] for a in state["authorities"].values()),
    )


def _error(status: int, why: str, code: int | None = None) -> Answer:
    return Answer.text(status, f"error code: {code or status}\n", ("X-Rehearsal", why))


def trust(mode: str, authorities: str) -> ssl.SSLContext:
    """How the edge looks at an origin's certificate: `strict` demands one of Cloudflare's Origin
    CA for the host (a public CA would do as well, and has no place here), `full` takes any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if mode != "strict":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif authorities:
        context.load_verify_locations(cadata=authorities)
    return context


class Edge:
    """A traffic.http.Handler. `reach`: where an origin's address and port really listen;
    `source`: the address that origins see."""

    def __init__(
        self,
        look: Callable[[], State],
        reach: Callable[[str, int], tuple[str, int]],
        source: str | None = None,
    ) -> None:
        self._look = look
        self._reach = reach
        self._source = source
        self._turns = itertools.count()
        self._pools: dict[tuple[str, ...], Pool] = {}  # by host and trust; empty: plain http
        self._lock = threading.Lock()
        self._known: tuple[float, State] | None = None

    def __call__(self, request: Request) -> Answer:
        ray = f"{secrets.token_hex(8)}-TST"
        site = find(self._zones(), request.host)
        if isinstance(site, Answer):
            answer = site
        elif site.always_https and not request.tls:
            to = f"https://{request.host}{request.target}"
            answer = Answer.text(301, "", ("Location", to))
        else:
            answer = self._from_origin(site, request, ray)
        headers = [*without(answer.headers, "server"), ("Server", "cloudflare"), ("CF-Ray", ray)]
        return Answer(answer.status, headers, answer.body, answer.reason)

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()

    def _zones(self) -> State:
        with self._lock:
            now = time.monotonic()
            if self._known is None or now - self._known[0] > LOOK_SECONDS:
                self._known = (now, self._look())
            return self._known[1]

    def _from_origin(self, site: Site, request: Request, ray: str) -> Answer:
        first = next(self._turns) % len(site.origins)
        turn = [*site.origins[first:], *site.origins[:first]]
        failed = _error(523, "no origin")
        for address in turn[:2]:
            try:
                return self._ask(address, site, request, ray)
            except Failed as failure:
                status = STATUS[failure.why]
                failed = _error(status, f"{address}: {failure}")
            if status not in FAILOVER:
                break
        return failed

    def _ask(self, address: str, site: Site, request: Request, ray: str) -> Answer:
        # `flexible` (and `off`) speak http to port 80; the others do as the visitor did.
        secure = request.tls and site.ssl in ("full", "strict")
        before = request.header("x-forwarded-for")
        headers = without(request.headers, "x-forwarded-for", "x-forwarded-proto")
        headers += [
            ("X-Forwarded-For", f"{before}, {request.client}" if before else request.client),
            ("X-Forwarded-Proto", "https" if request.tls else "http"),
            ("CF-Connecting-IP", request.client),
            ("CF-Ray", ray),
        ]
        key = (request.host, site.ssl, site.authorities) if secure else ()
        return self._pool(*key).send(self._reach(address, 443 if secure else 80), request, headers)

    def _pool(self, *key: str) -> Pool:
        """One for each host that is asked by TLS: each has to show its own certificate."""
        with self._lock:
            found = self._pools.get(key)
            if found is None:
                found = self._pools[key] = Pool(trust(*key[1:]) if key else None, self._source)
            return found
