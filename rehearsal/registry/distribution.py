"""A registry as its clients speak to it: the distribution protocol with the Bearer token flow.

    image = Reference.parse("127.0.0.1:3000/admin/honeydue-api@sha256:…")
    with Registry(image, "admin", token) as registry:
        manifest = registry.manifest("sha256:…")

A registry on loopback is spoken to by plain http, every other one by https: the rule of Docker,
containerd and BuildKit.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self

import httpx

TIMEOUT: Final = 30.0  # seconds to connect, and between two pieces of an answer
MANIFEST_LIMIT: Final = 4 << 20  # bytes; registries take no larger manifests
MANIFEST_TYPES: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)

_TAG: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST: Final = r"sha256:[0-9a-f]{64}"
_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_SERVER: Final = r"(?:localhost|\[[0-9a-fA-F:]+\]|[A-Za-z0-9-]+(?=[.:])[A-Za-z0-9.-]*)(?::[0-9]+)?"
_REFERENCE: Final = re.compile(
    rf"(?P<server>{_SERVER})/(?P<repository>{_PART}(?:/{_PART})*)"
    rf"(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?"
)


class RegistryError(Exception):
    """What the registry answered, in words. `status`: its HTTP status, None when it gave none."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status

    @property
    def refused(self) -> bool:
        return self.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}

    @property
    def missing(self) -> bool:
        return self.status == HTTPStatus.NOT_FOUND


@dataclass(frozen=True)
class Reference:
    """`server/repository[:tag][@digest]`; empty: not given."""

    server: str
    repository: str
    tag: str = ""
    digest: str = ""

    @staticmethod
    def parse(text: str) -> Reference:
        """Raises ValueError, also for a short name (`alpine:3`): nobody knows whose it is."""
        found = _REFERENCE.fullmatch(text)
        if found is None:
            raise ValueError(
                f"{text!r} is not an image reference `server/repository[:tag][@digest]`"
            )
        return Reference(**{name: value or "" for name, value in found.groupdict().items()})


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def is_loopback(server: str) -> bool:
    host = server.rpartition(":")[0] if re.search(r":\d+$", server) else server
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Answer:
    """`type`: its media type; `digest`: what its bytes have, not what the registry says."""

    body: bytes
    type: str
    digest: str


class Registry:
    """One repository of one registry, with one user's credentials or none."""

    def __init__(self, reference: Reference, username: str = "", password: str = "") -> None:
        self.server = reference.server
        self.repository = reference.repository
        self._login = httpx.BasicAuth(username, password) if password else None
        self._authorization = ""
        scheme = "http" if is_loopback(self.server) else "https"
        self._http = httpx.Client(
            base_url=f"{scheme}://{self.server}/v2/{self.repository}/",
            timeout=TIMEOUT,
            # As they are: a digest is of the bytes that were sent.
            headers={"Accept-Encoding": "identity"},
            # Blobs may be in a store of their own; httpx does not show it our token.
            follow_redirects=True,
            trust_env=not is_loopback(self.server),  # no proxy stands before loopback
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._http.close()

    def manifest(self, tag_or_digest: str) -> Answer:
        """Raises RegistryError."""
        with self._ask(
            "GET", f"manifests/{tag_or_digest}", {"Accept": ", ".join(MANIFEST_TYPES)}
        ) as answer:
            body = b""
            for piece in self._pieces(answer):
                body += piece
                if len(body) > MANIFEST_LIMIT:
                    raise RegistryError(f"{self.server}: {tag_or_digest} is no manifest: too large")
        type_ = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        return Answer(body, type_, digest_of(body))

    def blob(self, digest: str) -> Iterator[bytes]:
        """Its bytes, piece by piece, unverified. Raises RegistryError."""
        with self._ask("GET", f"blobs/{digest}", {}) as answer:
            yield from self._pieces(answer)

    def delete_manifest(self, digest: str) -> None:
        """Raises RegistryError."""
        with self._ask("DELETE", f"manifests/{digest}", {}) as answer:
            answer.read()

    @contextmanager
    def _ask(self, method: str, path: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """An answer of the 200s, its body not read yet. Raises RegistryError."""
        try:
            for attempt in ("first", "with credentials"):
                if self._authorization:
                    headers = headers | {"Authorization": self._authorization}
                request = self._http.build_request(method, path, headers=headers)
                answer = self._http.send(request, stream=True)
                try:
                    challenge = answer.headers.get("WWW-Authenticate", "")
                    unauthorized = answer.status_code == HTTPStatus.UNAUTHORIZED
                    if unauthorized and attempt == "first" and challenge:
                        answer.read()
                        self._authorization = self._authorize(challenge)
                        continue
                    if not answer.is_success:
                        raise self._refusal(answer, path)
                    yield answer
                    return
                finally:
                    answer.close()
        except httpx.HTTPError as error:
            raise RegistryError(f"{self.server} does not answer: {_words(error)}") from None

    def _authorize(self, challenge: str) -> str:
        """The Authorization header that is asked for; Gitea offers Bearer and Basic."""
        bearer = re.search(r"\bBearer (.*)", challenge, re.IGNORECASE)
        if bearer is None:
            if self._login is None:
                raise RegistryError(f"{self.server} asks for credentials", HTTPStatus.UNAUTHORIZED)
            request = httpx.Request("GET", self._http.base_url)
            return next(self._login.auth_flow(request)).headers["Authorization"]
        # What comes after its own belongs to the next offer.
        asked = dict(reversed(re.findall(r'(\w+)="([^"]*)"', bearer[1])))
        if "realm" not in asked:
            raise RegistryError(f"{self.server} asks for a token and does not say where to get it")
        wanted = {name: asked[name] for name in ("service", "scope") if name in asked}
        # `auth=None` would let httpx look for a .netrc of the operator's.
        answer = self._http.get(asked["realm"], params=wanted, auth=self._login or httpx.Auth())
        if not answer.is_success:
            refusal = self._refusal(answer, "a token")
            raise refusal if refusal.refused else RegistryError(str(refusal))
        said = answer.json()
        return f"Bearer {said.get('token') or said.get('access_token') or ''}"

    def _pieces(self, answer: httpx.Response) -> Iterator[bytes]:
        try:
            yield from answer.iter_raw()
        except httpx.HTTPError as error:
            raise RegistryError(f"{self.server} broke off: {_words(error)}") from None

    def _refusal(self, answer: httpx.Response, what: str) -> RegistryError:
        status = answer.status_code
        name = HTTPStatus(status).phrase if status in set(HTTPStatus) else "unknown"
        return RegistryError(f"{self.server} answers {status} ({name}) for {what}", status)


def _words(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
