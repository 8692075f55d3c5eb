"""How a registry is spoken to: patience, redirects and credentials, for every request alike.

A credential goes to the registry's own host and to nobody else: not to the object store that a
download is redirected to, not to a token service elsewhere. A request is sent again only when the
one who asks says that this changes nothing, and for some ten seconds in all.

Sources: the OCI distribution specification 1.1 and its token authentication (realm, service,
scope); Gitea v1.26.0, whose realm is /v2/token and which looks at no scope.
"""

from __future__ import annotations

import base64
import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

import httpx

from honeydue.images.registry_errors import Answer, Errors, RegistryError, Request

T = TypeVar("T")

_REDIRECTS: Final = 5
_WAITS: Final = (0.25, 0.5, 1.0, 2.0, 4.0)  # seconds before each further try
_PASSING: Final = frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class Login:
    """`password` is the registry's token; it is shown nowhere."""

    username: str
    password: str = field(repr=False)


def scheme(server: str) -> Literal["http", "https"]:
    """Plain http for a registry on loopback, as Docker, containerd and BuildKit have it."""
    return "http" if _is_loopback(_host(server)) else "https"


class Session:
    """One registry and one pool of connections. `timeout`: seconds for connecting and for each
    read or write; `patience`: after which no further try begins; `sleep` waits between tries."""

    def __init__(
        self,
        server: str,
        login: Login | None,
        *,
        timeout: float,
        patience: float,
        transport: httpx.BaseTransport | None,
        sleep: Callable[[float], None],
    ) -> None:
        self.server = server
        self._patience = patience
        self.base = httpx.URL(f"{scheme(server)}://{server}")
        self._login = login
        self._sleep = sleep
        self._challenges: dict[str, dict[str, str]] | None = None  # None: not asked yet
        self._authorizations: dict[str, str] = {}  # by scope
        secrets: set[str] = set()
        if login is not None and login.password:
            secrets |= {login.password, quote(login.password, safe=""), _basic(login)}
        username = None if login is None else login.username
        self.errors = Errors(server, self.base, username, timeout, secrets)
        self._http = httpx.Client(
            timeout=timeout,
            transport=transport,
            # A proxy of the environment may be needed to get out; it has no business on loopback.
            trust_env=self.base.scheme == "https",
            # A body that was packed on the way would not be the bytes that the digest is of.
            headers={"Accept-Encoding": "identity"},
        )

    def close(self) -> None:
        self._http.close()

    def ask(self, request: Request) -> Answer:
        """A question, asked again while that is of use."""
        return self.patiently(partial(self.once, request))

    def patiently(self, attempt: Callable[[], T]) -> T:
        """Tries again what failed in passing; `attempt` may be repeated without harm."""
        began = time.monotonic()
        waits = iter(_WAITS)
        while True:
            try:
                return attempt()
            except _Passing as passing:
                wait = max(next(waits, math.inf), passing.wait)
                if time.monotonic() - began + wait > self._patience:
                    raise passing.error from passing.__cause__
            self._sleep(wait)

    def once(self, request: Request) -> Answer:
        """One request, with what this registry wants to see for its scope. Raises _Passing."""
        if self.own(request.url) is None:  # an upload that goes to a store of its own
            return self._send(request)
        known = request.scope in self._authorizations
        answer = self._send(request.with_headers(self._authorize(request)))
        # A token that was good a while ago may have run out; one that is fresh has not.
        if answer.status == 401 and (known or not self._challenges):
            self._authorizations.pop(request.scope, None)
            self._challenges = self._challenges or _challenges(answer.headers)
            answer = self._send(request.with_headers(self._authorize(request)))
        return answer

    def _send(self, request: Request) -> Answer:
        """Sends one request and follows where a reading one is redirected to."""
        for _ in range(_REDIRECTS):
            answer = self._exchange(request)
            location = answer.headers.get("Location")
            if request.writing or not 300 <= answer.status < 400 or not location:
                return answer
            following = self.joined(request.url, location, request.doing)
            following = self.own(following) or following
            # An object store has its own credential, in the address.
            leaves = _origin(following) != _origin(request.url)
            request = request.moved(following, without="Authorization" if leaves else "")
        raise self.errors.broken(request.doing, "it was redirected again and again")

    def _exchange(self, request: Request) -> Answer:
        try:
            with self._http.stream(
                request.method, request.url, headers=request.headers, content=request.content
            ) as response:
                # A refusal's text is of use, but not more than a page of it.
                most = request.most if response.is_success else 1 << 16
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > most:
                        break
        except httpx.HTTPError as error:
            lost, again = self.errors.lost(error, request.doing)
            raise _Passing(lost, 0.0) if again else lost from error
        if response.is_success and len(body) > most:
            raise self.errors.broken(request.doing, f"more than {most} bytes came")
        answer = Answer(request, response.status_code, response.headers, bytes(body))
        if answer.status in _PASSING:
            raise _Passing(self.errors.refused(answer), _retry_after(answer.headers))
        return answer

    # Answers

    def expect(self, answer: Answer, status: int) -> None:
        if answer.status != status:
            raise self.errors.refused(answer)

    def json(self, answer: Answer) -> dict[str, Any]:
        try:
            document = json.loads(answer.body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise self.errors.broken(answer.request.doing, "the answer is not a registry's JSON")
        return document

    def joined(self, url: httpx.URL, location: str, doing: str) -> httpx.URL:
        """Where an answer of `url` points to: http or https, and never from TLS to none, unless
        it is only this registry that calls itself so."""
        try:
            found = url.join(location)
        except httpx.InvalidURL:
            found = httpx.URL()
        if found.scheme not in ("http", "https") or not found.host:
            raise self.errors.broken(doing, "it points to an address that is none")
        if url.scheme == "https" != found.scheme and self.own(found) is None:
            raise self.errors.broken(doing, "it points from https to plain http")
        return found

    def own(self, url: httpx.URL) -> httpx.URL | None:
        """`url` at this registry, with this registry's scheme; None: it is somewhere else."""
        here = self.base
        if url.host != here.host or (url.scheme == here.scheme and url.port != here.port):
            return None
        return url.copy_with(scheme=here.scheme, port=here.port)

    # Credentials

    def _authorize(self, request: Request) -> dict[str, str]:
        """The header to send for a request's scope; {} where the registry asks for none."""
        doing, scope = request.doing, request.scope
        if self._challenges is None:
            answer = self._send(Request("GET", self.base.join("/v2/"), doing))
            if answer.status == 401:
                self._challenges = _challenges(answer.headers)
                if not self._challenges:
                    raise self.errors.broken(doing, "it answers 401 and does not say what it wants")
            elif answer.status == 200:
                self._challenges = {}
            elif answer.status >= 500 or answer.status == 403:
                raise self.errors.refused(answer)
            else:
                why = f"{self.server} is no registry: its /v2/ answered {answer.status}"
                raise self.errors.broken(doing, why)
        if not self._challenges:
            return {}
        found = self._authorizations.get(scope)
        if found is None:
            bearer = self._challenges.get("bearer", {})
            found = self._bearer(bearer, request) if "realm" in bearer else self._basic(request)
            self._authorizations[scope] = found
            self.errors.secrets.add(found.partition(" ")[2])
        return {"Authorization": found}

    def _basic(self, request: Request) -> str:
        if self._login is None:
            raise self.errors.no_login(request)
        authorization = f"Basic {_basic(self._login)}"
        headers = {"Authorization": authorization}
        url = self.base.join("/v2/")
        answer = self._send(Request("GET", url, request.doing, request.scope, headers))
        if answer.status == 401:
            raise self.errors.wrong_login(answer)
        self.expect(answer, 200)
        return authorization

    def _bearer(self, challenge: Mapping[str, str], request: Request) -> str:
        doing = request.doing
        asked = {"scope": request.scope}
        if "service" in challenge:
            asked["service"] = challenge["service"]
        headers = {}
        realm = self.joined(self.base, challenge["realm"], doing)
        if self._login is not None:
            own = self._own_realm(realm)
            if own is None:
                raise self.errors.error(
                    "credentials",
                    doing,
                    f"{self.server} wants the credentials to go to another host, {realm.host}; "
                    f"nothing was sent there",
                    "set honeydue:registry.server to the name that the registry has for itself "
                    "(Gitea: ROOT_URL)",
                )
            realm = own
            asked["account"] = self._login.username
            headers["Authorization"] = f"Basic {_basic(self._login)}"
        url = realm.copy_merge_params(asked)
        answer = self._send(Request("GET", url, doing, request.scope, headers))
        if answer.status in (401, 403):
            raise self.errors.wrong_login(answer)
        self.expect(answer, 200)
        document = self.json(answer)
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise self.errors.broken(doing, f"{self.server} gave no token where it gives tokens")
        return f"Bearer {token}"

    def _own_realm(self, realm: httpx.URL) -> httpx.URL | None:
        """Where tokens are made, if it is on the registry's own host, whatever the port."""
        here = _is_loopback(self.base.host)  # one machine has many names for itself
        if here and _is_loopback(realm.host):
            return realm
        if realm.host == self.base.host and realm.scheme == self.base.scheme:
            return realm
        return self.own(realm)


class _Passing(Exception):  # noqa: N818 - a failure that may be over in a moment
    def __init__(self, error: RegistryError, wait: float) -> None:
        super().__init__(error)
        self.error = error
        self.wait = wait


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _host(server: str) -> str:
    if server.startswith("["):
        return server[1:].partition("]")[0]
    return server if server.count(":") > 1 else server.partition(":")[0]


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _basic(login: Login) -> str:
    return base64.b64encode(f"{login.username}:{login.password}".encode()).decode()


_CHALLENGE: Final = re.compile(
    r"(?P<scheme>[A-Za-z]+)(?P<parameters>(?:\s*,?\s*[A-Za-z_]+=(?:\"[^\"]*\"|[^\s,\"]+))*)"
)
_PARAMETER: Final = re.compile(r"([A-Za-z_]+)=(?:\"([^\"]*)\"|([^\s,\"]+))")


def _challenges(headers: httpx.Headers) -> dict[str, dict[str, str]]:
    """What WWW-Authenticate offers: scheme in small letters → parameters. Several may stand in
    one header or, as Gitea sends them, each in its own."""
    return {
        found["scheme"].lower(): {
            name.lower(): quoted or plain
            for name, quoted, plain in _PARAMETER.findall(found["parameters"])
        }
        for header in headers.get_list("WWW-Authenticate")
        for found in _CHALLENGE.finditer(header)
    }


def _retry_after(headers: httpx.Headers) -> float:
    """Seconds; a date, which registries do not send, counts as none."""
    value = headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0
