"""The listing of a registry is whole, or it is none."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from honeydue.images.registry import Login, Registry
from ops.packages import Packages
from ops.problems import Refused
from rehearsal.clouds.registry import Gitea
from tests.ops.world import Shelf

Hook = Callable[[httpx.Request, httpx.Response], httpx.Response]


class Wire(httpx.BaseTransport):
    """To Gitea's stand-in without a socket; `hook` sees each answer and may change it."""

    def __init__(self, gitea: Gitea) -> None:
        self._inner = httpx.WSGITransport(gitea.wsgi_app)
        self.hook: Hook = lambda _, answer: answer
        self.asked: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {urlsplit(str(request.url)).path}")
        answer = self._inner.handle_request(request)
        answer.read()
        return self.hook(request, answer)


class Desk:
    """Someone who pushes, and the packages that `ops` lists."""

    def __init__(self, folder: Path) -> None:
        self.gitea = Gitea(folder)
        login = Login("admin", self.gitea.token("admin", "write:package"))
        self.wire = Wire(self.gitea)
        self.shelf = Shelf(Registry("localhost", login, transport=self.wire))
        self.packages = Packages("localhost", "admin", login, transport=self.wire)

    def fill(self, count: int) -> None:
        for number in range(count):
            self.shelf.push(f"{number:07x}")

    @property
    def names(self) -> list[str]:
        return sorted(version.name for version in self.packages.listing().versions)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def is_page(request: httpx.Request, number: int | None = None) -> bool:
    """A page of the listing; a certain one."""
    asked = request.url.params
    return request.url.path.endswith("/packages/admin") and (
        number is None or asked.get("page") == str(number)
    )


def test_every_version_is_listed_over_several_pages(desk: Desk) -> None:
    desk.fill(103)
    assert desk.names == [f"{n:07x}" for n in range(103)]
    assert desk.wire.asked.count("GET /api/v1/packages/admin") == 3


def test_a_version_has_its_digest_its_links_and_its_blobs(desk: Desk) -> None:
    child = desk.shelf.push("", "amd64")
    index = desk.shelf.push_index("237c6b8", child)
    signed = desk.shelf.push("", "referrer", subject=index)
    found = {version.digest: version for version in desk.packages.listing().versions}
    assert found[index].name == "237c6b8"
    assert found[index].children == {child}
    assert found[signed].subject == index
    assert found[child].name == child
    assert len(found[child].blobs) == 4  # two layers, configuration, manifest
    assert 70_000 < found[child].size < 72_000
    assert abs(found[child].created.timestamp() - time.time()) < 60


def test_other_packages_are_not_listed(desk: Desk) -> None:
    for image in ("honeydue-api", "honeydue-api-test", "website", "honeydue-admin"):
        desk.shelf.push("237c6b8", image=image)
    assert {v.image for v in desk.packages.listing().versions} == {"honeydue-api", "honeydue-admin"}


def test_a_namespace_without_packages_is_empty(desk: Desk) -> None:
    assert desk.names == []


def test_a_second_listing_asks_for_new_rows_only(desk: Desk) -> None:
    desk.fill(3)
    desk.packages.listing()
    desk.wire.asked.clear()
    desk.shelf.push("0000001", "other bytes")  # overwritten: a new row
    pushed = len(desk.wire.asked)
    desk.packages.listing()
    assert [line.split("/", 2)[-1] for line in desk.wire.asked[pushed:]][:2] == [
        "v1/packages/admin",
        "v1/packages/admin/container/honeydue-api/0000001/files",
    ]
    assert len(desk.wire.asked) - pushed == 3


def test_a_row_that_slips_between_two_pages_is_not_missed(desk: Desk) -> None:
    """Someone deletes a row of the first page: what would be first on the second is skipped."""
    desk.fill(60)
    shelf, done = desk.shelf, list[str]()

    def hook(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if is_page(request, 1) and not done:
            done.append("once")
            with desk.gitea.store.transaction() as state:
                versions = state["packages"]["admin/honeydue-api"]["versions"]
                del versions[f"{59:07x}"]
        return answer

    desk.wire.hook = hook
    assert shelf
    assert desk.names == [f"{n:07x}" for n in range(59)]


def test_a_registry_that_never_stands_still_is_refused(desk: Desk) -> None:
    desk.fill(60)

    def hook(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if is_page(request, 2):
            return httpx.Response(200, headers={"X-Total-Count": "99"}, json=[])
        return answer

    desk.wire.hook = hook
    with pytest.raises(Refused, match=r"cannot be listed completely: page 2 counts 99 .*\n.*wait"):
        desk.packages.listing()


def test_a_page_that_comes_back_empty_is_refused(desk: Desk) -> None:
    desk.fill(60)

    def hook(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if is_page(request, 2):
            headers = {"X-Total-Count": answer.headers["X-Total-Count"]}
            return httpx.Response(200, headers=headers, json=[])
        return answer

    desk.wire.hook = hook
    with pytest.raises(Refused, match="50 of 60 versions are listed, and no more"):
        desk.packages.listing()


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, html="<html>a portal</html>"),
        httpx.Response(200, json=[]),  # nobody counted
        httpx.Response(200, json=[{"id": 1}], headers={"X-Total-Count": "1"}),
        httpx.Response(200, json={"message": "hello"}, headers={"X-Total-Count": "1"}),
    ],
)
def test_what_is_no_gitea_is_refused(desk: Desk, answer: httpx.Response) -> None:
    desk.wire.hook = lambda request, real: answer if is_page(request) else real
    with pytest.raises(Refused, match="an answer that Gitea does not give"):
        desk.packages.listing()


def test_a_version_that_is_gone_by_the_time_it_is_looked_at_is_no_fault(desk: Desk) -> None:
    desk.fill(3)

    def hook(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if is_page(request):
            with desk.gitea.store.transaction() as state:
                state["packages"]["admin/honeydue-api"]["versions"].pop("0000001", None)
        return answer

    desk.wire.hook = hook
    assert desk.names == ["0000000", "0000002"]


def test_the_clock_is_the_registrys_own(desk: Desk) -> None:
    def hook(_request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        answer.headers["Date"] = "Sun, 22 Nov 2020 13:00:00 GMT"
        return answer

    desk.wire.hook = hook
    assert desk.packages.listing().now.isoformat() == "2020-11-22T13:00:00+00:00"


def test_deleting_what_is_gone_is_done(desk: Desk) -> None:
    desk.fill(1)
    (version,) = desk.packages.listing().versions
    desk.packages.delete(version)
    desk.packages.delete(version)
    assert desk.names == []
