"""A client of the OCI distribution API: what the program, signing and `ops` ask of a registry.

    with Registry("gitea.treytartt.com", Login("admin", token)) as registry:
        registry.digest("admin/honeydue-api", "237c6b8")      # "sha256:…", or None

It trusts nothing that can be checked: every body is hashed against the digest that was asked for
or announced. What fails is a RegistryError that an operator can act on (registry_errors); how
patience, redirects and credentials are dealt with stands in registry_session.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import takewhile
from types import TracebackType
from typing import Final, Self

import httpx

from honeydue.images.references import CACHE_TAG
from honeydue.images.registry_errors import Kind, RegistryError, Request
from honeydue.images.registry_session import Login, Session, scheme

__all__ = [
    "DIGEST",
    "LARGEST_BLOB",
    "OCI_INDEX",
    "OCI_MANIFEST",
    "Descriptor",
    "Kind",
    "Login",
    "Manifest",
    "Registry",
    "RegistryError",
    "digest_of",
    "nearest",
    "scheme",
]

DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
_DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
_ACCEPT: Final = {"Accept": ", ".join((OCI_MANIFEST, OCI_INDEX, _DOCKER_MANIFEST, _DOCKER_INDEX))}

LARGEST_BLOB: Final = 256 << 20  # bytes; what is read here is configurations, SBOMs and reports
_TAGS_A_PAGE: Final = 1000  # the most that the reference implementation gives at once
_PAGES: Final = 1000


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


_NO_RELEASE: Final = re.compile(CACHE_TAG + r"|sha256-[0-9a-f]{64}(\.(sig|att|sbom|pin))?")


def nearest(tag: str, tags: Iterable[str], n: int = 3) -> list[str]:
    """The `n` existing tags most like a missing one: longest common beginning first (a commit's
    short name grows with the repository), then likeness. No layer cache, no signatures."""

    def unlikeness(other: str) -> tuple[int, float, str]:
        likeness = SequenceMatcher(None, tag, other, autojunk=False).ratio()
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(tag, other, strict=False))
        return -len(list(alike)), -likeness, other

    return sorted((t for t in set(tags) if not _NO_RELEASE.fullmatch(t)), key=unlikeness)[:n]


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


class Registry:
    """One registry, spoken to over one pool of connections.

    `repository` is everything between server and tag ("admin/honeydue-api"), `reference` a tag or
    a digest. `timeout`: seconds for connecting and for each read or write; `patience`: after which
    what failed in passing is not tried again. Every method raises
    RegistryError, and nothing else, for what the registry does.
    """

    def __init__(
        self,
        server: str,
        login: Login | None,
        *,
        timeout: float = 15.0,
        patience: float = 10.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.server = server
        self._session = Session(
            server, login, timeout=timeout, patience=patience, transport=transport, sleep=sleep
        )
        self._errors = self._session.errors

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session.close()

    # Asking

    def digest(self, repository: str, reference: str) -> str | None:
        """The digest that a tag has now (or of a manifest that is there); None: not there."""
        doing = f"asking for {_named(repository, reference)}"
        url = self._url(repository, f"manifests/{reference}")
        answer = self._session.ask(Request("HEAD", url, doing, _pull(repository), _ACCEPT))
        if answer.status == 404:
            return None
        self._session.expect(answer, 200)
        announced = answer.headers.get("Docker-Content-Digest")
        if announced is None:  # a header that the specification only recommends
            manifest = self.manifest(repository, reference)
            return None if manifest is None else manifest.digest
        return self._checked(announced, reference, doing)

    def manifest(self, repository: str, reference: str) -> Manifest | None:
        """A manifest or an index, its bytes checked; None: not there."""
        doing = f"fetching {_named(repository, reference)}"
        url = self._url(repository, f"manifests/{reference}")
        answer = self._session.ask(Request("GET", url, doing, _pull(repository), _ACCEPT))
        if answer.status == 404:
            return None
        self._session.expect(answer, 200)
        found = digest_of(answer.body)
        announced = answer.headers.get("Docker-Content-Digest", found)
        if (wanted := self._checked(announced, reference, doing)) != found:
            raise self._errors.other_bytes(doing, wanted, found)
        document = self._session.json(answer)  # a page that asks to log in is none
        media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        media_type = media_type or str(document.get("mediaType", OCI_MANIFEST))
        return Manifest(found, media_type, answer.body)

    def tags(self, repository: str) -> list[str]:
        """Every tag, in the registry's order; [] when there is no such repository."""
        doing, scope = f"listing the tags of {repository}", _pull(repository)
        url = self._url(repository, f"tags/list?n={_TAGS_A_PAGE}")
        found: dict[str, None] = {}
        for _ in range(_PAGES):
            answer = self._session.ask(Request("GET", url, doing, scope, most=LARGEST_BLOB))
            if answer.status == 404:
                return list(found)
            self._session.expect(answer, 200)
            page = self._session.json(answer).get("tags") or []
            if not isinstance(page, list) or not all(isinstance(tag, str) for tag in page):
                raise self._errors.broken(doing, "what came is no list of tags")
            found |= dict.fromkeys(page)
            # Gitea sends a link after every page that has a tag, the last one too.
            following = _next_page(answer.headers.get("Link", ""))
            if following is None or not page:
                return list(found)
            own = self._session.own(self._session.joined(url, following, doing))
            if own is None:
                raise self._errors.broken(doing, "the next page would be on another host")
            url = own
        raise self._errors.broken(doing, "the pages do not end")

    def blob(self, repository: str, digest: str) -> bytes:
        """The bytes of a blob, checked; at most LARGEST_BLOB of them. One that is not there is
        "broken": digests of blobs come from manifests, so the registry has lost it."""
        doing = f"fetching {_named(repository, digest)}"
        if not DIGEST.fullmatch(digest):
            raise self._errors.broken(doing, "this is no sha256 digest")
        url = self._url(repository, f"blobs/{digest}")
        request = Request("GET", url, doing, _pull(repository), most=LARGEST_BLOB)
        answer = self._session.ask(request)
        if answer.status == 404:
            raise self._errors.broken(doing, f"{self.server} does not have this blob")
        self._session.expect(answer, 200)
        if (found := digest_of(answer.body)) != digest:
            raise self._errors.other_bytes(doing, digest, found)
        return answer.body

    # Pushing

    def may_push(self, repository: str) -> None:
        """Raises RegistryError unless the login may: an upload is begun and given up, which leaves
        nothing behind. (A token's scope would say nothing: Gitea's has none, it looks itself.)"""
        session, scope = self._session, _push(repository)
        doing = f"asking whether {repository} may be pushed to"
        url = self._url(repository, "blobs/uploads/")
        begun = session.ask(Request("POST", url, doing, scope))
        session.expect(begun, 202)
        if location := begun.headers.get("Location"):
            there = session.joined(url, location, doing)
            session.ask(Request("DELETE", session.own(there) or there, doing, scope))

    def push_blob(self, repository: str, data: bytes, media_type: str) -> Descriptor:
        """Stores `data` unless it is there. To push it again is harmless."""
        session, scope, digest = self._session, _push(repository), digest_of(data)
        doing = f"pushing {len(data)} bytes to {repository}"

        def push() -> None:
            # Asked before every try: an answer may have been lost after the blob was stored.
            url = self._url(repository, f"blobs/{digest}")
            there = session.once(Request("HEAD", url, doing, scope))
            if there.status == 200:
                return
            session.expect(there, 404)
            url = self._url(repository, "blobs/uploads/")
            begun = session.once(Request("POST", url, doing, scope))
            session.expect(begun, 202)
            if not (location := begun.headers.get("Location")):
                raise self._errors.broken(doing, f"{self.server} did not say where to upload to")
            # Behind a proxy a registry may call itself http: its own host stays as it is here.
            url = session.joined(url, location, doing)
            url = (session.own(url) or url).copy_merge_params({"digest": digest})
            octets = {"Content-Type": "application/octet-stream"}
            session.expect(session.once(Request("PUT", url, doing, scope, octets, data)), 201)

        session.patiently(push)
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
        answer = self._session.ask(Request("PUT", url, doing, _push(repository), kind, body))
        self._session.expect(answer, 201)
        announced = answer.headers.get("Docker-Content-Digest", digest)
        if announced != digest:
            raise self._errors.other_bytes(doing, digest, announced)
        return digest

    def _url(self, repository: str, rest: str) -> httpx.URL:
        return self._session.base.join(f"/v2/{repository}/{rest}")

    def _checked(self, announced: str, reference: str, doing: str) -> str:
        """The announced digest, if it is one and is that of a reference that is a digest."""
        if not DIGEST.fullmatch(announced):
            raise self._errors.broken(doing, f"{self.server} announced no sha256 digest")
        if reference.startswith("sha256:") and announced != reference:
            raise self._errors.other_bytes(doing, reference, announced)
        return announced


def _named(repository: str, reference: str) -> str:
    return f"{repository}{'@' if reference.startswith('sha256:') else ':'}{reference}"


def _pull(repository: str) -> str:
    return f"repository:{repository}:pull"


def _push(repository: str) -> str:
    return f"repository:{repository}:pull,push"


def _next_page(link: str) -> str | None:
    found = re.search(r"<([^<>]+)>\s*;\s*rel=\"?next\"?", link)
    return found[1] if found else None
