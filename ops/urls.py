"""The final URLs, asked the user's way: DNS, Cloudflare, Traefik, the pod. What each error on that
way means here, and which verb helps.

In a rehearsal nobody's DNS knows the names: `edge` says where to connect instead, and who signed,
as curl's `--connect-to` and `--cacert` do. Name in the certificate and in the request stay.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from honeydue.kubernetes.catalogue import WORKLOADS
from ops.engine import Edge
from ops.problems import refused
from ops.table import table

SECONDS: Final = 10.0  # for one answer
ATTEMPTS: Final = 11
PAUSE: Final = (
    3.0  # between two attempts: DNS, edge and Traefik lag behind a rollout, half a minute
)
_HOPS: Final = 5
_VERSION: Final = "/api/version"
_HEALTH: Final[Mapping[str, str]] = {
    each.name: each.health.path for each in WORKLOADS if each.health is not None
}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """`why`: what is wrong, "" when nothing is; `mend`: what to do about it. `status`: None when
    there was no answer; `ms`: how long it took, None likewise. `version`: "" when it does not
    say. `on_the_way`: whether it fails before it reaches the application, as no release causes or
    mends: between here and Cloudflare, at Cloudflare, or between Cloudflare and Traefik. `before`:
    it failed in the same way before the release, which is no reason to take that back."""

    name: str
    url: str
    status: int | None = None
    ms: int | None = None
    version: str = ""
    why: str = ""
    mend: str = ""
    tries: int = 1
    on_the_way: bool = False
    before: bool = False

    @property
    def well(self) -> bool:
        return not self.why

    @property
    def cause(self) -> str:
        """By which two failures are the same; "" when it is well."""
        return self.why and str(self.status or self.why)

    @property
    def told(self) -> str:
        return f"{self.why} (failed before this release too)" if self.before else self.why


# --- asking -------------------------------------------------------------------------------------


def check(
    urls: Mapping[str, str],
    edge: Edge | None,
    *,
    attempts: int = ATTEMPTS,
    seconds: float = SECONDS,
    pause: float = PAUSE,
    versions: bool = True,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Checked]:
    """Each of the stack's output `urls`, at once. One that fails is asked again: `attempts` in all,
    and no longer than these would take if every answer came at once. Refused: the edge's CA cannot
    be read; whatever a URL does is in what is returned."""
    if not urls:
        return []
    patience = (attempts - 1) * pause

    def one(entry: tuple[str, str]) -> Checked:
        name, base = entry
        url = base.rstrip("/") + _HEALTH.get(name, "/")
        began, tries = clock(), 1
        found = _once(http, name, url, clock)
        while not found.well and tries < attempts and clock() - began <= patience:
            sleep(pause)
            tries += 1
            found = _once(http, name, url, clock)
        if found.well and versions and name == "api":
            found = replace(found, version=_version(http, base.rstrip("/") + _VERSION))
        return replace(found, tries=tries)

    with _client(edge, seconds) as http, ThreadPoolExecutor(len(urls)) as pool:
        return list(pool.map(one, urls.items()))


def _client(edge: Edge | None, seconds: float) -> httpx.Client:
    """Follows nothing by itself, and takes a new connection each time, as a new visitor does."""
    fresh = httpx.Limits(max_keepalive_connections=0)
    if edge is None:
        return httpx.Client(timeout=seconds, trust_env=False, limits=fresh)
    try:
        tls = ssl.create_default_context(cafile=edge.ca)
    except OSError as cause:
        raise refused(
            f"the CA of the edge cannot be read: {edge.ca}: {cause.strerror or cause}",
            "HONEYDUE_EDGE names the file; in a rehearsal: python -m rehearsal edge",
        ) from None
    transport = _Through(
        edge.host, edge.port, httpx.HTTPTransport(verify=tls, trust_env=False, limits=fresh)
    )
    return httpx.Client(transport=transport, timeout=seconds, trust_env=False)


class _Through(httpx.BaseTransport):
    """Connects to one address whatever the URL says; the certificate must still be the URL's."""

    def __init__(self, host: str, port: int, inner: httpx.BaseTransport) -> None:
        self._host, self._port, self._inner = host, port, inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        # The Host header was written from the URL when the request was made.
        return self._inner.handle_request(
            httpx.Request(
                request.method,
                request.url.copy_with(host=self._host, port=self._port),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": request.url.host},
            )
        )

    def close(self) -> None:
        self._inner.close()


def _once(http: httpx.Client, name: str, url: str, clock: Callable[[], float]) -> Checked:
    began, asked = clock(), url
    host = httpx.URL(url).host
    for _ in range(_HOPS + 1):
        try:
            answer = http.get(asked)
        except httpx.HTTPError as cause:
            why, mend = _silence(cause, host, http.timeout.read or SECONDS)
            # Cloudflare takes every connection: one that is not made ended at this machine's
            # network, at DNS or there. A request that was taken may wait for the application.
            no_way = isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout)
            return Checked(name=name, url=url, why=why, mend=mend, on_the_way=no_way)
        took = round((clock() - began) * 1000)
        target = answer.next_request.url if answer.next_request is not None else None
        if target is None:
            why, mend = _meaning(answer, name)
            return Checked(
                name=name,
                url=url,
                status=answer.status_code,
                ms=took,
                why=why,
                mend=mend,
                on_the_way=_stopped_before_us(answer),
            )
        if (target.host, target.scheme) != (host, "https"):
            why, mend = f"sends users on to {target.scheme}://{target.host}", _INGRESS
            return Checked(
                name=name, url=url, status=answer.status_code, ms=took, why=why, mend=mend
            )
        asked = str(target)
    why = "redirects in a circle: does the origin redirect http to https while Cloudflare is not"
    return Checked(name=name, url=url, why=f"{why} in mode strict (dns.ssl)?", mend=_INGRESS)


def _version(http: httpx.Client, url: str) -> str:
    """What api says of itself; "" when it does not."""
    try:
        answer = http.get(url)
        said = answer.json() if answer.status_code == 200 else None
    except (httpx.HTTPError, ValueError):
        return ""
    if isinstance(said, dict):
        for key in ("version", "tag", "commit", "sha", "binary"):
            value = said.get(key)
            if isinstance(value, str) and re.fullmatch(r"[\w.:+-]{1,80}", value):
                return value.removeprefix("sha256:")[:12]
    return ""


# --- what it means ------------------------------------------------------------------------------

_INGRESS: Final = "python -m ops status; `up` writes the ingress and Cloudflare's settings anew"
_STATUS: Final = "python -m ops status shows nodes and Traefik"
_RECORDS: Final = "`up` writes the records anew; then compare them in Cloudflare's dashboard"
_FIREWALL: Final = f"{_STATUS}; `up` renews the firewall's list of Cloudflare's addresses"
_ORIGIN: Final = "`up` renews the origin's certificate; python -m ops status shows when it ends"
_NETWORK: Final = "look at this machine's network"
_LOGS: Final = "python -m ops logs {service}"

# Cloudflare's own answers (developers.cloudflare.com/support/troubleshooting, 5xx and 1xxx errors)
_CLOUDFLARE: Final[Mapping[int, tuple[str, str]]] = {
    520: ("Cloudflare got an answer from the nodes that it cannot read, or none at all", _LOGS),
    521: ("the nodes refuse Cloudflare's connection: Traefik does not run", _STATUS),
    522: (
        "Cloudflare reaches no node in time: they are down, or the firewall does not know "
        "Cloudflare's addresses",
        _FIREWALL,
    ),
    523: ("Cloudflare has no way to the addresses in DNS: the records are wrong", _RECORDS),
    524: ("the nodes took the request and gave no answer within Cloudflare's 100 s", _LOGS),
    525: (
        "Cloudflare and Traefik cannot agree on TLS: Traefik has no certificate for this name",
        _ORIGIN,
    ),
    526: (
        "Cloudflare does not accept the origin's certificate: it has ended, or is for other names",
        _ORIGIN,
    ),
    530: ("Cloudflare cannot reach the origin; its page says why (error 1xxx)", _RECORDS),
}
_BEFORE_US: Final = frozenset({429, 521, 522, 523, 525, 526, 530})
"""429: whoever limits the rate limits the one who asks so often, and not the release."""
_MITIGATED: Final = "cf-mitigated"
"""Cloudflare answered by itself, and asked nobody (developers.cloudflare.com/cloudflare-challenges,
Detect a Challenge Page response)."""
_1016: Final = (
    "Cloudflare cannot resolve the origin's name (1016): the record points to none that exists",
    _RECORDS,
)
_ANSWERS: Final[Mapping[int, tuple[str, str]]] = {
    400: ("the application refuses the request: is the name among its allowed hosts?", _LOGS),
    401: ("it asks for a login where there should be none", _LOGS),
    403: ("it, or a rule at Cloudflare, refuses the request", "Cloudflare: Security, Events"),
    404: ("nothing is there: no ingress has this name, or the path has moved", _INGRESS),
    429: ("a rule at Cloudflare, or the application, limits the rate", "wait; then ask again"),
    500: ("the application fails", _LOGS),
    502: ("Traefik gets no answer from the pod: it ends, or listens on another port", _LOGS),
    503: ("no pod of it is ready, or it says itself that its database or Redis is away", _LOGS),
    504: ("the pod gives Traefik no answer in time: it waits for its database", _LOGS),
}


def _stopped_before_us(answer: httpx.Response) -> bool:
    """Of an answer that is no success."""
    if answer.is_success:
        return False
    return answer.status_code in _BEFORE_US or _MITIGATED in answer.headers


def _meaning(answer: httpx.Response, name: str) -> tuple[str, str]:
    code = answer.status_code
    if 200 <= code < 300:
        return "", ""
    service = name if name in _HEALTH else "api"  # it serves the landing page too
    if code == 530 and "1016" in answer.text[:20_000]:
        why, mend = _1016
    elif _MITIGATED in answer.headers:
        why, mend = "Cloudflare asks whether we are human", "Cloudflare: Security, Events"
    else:
        known = _CLOUDFLARE.get(code) or _ANSWERS.get(code)
        why, mend = known or ("it answers with an error", _LOGS)
    return f"{code}: {why}", mend.format(service=service)


_CERTIFICATE: Final = "Cloudflare: SSL/TLS, Edge Certificates; is the record proxied?"
_NO_NAME: Final = r"Name or service not known|nodename nor servname|No address associated|gaierror"


def _silence(cause: httpx.HTTPError, host: str, seconds: float) -> tuple[str, str]:
    """Of a request that got no answer."""
    said = re.sub(r"^\[Errno -?\d+\] ", "", " ".join(str(cause).split())) or type(cause).__name__
    why, mend = said, _STATUS
    if isinstance(cause, httpx.ConnectTimeout):
        why, mend = f"no connection within {seconds:.0f} s", _NETWORK
    elif isinstance(cause, httpx.TimeoutException):
        why, mend = f"no answer within {seconds:.0f} s", _FIREWALL
    elif re.search(_NO_NAME, said):
        why, mend = f"DNS does not know {host}", _RECORDS
    elif "Temporary failure in name resolution" in said:
        why, mend = "this machine resolves no name at all", _NETWORK
    elif "CERTIFICATE_VERIFY_FAILED" in said:
        reason = re.sub(r"^.*certificate verify failed: | \(_ssl\.c:\d+\)$", "", said)
        why, mend = f"its certificate is not accepted: {reason}", _CERTIFICATE
    elif "SSL" in said or "TLS" in said:
        why, mend = f"TLS fails: {said}", _CERTIFICATE
    elif "refused" in said:
        why = "the connection is refused"
    elif isinstance(cause, httpx.ConnectError):
        why, mend = f"no connection: {said}", _NETWORK
    elif isinstance(cause, httpx.RemoteProtocolError | httpx.ReadError | httpx.WriteError):
        why = f"the connection broke: {said}"
    return why, mend


# --- showing ------------------------------------------------------------------------------------


def show(checked: Sequence[Checked], console: Console) -> None:
    console.print(rows(checked))
    for each in checked:
        if not each.well:
            many = f" (asked {each.tries} times)" if each.tries > 1 else ""
            grid = Table.grid(padding=(0, 2, 0, 0))
            style = "yellow" if each.before else "red"
            grid.add_row(Text(each.name, style), Text(f"{each.told}{many}", style))
            grid.add_row(Text("do", "dim"), each.mend)
            console.print(Padding(grid, (0, 0, 0, 2)))


def rows(checked: Sequence[Checked]) -> Any:
    """A table: URL, status, latency, version."""
    made = table("URL", "Status", "Latency", "Version")
    for each in checked:
        style = "green" if each.well else "yellow" if each.before else "red"
        status = Text(str(each.status or "none"), style)
        ms = "-" if each.ms is None else f"{each.ms} ms"
        made.add_row(Text(each.url), status, Text(ms), Text(each.version or "-"))
    return made


def document(checked: Sequence[Checked]) -> list[dict[str, Any]]:
    """For `--json`."""
    return [
        {
            "name": each.name,
            "url": each.url,
            "ok": each.well,
            "status": each.status,
            "milliseconds": each.ms,
            "version": each.version or None,
            "why": each.why or None,
            "do": each.mend or None,
            "tries": each.tries,
            "failedBefore": each.before,
        }
        for each in checked
    ]
