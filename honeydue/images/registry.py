"""A client of the OCI distribution API: what the program, signing and `ops` ask of a registry.

    with Registry("gitea.treytartt.com", Login("admin", token)) as registry:
        registry.digest("admin/honeydue-api", "237c6b8")      # "sha256:…", or None

It trusts nothing that can be checked: every body is hashed against the digest that was asked for
or announced. A credential goes to the registry's own host and nowhere else, not to the object
store that a download is redirected to. A request is repeated only where repeating changes nothing,
for some ten seconds in all. What fails is a `RegistryError` that an operator can act on.

Sources: the OCI distribution specification 1.1; for what Gitea answers, its v1.26.0:
`routers/api/packages/api.go`, `routers/api/packages/container/`, `services/packages/packages.go`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from functools import partial
from ipaddress import ip_address
from itertools import takewhile
from socket import EAI_AGAIN, gaierror
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar
from urllib.parse import quote

import httpx

T = TypeVar("T")
Kind = Literal["unreachable", "credentials", "scope", "broken", "full"]

DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_ACCEPT: Final = ", ".join(
    (
        OCI_MANIFEST,
        OCI_INDEX,
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)

LARGEST_MANIFEST: Final = 4 << 20  # bytes; what the specification asks a registry to accept
LARGEST_BLOB: Final = 256 << 20  # bytes; what is read here is configurations, SBOMs and reports
_REDIRECTS: Final = 5
_TAGS_A_PAGE: Final = 1000  # the most that the reference implementation gives at once
_PAGES: Final = 1000

_WAITS: Final = (0.25, 0.5, 1.0, 2.0, 4.0)  # seconds before each further try
_PATIENCE: Final = 10.0  # seconds after which no further try begins
_PASSING: Final = frozenset({429, 502, 503, 504})


def scheme(server: str) -> Literal["http", "https"]:
    """Plain http for a registry on loopback, as Docker, containerd and BuildKit have it."""
    return "http" if _is_loopback(_host(server)) else "https"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


_NO_RELEASE: Final = re.compile(r"buildcache|sha256-[0-9a-f]{64}(\.(sig|att|sbom))?")


def nearest(tag: str, tags: Iterable[str], n: int = 3) -> list[str]:
    """The `n` existing tags most like a missing one: longest common beginning first (a commit's
    short name grows with the repository), then likeness. No layer cache, no signatures."""

    def unlikeness(other: str) -> tuple[int, float, str]:
        likeness = SequenceMatcher(None, tag, other, autojunk=False).ratio()
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(tag, other, strict=False))
        return -len(list(alike)), -likeness, other

    return sorted((t for t in set(tags) if not _NO_RELEASE.fullmatch(t)), key=unlikeness)[:n]


@dataclass(frozen=True)
class Login:
    """`password` is the registry's token; it is shown nowhere."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Manifest:
    """`digest` is that of `body`, which is kept byte by byte; `media_type` without parameters."""

    digest: str
    media_type: str
    body: bytes


@dataclass(frozen=True)
class Descriptor:
    """A blob as a manifest refers to it; `size` in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)


class RegistryError(Exception):
    """What the registry did not do, why, and the line that mends it; never a secret.

    `kind`: "unreachable": down, or too slow; "credentials": there are none, or they are wrong or
    revoked; "scope": they are right and do not suffice; "full": no room, or a quota;
    "broken": an answer that a registry does not give. A caller that knows a better `mend` (the
    stack's name) sets it.
    """

    def __init__(self, kind: Kind, why: str, mend: str) -> None:
        super().__init__(kind, why, mend)
        self.kind = kind
        self.why = why
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.why}\n    mend   {self.mend}"


class Registry:
    """One registry, spoken to over one pool of connections.

    `repository` is everything between server and tag ("admin/honeydue-api"), `reference` a tag or
    a digest. `timeout`: seconds for connecting and for each read or write. Every method raises
    RegistryError, and nothing else, for what the registry does.
    """

    def __init__(
        self,
        server: str,
        login: Login | None,
        *,
        timeout: float = 15.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.server = server
        self._login = login
        self._sleep = sleep
        self._timeout = timeout
        self._base = httpx.URL(f"{scheme(server)}://{server}")
        self._challenges: dict[str, dict[str, str]] | None = None  # None: not asked yet
        self._authorizations: dict[str, str] = {}  # by scope
        self._secrets: set[str] = set()
        if login is not None and login.password:
            self._secrets |= {login.password, quote(login.password, safe=""), _basic(login)}
        self._http = httpx.Client(
            timeout=timeout,
            transport=transport,
            # A proxy of the environment may be needed to get out; it has no business on loopback.
            trust_env=self._base.scheme == "https",
            # A body that was packed on the way would not be the bytes that the digest is of.
            headers={"Accept-Encoding": "identity"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    # Asking

    def digest(self, repository: str, reference: str) -> str | None:
        """The digest that a tag has now (or of a manifest that is there); None: not there."""
        doing = f"asking for {_named(repository, reference)}"
        url = self._url(repository, f"manifests/{reference}")
        answer = self._ask(_Request("HEAD", url, doing, _pull(repository)))
        if answer.status == 404:
            return None
        self._expect(answer, 200)
        announced = answer.headers.get("Docker-Content-Digest")
        if announced is None:  # a header that the specification only recommends
            manifest = self.manifest(repository, reference)
            return None if manifest is None else manifest.digest
        return self._checked(announced, reference, doing)

    def manifest(self, repository: str, reference: str) -> Manifest | None:
        """A manifest or an index, its bytes checked; None: not there."""
        doing = f"fetching {_named(repository, reference)}"
        url = self._url(repository, f"manifests/{reference}")
        answer = self._ask(_Request("GET", url, doing, _pull(repository)))
        if answer.status == 404:
            return None
        self._expect(answer, 200)
        found = digest_of(answer.body)
        announced = answer.headers.get("Docker-Content-Digest", found)
        if (wanted := self._checked(announced, reference, doing)) != found:
            raise self._other_bytes(doing, wanted, found)
        media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        media_type = media_type or str(self._json(answer).get("mediaType", OCI_MANIFEST))
        return Manifest(found, media_type, answer.body)

    def tags(self, repository: str) -> list[str]:
        """Every tag, in the registry's order; [] when there is no such repository."""
        doing = f"listing the tags of {repository}"
        url = self._url(repository, f"tags/list?n={_TAGS_A_PAGE}")
        found: dict[str, None] = {}
        for _ in range(_PAGES):
            answer = self._ask(_Request("GET", url, doing, _pull(repository), most=LARGEST_BLOB))
            if answer.status == 404:
                return list(found)
            self._expect(answer, 200)
            page = self._json(answer).get("tags") or []
            if not isinstance(page, list) or not all(isinstance(tag, str) for tag in page):
                raise self._broken(doing, "what came is no list of tags")
            found |= dict.fromkeys(page)
            # Gitea sends a link after every page that has a tag, the last one too.
            following = _next_page(answer.headers.get("Link", ""))
            if following is None or not page:
                return list(found)
            own = self._own(self._joined(url, following, doing))
            if own is None:
                raise self._broken(doing, "the next page would be on another host")
            url = own
        raise self._broken(doing, "the pages do not end")

    def blob(self, repository: str, digest: str) -> bytes:
        """The bytes of a blob, checked; at most LARGEST_BLOB of them. One that is not there is
        "broken": digests of blobs come from manifests, so the registry has lost it."""
        doing = f"fetching {_named(repository, digest)}"
        if not DIGEST.fullmatch(digest):
            raise self._broken(doing, "this is no sha256 digest")
        url = self._url(repository, f"blobs/{digest}")
        answer = self._ask(_Request("GET", url, doing, _pull(repository), most=LARGEST_BLOB))
        if answer.status == 404:
            raise self._broken(doing, f"{self.server} does not have this blob")
        self._expect(answer, 200)
        if (found := digest_of(answer.body)) != digest:
            raise self._other_bytes(doing, digest, found)
        return answer.body

    # Pushing

    def push_blob(self, repository: str, data: bytes, media_type: str) -> Descriptor:
        """Stores `data` unless it is there. To push it again is harmless."""
        digest = digest_of(data)
        doing = f"pushing {len(data)} bytes to {repository}"
        scope = _push(repository)

        def push() -> None:
            # Asked before every try: an answer may have been lost after the blob was stored.
            url = self._url(repository, f"blobs/{digest}")
            there = self._once(_Request("HEAD", url, doing, scope))
            if there.status == 200:
                return
            self._expect(there, 404)
            begin = _Request("POST", self._url(repository, "blobs/uploads/"), doing, scope)
            begun = self._once(begin)
            self._expect(begun, 202)
            if not (location := begun.headers.get("Location")):
                raise self._broken(doing, f"{self.server} did not say where to upload to")
            # Behind a proxy a registry may call itself http: its own host stays as it is here.
            url = self._joined(begin.url, location, doing)
            url = (self._own(url) or url).copy_merge_params({"digest": digest})
            octets = {"Content-Type": "application/octet-stream"}
            self._expect(self._once(_Request("PUT", url, doing, scope, octets, data)), 201)

        self._patiently(push)
        return Descriptor(media_type, digest, len(data))

    def push_manifest(self, repository: str, reference: str, body: bytes, media_type: str) -> str:
        """Stores a manifest under a tag or its own digest, which it returns. To push it again is
        harmless; a tag that had other bytes has these from now on."""
        digest = digest_of(body)
        doing = f"pushing {_named(repository, reference)}"
        if reference.startswith("sha256:") and reference != digest:
            raise ValueError(f"the manifest has the digest {digest}, not {reference}")
        url = self._url(repository, f"manifests/{reference}")
        kind = {"Content-Type": media_type}
        answer = self._ask(_Request("PUT", url, doing, _push(repository), kind, body))
        self._expect(answer, 201)
        announced = answer.headers.get("Docker-Content-Digest", digest)
        if announced != digest:
            raise self._other_bytes(doing, digest, announced)
        return digest

    # Requests

    def _url(self, repository: str, rest: str) -> httpx.URL:
        return self._base.join(f"/v2/{repository}/{rest}")

    def _joined(self, url: httpx.URL, location: str, doing: str) -> httpx.URL:
        """Where an answer of `url` points to."""
        try:
            return url.join(location)
        except httpx.InvalidURL:
            raise self._broken(doing, "it points to an address that is none") from None

    def _own(self, url: httpx.URL) -> httpx.URL | None:
        """`url` at this registry, with this registry's scheme; None: it is somewhere else."""
        here = self._base
        if url.host != here.host or (url.scheme == here.scheme and url.port != here.port):
            return None
        return url.copy_with(scheme=here.scheme, port=here.port)

    def _ask(self, request: _Request) -> _Answer:
        """A question, asked again while that is of use."""
        return self._patiently(partial(self._once, request))

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Tries again what failed in passing; `attempt` may be repeated without harm."""
        began = time.monotonic()
        waits = iter(_WAITS)
        while True:
            try:
                return attempt()
            except _Passing as passing:
                wait = max(next(waits, math.inf), passing.wait)
                if time.monotonic() - began + wait > _PATIENCE:
                    raise passing.error from passing.__cause__
            self._sleep(wait)

    def _once(self, request: _Request) -> _Answer:
        """One request, with what this registry wants to see for its scope. Raises _Passing."""
        if self._own(request.url) is None:  # an upload that goes to a store of its own
            return self._send(request)
        known = request.scope in self._authorizations
        answer = self._send(request.with_headers(self._authorize(request)))
        # A token that was good a while ago may have run out; one that is fresh has not.
        if answer.status == 401 and (known or not self._challenges):
            self._authorizations.pop(request.scope, None)
            self._challenges = self._challenges or _challenges(answer.headers)
            answer = self._send(request.with_headers(self._authorize(request)))
        return answer

    def _send(self, request: _Request) -> _Answer:
        """Sends one request and follows where a reading one is redirected to."""
        for _ in range(_REDIRECTS):
            answer = self._exchange(request)
            location = answer.headers.get("Location")
            if request.writing or not 300 <= answer.status < 400 or not location:
                return answer
            following = self._joined(request.url, location, request.doing)
            if request.url.scheme == "https" != following.scheme:
                raise self._broken(request.doing, "it was redirected to plain http")
            # An object store has its own credential, in the address.
            leaves = _origin(following) != _origin(request.url)
            request = request.moved(following, without="Authorization" if leaves else "")
        raise self._broken(request.doing, "it was redirected again and again")

    def _exchange(self, request: _Request) -> _Answer:
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
            raise self._lost(error, request.doing) from error
        except httpx.InvalidURL as error:
            raise self._broken(
                request.doing, "the registry named an address that is none"
            ) from error
        if response.is_success and len(body) > most:
            raise self._broken(request.doing, f"more than {most} bytes came")
        answer = _Answer(request, response.status_code, response.headers, bytes(body))
        if answer.status in _PASSING:
            raise _Passing(self._refused(answer), _retry_after(answer.headers))
        return answer

    # Credentials

    def _authorize(self, request: _Request) -> dict[str, str]:
        """The header to send for a request's scope; {} where the registry asks for none."""
        doing, scope = request.doing, request.scope
        if self._challenges is None:
            answer = self._send(_Request("GET", self._base.join("/v2/"), doing))
            if answer.status == 401:
                self._challenges = _challenges(answer.headers)
                if not self._challenges:
                    raise self._broken(doing, "it answers 401 and does not say what it wants")
            elif answer.status == 200:
                self._challenges = {}
            elif answer.status >= 500 or answer.status == 403:
                raise self._refused(answer)
            else:
                why = f"{self.server} is no registry: its /v2/ answered {answer.status}"
                raise self._broken(doing, why)
        if not self._challenges:
            return {}
        if scope not in self._authorizations:
            bearer = self._challenges.get("bearer", {})
            found = self._bearer(bearer, request) if "realm" in bearer else self._basic(request)
            self._authorizations[scope] = found
            self._secrets.add(found.partition(" ")[2])
        return {"Authorization": self._authorizations[scope]}

    def _basic(self, request: _Request) -> str:
        if self._login is None:
            raise self._no_login(request)
        authorization = f"Basic {_basic(self._login)}"
        headers = {"Authorization": authorization}
        url = self._base.join("/v2/")
        answer = self._send(_Request("GET", url, request.doing, request.scope, headers))
        if answer.status == 401:
            raise self._wrong_login(answer)
        self._expect(answer, 200)
        return authorization

    def _bearer(self, challenge: Mapping[str, str], request: _Request) -> str:
        doing = request.doing
        asked = {"scope": request.scope}
        if "service" in challenge:
            asked["service"] = challenge["service"]
        headers = {}
        realm = self._joined(self._base, challenge["realm"], doing)
        if self._login is not None:
            # One machine has many names for itself.
            here = _is_loopback(realm.host) and _is_loopback(self._base.host)
            own = realm if here else self._own(realm)
            if own is None:
                raise self._error(
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
        answer = self._send(_Request("GET", url, doing, request.scope, headers))
        if answer.status in (401, 403):
            raise self._wrong_login(answer)
        self._expect(answer, 200)
        document = self._json(answer)
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise self._broken(doing, f"{self.server} gave no token where it gives tokens")
        return f"Bearer {token}"

    # Answers

    def _expect(self, answer: _Answer, status: int) -> None:
        if answer.status != status:
            raise self._refused(answer)

    def _refused(self, answer: _Answer) -> RegistryError:
        """What an answer other than the wanted one means to the operator."""
        status, request = answer.status, answer.request
        words = self._words(answer)
        said = f"{self.server} answered {status}" + (f" ({words})" if words else "")
        kind: Kind = "broken"
        mend = self._look()
        if status == 507 or _NO_ROOM.search(words):
            kind, said, mend = "full", f"it has no room: {said}", _ROOM
        elif request.writing and status in _WORDLESS and not words:
            kind, mend = "full", f"see the log of {self.server}; {_ROOM}"
            said += f" without a word, as Gitea does when {_WORDLESS[status]}"
        elif status in (401, 403) and self._login is None:
            return self._no_login(request)
        elif status in (401, 403) and self._login is not None:
            kind, mend = "scope", self._token(request)
            said += (
                f", although it knows the token of {self._login.username}: the token lacks "
                f"{request.needs}, or its owner has no right to do this there"
            )
        elif status == 413:
            said += ": it, or a proxy before it, takes no body of this size"
            mend = "raise the proxy's limit (nginx: client_max_body_size 0;)"
        elif status == 404 and request.writing:
            mend = f"honeydue:registry.namespace must be a user or organisation of {self.server}"
        elif status == 429 or status >= 500:
            kind = "unreachable"
        return self._error(kind, request.doing, said, mend)

    def _lost(self, error: httpx.HTTPError, doing: str) -> Exception:
        """What became of a request that got no answer; _Passing if another try may get one."""
        final = False
        if (tls := _caused_by(error, ssl.SSLError)) is not None:
            final = True
            if isinstance(tls, ssl.SSLCertVerificationError):
                why = f"the certificate of {self.server} is not good: {tls.verify_message}"
            else:
                why = f"{self.server} does not speak TLS as it should: {self._line(str(tls))}"
        elif (name := _caused_by(error, gaierror)) is not None:
            final = name.errno != EAI_AGAIN
            why = f"the name {self._base.host} cannot be resolved"
        elif _caused_by(error, httpx.InvalidURL) is not None:  # httpx looks at Location first
            return self._broken(doing, "it points to an address that is none")
        elif _caused_by(error, ConnectionRefusedError) is not None:
            why = f"{self.server} refuses connections: the registry is down"
        elif isinstance(error, httpx.TimeoutException):
            why = f"{self.server} did not answer within {self._timeout:g} s"
        elif isinstance(error, httpx.ConnectError | httpx.ProxyError):
            why = f"no connection to {self.server}: {self._line(str(error))}"
        elif isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
            why = f"{self.server} closed the connection before it had answered"
        else:
            return self._broken(doing, f"this is no answer of a registry: {type(error).__name__}")
        lost = self._error("unreachable", doing, why, self._look())
        return lost if final else _Passing(lost, 0.0)

    def _checked(self, announced: str, reference: str, doing: str) -> str:
        """The announced digest, if it is one and is that of a reference that is a digest."""
        if not DIGEST.fullmatch(announced):
            raise self._broken(doing, "the registry announced no sha256 digest")
        if reference.startswith("sha256:") and announced != reference:
            raise self._other_bytes(doing, reference, announced)
        return announced

    def _json(self, answer: _Answer) -> dict[str, Any]:
        try:
            document = json.loads(answer.body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise self._broken(answer.request.doing, "the answer is not a registry's JSON")
        return document

    # Errors

    def _error(self, kind: Kind, doing: str, why: str, mend: str) -> RegistryError:
        return RegistryError(kind, f"{doing} failed: {why}", mend)

    def _broken(self, doing: str, why: str) -> RegistryError:
        return self._error("broken", doing, why, self._look())

    def _other_bytes(self, doing: str, wanted: str, found: str) -> RegistryError:
        return self._error(
            "broken",
            doing,
            f"the bytes are not those of their digest: {wanted} was wanted, {found} came",
            f"use none of them; push the image again, and if this repeats look at the storage of "
            f"{self.server} and at what lies between",
        )

    def _no_login(self, request: _Request) -> RegistryError:
        why = f"{self.server} wants credentials and there are none"
        return self._error("credentials", request.doing, why, self._token(request))

    def _wrong_login(self, answer: _Answer) -> RegistryError:
        if self._login is None:
            return self._no_login(answer.request)
        words = self._words(answer)
        why = (
            f"{self.server} does not accept the token of {self._login.username} (it answered "
            f"{answer.status}{': ' if words else ''}{words}): the token is wrong, has expired or "
            f"was revoked, or is for no packages at all"
        )
        return self._error("credentials", answer.request.doing, why, self._token(answer.request))

    def _token(self, request: _Request) -> str:
        mend = f"set honeydue:registry.token to a token with {request.needs}"
        if self._base.scheme == "http":
            return mend
        return f"{mend}, made at https://{self.server}/-/user/settings/applications"

    def _look(self) -> str:
        return (
            f"see what {self._base.join('/v2/')} answers; the registry's name is the setting "
            f"honeydue:registry.server"
        )

    def _words(self, answer: _Answer) -> str:
        """What the server said itself: one short line, or nothing."""
        text = answer.body.decode(errors="replace")
        try:
            document = json.loads(text)
        except ValueError:
            # A page of HTML is a proxy's, and says nothing that the status does not.
            return "" if "<" in text else self._line(text)
        if isinstance(document, dict):
            errors = document.get("errors")
            first = errors[0] if isinstance(errors, list) and errors else document
            if isinstance(first, dict):
                parts = [first.get(key) for key in ("code", "message", "details", "detail")]
                return self._line(": ".join(p for p in parts if isinstance(p, str) and p))
        return ""

    def _line(self, text: str) -> str:
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        lines = "".join(c if c.isprintable() else "\n" for c in text).splitlines()
        line = next((line.strip() for line in lines if line.strip()), "")
        return line if len(line) <= 200 else line[:199] + "…"


@dataclass(frozen=True)
class _Request:
    """`doing`: what it is for, in the operator's words; `most`: bytes that a body may have."""

    method: str
    url: httpx.URL
    doing: str
    scope: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: {"Accept": _ACCEPT})
    content: bytes | None = None
    most: int = LARGEST_MANIFEST

    @property
    def writing(self) -> bool:
        return self.method not in ("GET", "HEAD")

    @property
    def needs(self) -> str:
        """The scope that Gitea wants to see; to write includes to read."""
        return "write:package" if self.scope.endswith("push") else "read:package"

    def with_headers(self, more: Mapping[str, str]) -> _Request:
        return replace(self, headers={**self.headers, **more})

    def moved(self, url: httpx.URL, *, without: str) -> _Request:
        kept = {name: value for name, value in self.headers.items() if name != without}
        return replace(self, url=url, headers=kept)


@dataclass(frozen=True)
class _Answer:
    request: _Request
    status: int
    headers: httpx.Headers
    body: bytes


class _Passing(Exception):  # noqa: N818 - a failure that may be over in a moment
    def __init__(self, error: RegistryError, wait: float) -> None:
        super().__init__(error)
        self.error = error
        self.wait = wait


_ROOM: Final = (
    "make room there, or raise its limits; `python -m ops images prune` deletes old releases"
)
# What Gitea's container.go says nothing about but in its own log: apiError sends no body. A token
# without the scope is a 401 there (reqPackageAccess in api.go), so its 403 is a quota.
_WORDLESS: Final = {500: "its disk is full", 403: "a quota is used up"}
_NO_ROOM: Final = re.compile(
    r"no space left|disk (is )?full|disk quota|quota|insufficient storage|ENOSPC", re.IGNORECASE
)


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


def _named(repository: str, reference: str) -> str:
    return f"{repository}{'@' if reference.startswith('sha256:') else ':'}{reference}"


def _pull(repository: str) -> str:
    return f"repository:{repository}:pull"


def _push(repository: str) -> str:
    return f"repository:{repository}:pull,push"


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


def _next_page(link: str) -> str | None:
    found = re.search(r"<([^<>]+)>\s*;\s*rel=\"?next\"?", link)
    return found[1] if found else None


def _retry_after(headers: httpx.Headers) -> float:
    """Seconds; a date, which registries do not send, counts as none."""
    value = headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0


E = TypeVar("E", bound=BaseException)


def _caused_by(error: BaseException | None, kind: type[E]) -> E | None:
    """The first of `kind` in the chain of an exception's causes."""
    while error is not None:
        if isinstance(error, kind):
            return error
        error = error.__cause__ or error.__context__
    return None
