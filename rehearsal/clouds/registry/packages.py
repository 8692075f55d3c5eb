"""/api/v1/packages: what `ops` lists and deletes by (routers/api/v1/packages/package.go).

A version is a tag, or the digest of a manifest that was pushed by digest; a manifest that only a
tag names has no version of its own. Newest first. Pages hold 30 and at most 50. Deleting a
version looks at nothing that refers to it.
"""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from rehearsal.clouds.http import App, Call, Refusal, Reply
from rehearsal.clouds.registry.images import Blobs, Image, Record

_DEFAULT_PAGE, _LARGEST_PAGE = 30, 50  # [api] DEFAULT_PAGING_NUM, MAX_RESPONSE_ITEMS


def declare(app: App, blobs: Blobs) -> None:
    @app.route("GET", "/packages/<owner>", query={"type", "q", "page", "limit"})
    def list_packages(call: Call) -> Reply:
        owner = call.values["owner"].lower()
        part = call.query.get("q", "").lower()
        of_type = call.query.get("type", "") in ("", "container")
        found = [
            package
            for package in call.state["packages"].values()
            if of_type and package["owner"] == owner and part in package["name"]
        ]
        return _page(call, found)

    @app.route("GET", "/packages/<owner>/container/<name>", query={"page", "limit"})
    def list_versions(call: Call) -> Reply:
        return _page(call, [_package(call)])

    @app.route("DELETE", "/packages/<owner>/container/<name>")
    def delete_package(call: Call) -> Reply:
        package = _package(call)
        del call.state["packages"][f"{package['owner']}/{package['name']}"]
        return Reply(b"", 204)

    @app.route("GET", "/packages/<owner>/container/<name>/<version>")
    def get_version(call: Call) -> Reply:
        package = _package(call)
        return Reply(_shown(call, package, _version(call, package)))

    @app.route("DELETE", "/packages/<owner>/container/<name>/<version>")
    def delete_version(call: Call) -> Reply:
        package = _package(call)
        version = _version(call, package)
        del package["versions"][version["version"]]
        return Reply(b"", 204)

    @app.route("GET", "/packages/<owner>/container/<name>/<version>/files")
    def list_files(call: Call) -> Reply:
        package = _package(call)
        files = _version(call, package)["files"]
        return Reply([_shown_file(blobs, file) for file in files])

    @app.route("GET", "/packages/<owner>/container/<name>/-/latest")
    def latest(call: Call) -> Reply:
        package = _package(call)
        newest = max(package["versions"].values(), key=lambda v: v["id"], default=None)
        if newest is None:
            raise Refusal(404, "url", "%!s(<nil>)")
        return Reply(_shown(call, package, newest))


def _package(call: Call) -> Record:
    image = Image(call.state, call.values["owner"].lower(), call.values["name"].lower(), call.now)
    found = image.package
    if found is None:
        by = "GetVersionByNameAndVersion" if "version" in call.values else "GetPackageByName"
        raise Refusal(404, "url", f"{by}: package does not exist")
    return found


def _version(call: Call, package: Record) -> Record:
    found: Record | None = package["versions"].get(call.values["version"].lower())
    if found is None:
        raise Refusal(404, "url", "GetVersionByNameAndVersion: package does not exist")
    return found


def _page(call: Call, packages: list[Record]) -> Reply:
    found = [(p, v) for p in packages for v in p["versions"].values()]
    found.sort(key=lambda pair: (int(pair[1]["created"]), pair[1]["id"]), reverse=True)
    number = max(_number(call, "page"), 1)
    size = min(_number(call, "limit"), _LARGEST_PAGE)
    size = size if size > 0 else _DEFAULT_PAGE
    shown = found[(number - 1) * size : number * size]
    headers = {"X-Total-Count": str(len(found))}
    if links := _links(call, number, math.ceil(len(found) / size)):
        headers["Link"] = links
    return Reply([_shown(call, *pair) for pair in shown], headers=headers)


def _links(call: Call, number: int, last: int) -> str:
    pages, number = [], min(number, last)
    if number < last:
        pages += [("next", number + 1), ("last", last)]
    if number > 1:
        pages += [("first", 1), ("prev", number - 1)]
    query = dict(call.query)
    return ",".join(
        f"<{_root(call)}api/v1{call.path}?{urlencode(sorted((query | {'page': page}).items()))}>"
        f'; rel="{name}"'
        for name, page in pages
    )


def _shown(call: Call, package: Record, version: Record) -> dict[str, Any]:
    owner = _user(call, package["owner"])
    page = f"{owner['html_url']}/-/packages/container/{package['name']}/{version['version']}"
    return {
        "id": version["id"],
        "owner": owner,
        "repository": None,
        "creator": owner,
        "type": "container",
        "name": package["name"],
        "version": version["version"],
        "html_url": page,
        "created_at": _timestamp(version["created"]),
    }


def _user(call: Call, name: str) -> dict[str, Any]:
    """What a client may look at; Gitea shows a dozen fields more."""
    user = call.state["users"][name]
    return {
        "id": user["id"],
        "login": user["name"],
        "username": user["name"],
        "html_url": f"{_root(call)}{user['name']}",
        "is_admin": user["admin"],
        "created": _timestamp(user["created"]),
    }


def _shown_file(blobs: Blobs, file: Record) -> dict[str, Any]:
    data = blobs.read(file["digest"])
    hashes = {
        name: hashlib.new(name, data, usedforsecurity=False).hexdigest()
        for name in ("md5", "sha1", "sha256", "sha512")
    }
    return {"id": file["id"], "size": file["size"], "name": file["name"]} | hashes


def _root(call: Call) -> str:
    return f"http://{call.headers.get('Host', 'localhost')}/"


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _number(call: Call, name: str) -> int:
    text = call.query.get(name, "")
    return int(text) if text.isdigit() else 0
