"""Gitea's packages: what a namespace's images consist of, and deleting one version of them.

    with Packages("gitea.treytartt.com", "admin", Login("admin", token)) as packages:
        listing = packages.listing()

As Gitea v1.26 has it (`routers/api/v1/packages/`, `routers/api/packages/container/`): every tag
and every manifest that was pushed by its digest is a version, a row of its own; its files are the
manifest (`manifest.json`) and the blobs that it refers to. To delete a version removes that row
alone, another one with the same manifest can still be pulled; blobs without a row are removed by
Gitea's own cron task after a day. Deleting an index leaves its children, and deleting a child
breaks its index: order and completeness are the caller's.

All or nothing: a listing that is not complete is a `Refused`, never a shorter list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from honeydue.images.references import SERVICES
from honeydue.images.registry import Login, Registry, RegistryError, scheme
from ops.problems import refused
from ops.retention import Version

IMAGES: Final = tuple(f"honeydue-{service}" for service in SERVICES)
_MANIFEST_FILE: Final = "manifest.json"
_PAGE: Final = 50  # the most that Gitea gives by its defaults
_AT_ONCE: Final = 8  # requests: a small server, and a listing has two per version
_TRIES: Final = 3  # of a listing, while the registry changes under it
_SECONDS: Final = 20.0
_NEW_TOKEN: Final = (
    "make a token with {scope} in Gitea (Settings, Applications), put it into "
    "deploy/registry.env, then: python -m ops registry import deploy/registry.env"
)

Progress = Callable[[int, int], None]
"""Called with how many of how many are done."""


@dataclass(frozen=True)
class Listing:
    """Every version of our images at `now`, by the registry's own clock."""

    versions: tuple[Version, ...]
    now: datetime


class _Changed(Exception):  # noqa: N818 - no error: it is asked again
    """The registry changed while it was read, or looks like it; `mend`, when it goes on so."""

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(what)
        self.mend = mend or "wait until what pushes or deletes there has ended, and run this again"


class Packages:
    """The images of one namespace. Everything that it raises is a `Refused`."""

    def __init__(
        self,
        server: str,
        namespace: str,
        login: Login,
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.server, self.namespace = server, namespace
        self._registry = Registry(server, login, transport=transport)
        self._api = httpx.Client(
            base_url=f"{scheme(server)}://{server}/api/v1/packages",
            headers={"Authorization": f"token {login.password}", "Accept": "application/json"},
            timeout=_SECONDS,
            transport=transport,
            trust_env=scheme(server) == "https",  # no proxy has any business on loopback
        )
        # A row never changes: an overwritten tag is a new one. So a second listing, just before
        # something is deleted, costs its pages only.
        self._known: dict[int, Version] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._api.close()
        self._registry.__exit__(kind, error, trace)

    def listing(self, progress: Progress = lambda _done, _all: None) -> Listing:
        """All of it, or a Refused that says what could not be listed."""
        for attempt in range(_TRIES):
            try:
                rows, now = self._rows()
                return Listing(self._versions(rows, progress), now)
            except _Changed as changed:
                if attempt == _TRIES - 1:
                    what = f"{self.server} cannot be listed completely: {changed}"
                    raise refused(what, changed.mend) from None
        raise AssertionError("unreachable")

    def delete(self, version: Version) -> None:
        """Deletes one version; one that is gone already is no fault (a lost answer)."""
        doing = f"deleting {version}"
        path = f"/container/{version.image}/{quote(version.name, safe=':')}"
        answer = self._send("DELETE", path, doing)
        if answer.status_code not in (204, 404):
            raise self._unexpected(answer, doing)
        self._known.pop(version.id, None)

    # Listing

    def _rows(self) -> tuple[list[Mapping[str, Any]], datetime]:
        """The rows of our packages. Every page tells the total, and a row that another client
        deletes shifts the next page by one: what does not add up is asked again."""
        rows: dict[int, Mapping[str, Any]] = {}
        page, total, now = 0, None, datetime.now(UTC)
        while total is None or len(rows) < total:
            page += 1
            doing = f"listing the packages of {self.namespace}, page {page}"
            query = {"type": "container", "q": "honeydue-", "page": page, "limit": _PAGE}
            answer = self._send("GET", "", doing, query)
            if answer.status_code != 200:
                raise self._unexpected(answer, doing)
            found, said = _json(answer), answer.headers.get("X-Total-Count", "")
            if not isinstance(found, list) or not said.isdigit():
                raise self._strange(doing, "it is no page of packages")
            if total not in (None, int(said)):
                raise _Changed(f"page {page} counts {said} versions, the first one {total}")
            total, now = int(said), _clock(answer)
            fresh = {_number(row): row for row in found} if all(map(_is_row, found)) else None
            if fresh is None:
                raise self._strange(doing, "a row has no id, name, version or time")
            if len(rows) < total and not fresh.keys() - rows.keys():
                raise _Changed(f"{len(rows)} of {total} versions are listed, and no more")
            rows |= fresh
        return [row for row in rows.values() if row["name"] in IMAGES], now

    def _versions(
        self, rows: Iterable[Mapping[str, Any]], progress: Progress
    ) -> tuple[Version, ...]:
        rows = list(rows)
        found: list[Version] = []
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            try:
                for version in pool.map(self._version, rows):
                    found.append(version)
                    progress(len(found), len(rows))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        self._known = {version.id: version for version in found}
        return tuple(found)

    def _version(self, row: Mapping[str, Any]) -> Version:
        known = self._known.get(_number(row))
        if known is not None:
            return known
        image, name = str(row["name"]), str(row["version"])
        doing = f"listing the files of {image}:{name}"
        path = f"/container/{image}/{quote(name, safe=':')}/files"
        answer = self._send("GET", path, doing)
        if answer.status_code == 404:
            raise _Changed(f"{image}:{name} is gone")
        if answer.status_code != 200:
            raise self._unexpected(answer, doing)
        files = _json(answer)
        try:
            blobs = {f"sha256:{file['sha256']}": int(file["size"]) for file in files}
            manifests = [f"sha256:{f['sha256']}" for f in files if f["name"] == _MANIFEST_FILE]
        except (LookupError, TypeError, ValueError):
            raise self._strange(doing, "it is no list of files") from None
        if len(manifests) != 1:
            raise self._strange(doing, f"a version has one {_MANIFEST_FILE}, not {len(manifests)}")
        children, subject = self._links(image, name, manifests[0])
        return Version(
            id=_number(row),
            image=image,
            name=name,
            created=datetime.fromisoformat(row["created_at"]),
            digest=manifests[0],
            children=children,
            subject=subject,
            blobs=blobs,
        )

    def _links(self, image: str, name: str, digest: str) -> tuple[frozenset[str], str]:
        """What a manifest refers to: (children of an index, subject)."""
        try:
            manifest = self._registry.manifest(f"{self.namespace}/{image}", digest)
        except RegistryError as cause:
            raise refused(cause.why, cause.mend) from None
        if manifest is None:
            raise _Changed(
                f"it does not have the manifest {digest} of {image}:{name}",
                f"its bytes are lost; when nothing runs it, delete that version on "
                f"{self._page(image, name)}",
            )
        try:
            body = json.loads(manifest.body)
            children = frozenset(str(child["digest"]) for child in body.get("manifests") or ())
            return children, str((body.get("subject") or {}).get("digest") or "")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise refused(
                f"the manifest of {image}:{name} ({digest}) on {self.server} is not readable",
                f"look at that version on {self._page(image, name)}; when nothing runs it, delete "
                "it there",
            ) from None

    # Requests

    def _send(
        self, method: str, path: str, doing: str, query: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        try:
            return self._api.request(method, f"/{quote(self.namespace)}{path}", params=query)
        except httpx.HTTPError as cause:
            raise refused(
                f"{doing}: {self.server} does not answer ({str(cause) or type(cause).__name__})",
                f"look whether https://{self.server}/ is up, and run the same again",
            ) from None

    def _unexpected(self, answer: httpx.Response, doing: str) -> Exception:
        status = answer.status_code
        why = f"{doing}: {self.server} answered {status} {answer.reason_phrase}"
        if status == 401:
            return refused(
                f"{why}: the token is wrong, revoked or expired",
                _NEW_TOKEN.format(scope="write:package"),
            )
        if status == 403:
            scope = "write:package" if "deleting" in doing else "read:package"
            return refused(
                f"{why}: the token has no {scope}, or its user no right in {self.namespace}",
                _NEW_TOKEN.format(scope=scope),
            )
        if status == 404:
            return refused(
                f"{why}: it has no namespace {self.namespace}, or no packages",
                "mend registry.server and registry.namespace in the stack's file",
            )
        return refused(why, "look at Gitea's log for the cause, and run the same again")

    def _strange(self, doing: str, why: str) -> Exception:
        return refused(
            f"{doing}: {self.server} gave an answer that Gitea does not give: {why}",
            "look whether registry.server names the Gitea itself (v1.21 or newer), not a portal",
        )

    def _page(self, image: str, name: str) -> str:
        place = f"{self.server}/{self.namespace}/-/packages/container/{image}/{name}"
        return f"{scheme(self.server)}://{place}"


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _is_row(row: Any) -> bool:
    try:
        datetime.fromisoformat(row["created_at"])
        return isinstance(row["id"], int) and bool(row["name"]) and bool(row["version"])
    except (LookupError, TypeError, ValueError):
        return False


def _number(row: Mapping[str, Any]) -> int:
    return int(row["id"])


def _clock(answer: httpx.Response) -> datetime:
    """The registry's own clock: a laptop's may be hours off."""
    try:
        return parsedate_to_datetime(answer.headers["Date"]).astimezone(UTC)
    except (LookupError, ValueError):
        return datetime.now(UTC)
