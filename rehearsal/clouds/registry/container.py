"""/v2: the OCI distribution API as Gitea answers it (routers/api/packages/container/container.go).

Uploads: POST, then PATCHes and a PUT, or the PUT alone; a POST with `digest` is the whole of it;
one with `mount` and `from` takes a blob that another image has. Tags and their order are Gitea's:
in small letters, and with a link after every page that is not empty.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from urllib.parse import urlencode

from rehearsal.clouds.http import App, Call, Refusal, Reply
from rehearsal.clouds.registry import accounts, images
from rehearsal.clouds.registry.accounts import GHOST, READ, WRITE
from rehearsal.clouds.registry.dialect import VERSION, allowed, known, no_page, unauthorized
from rehearsal.clouds.registry.images import Blobs, Image, Record

_IMAGE = "/<owner>/<path:image>"
_CATALOG_PAGE = 100


def declare(app: App, blobs: Blobs) -> None:
    _declare_access(app)
    _declare_tags(app)
    _declare_uploads(app, blobs)
    _declare_blobs(app, blobs)
    _declare_manifests(app, blobs)


def _declare_access(app: App) -> None:
    @app.route("GET", "/")
    def version(_call: Call) -> Reply:
        return _answer(200)

    # account, client_id, offline_token, service: what clients send along; Gitea looks at none.
    @app.route("GET", "/token", query={"scope", "service", "account", "client_id", "offline_token"})
    def token(call: Call) -> Reply:
        if "Authorization" not in call.headers and not call.state["sign_in_required"]:
            doer = GHOST
        else:
            doer = known(call)
            if not doer.may(READ):
                raise unauthorized(call)
        return Reply({"token": accounts.bearer(call.state, doer, call.now)})

    @app.route("POST", "/token", raw=True)
    def oauth_token(_call: Call) -> Reply:
        return Reply(b"", 404)  # clients then ask by GET


def _declare_tags(app: App) -> None:
    @app.route("GET", "/_catalog", query={"n", "last"})
    def catalog(call: Call) -> Reply:
        names = sorted(key for key, found in call.state["packages"].items() if found["versions"])
        size = _count(call, "n", _CATALOG_PAGE)
        page = [n for n in names if n > call.query.get("last", "")][:size]
        link = {}
        if len(page) == size:
            after = urlencode({"last": page[-1], "n": size})
            link = {"Link": f'</v2/_catalog?{after}>; rel="next"'}
        return Reply({"repositories": page}, headers=VERSION | link)

    @app.route("GET", _IMAGE + "/tags/list", query={"n", "last"})
    def list_tags(call: Call) -> Reply:
        image = _image(call, READ)
        if (found := image.package) is None:
            raise _named("NAME_UNKNOWN", 404)
        size = _count(call, "n", -1)
        page = [t for t in images.tags(found) if t > call.query.get("last", "").lower()]
        page = page if size < 0 else page[:size]
        link = {}
        if page:
            after = {"last": page[-1]} | ({"n": str(size)} if size > 0 else {})
            link = {"Link": f'</v2/{image.key}/tags/list?{urlencode(after)}>; rel="next"'}
        return Reply({"name": image.key, "tags": page}, headers=VERSION | link)


def _declare_uploads(app: App, blobs: Blobs) -> None:
    @app.route(
        "POST", _IMAGE + "/blobs/uploads/", query={"mount", "from", "origin", "digest"}, raw=True
    )
    def begin_upload(call: Call) -> Reply:
        image = _image(call, WRITE)
        if (mounted := _mounted(call)) is not None:
            image.add_uploaded(mounted["digest"], mounted["size"])
            return _stored(image, "blobs", mounted["digest"], mounted["digest"])
        if digest := call.query.get("digest"):
            return _finish(image, blobs, digest, call.raw)
        upload = secrets.token_hex(12)
        call.state["uploads"][upload] = {"received": 0, "created": call.now}
        return _upload(image, upload, 202)

    @app.route("GET", _IMAGE + "/blobs/uploads/<upload>")
    def see_upload(call: Call) -> Reply:
        image = _image(call, WRITE)
        received = _begun(call)["received"]
        return _upload(image, call.values["upload"], 204, received)

    @app.route("PATCH", _IMAGE + "/blobs/uploads/<upload>", raw=True)
    def add_chunk(call: Call) -> Reply:
        image = _image(call, WRITE)
        begun = _begun(call)
        if (given := call.headers.get("Content-Range")) is not None:
            span = re.match(r"(\d+)-(\d+)", given)
            if span is None:
                raise _named("BLOB_UPLOAD_INVALID", 400)
            if int(span[1]) != begun["received"]:
                raise _named("BLOB_UPLOAD_INVALID", 416)
        elif begun["received"]:
            message = "Stream uploads after first write are not allowed"
            raise _named("BLOB_UPLOAD_INVALID", 400, message)
        _append(call, blobs, begun)
        return _upload(image, call.values["upload"], 202, begun["received"])

    @app.route("PUT", _IMAGE + "/blobs/uploads/<upload>", query={"digest"}, raw=True)
    def finish_upload(call: Call) -> Reply:
        image = _image(call, WRITE)
        if not (digest := call.query.get("digest")):
            raise _named("DIGEST_INVALID", 400)
        begun, upload = _begun(call), call.values["upload"]
        _append(call, blobs, begun)
        reply = _finish(image, blobs, digest, _parts(blobs, upload).read_bytes())
        _forget(call, blobs, upload)
        return reply

    @app.route("DELETE", _IMAGE + "/blobs/uploads/<upload>")
    def cancel_upload(call: Call) -> Reply:
        _image(call, WRITE)
        _begun(call)
        _forget(call, blobs, call.values["upload"])
        return _answer(204)


def _declare_blobs(app: App, blobs: Blobs) -> None:
    @app.route("GET", _IMAGE + "/blobs/<digest>")
    def get_blob(call: Call) -> Reply:
        image = _image(call, READ)
        file = image.file(call.values["digest"])
        if file is None:
            raise _named("BLOB_UNKNOWN", 404)
        return _content(call, blobs, file)

    @app.route("DELETE", _IMAGE + "/blobs/<digest>")
    def delete_blob(call: Call) -> Reply:
        image = _image(call, WRITE)
        digest = call.values["digest"]
        if not images.DIGEST.fullmatch(digest):
            raise _named("BLOB_UNKNOWN", 404)
        if (found := image.package) is not None:
            found["uploaded"].pop(digest, None)
            for kept in found["versions"].values():
                kept["files"] = [file for file in kept["files"] if file["digest"] != digest]
        return _answer(202)


def _declare_manifests(app: App, blobs: Blobs) -> None:
    @app.route("GET", _IMAGE + "/manifests/<reference>")
    def get_manifest(call: Call) -> Reply:
        image = _image(call, READ)
        file = image.manifest(call.values["reference"])
        if file is None:
            raise _named("MANIFEST_UNKNOWN", 404)
        return _content(call, blobs, file)

    @app.route("PUT", _IMAGE + "/manifests/<reference>", raw=True)
    def put_manifest(call: Call) -> Reply:
        image = _image(call, WRITE)
        reference, media_type = call.values["reference"], call.headers.get("Content-Type", "")
        try:
            digest = image.put_manifest(reference, media_type, call.raw)
        except Refusal as refusal:
            raise _named(refusal.code, refusal.status, refusal.message) from None
        blobs.save(digest, call.raw)
        return _stored(image, "manifests", reference, digest)

    @app.route("GET", _IMAGE + "/referrers/<digest>", query={"artifactType"})
    def referrers(_call: Call) -> Reply:
        raise no_page()  # Gitea has no such thing; clients then look for a tag

    @app.route("DELETE", _IMAGE + "/manifests/<reference>")
    def delete_manifest(call: Call) -> Reply:
        """By digest: every version that has this manifest, the tags too."""
        image, reference = _image(call, WRITE), call.values["reference"]
        file = image.manifest(reference)
        if file is None:
            raise _named("MANIFEST_UNKNOWN", 404)
        versions = call.state["packages"][image.key]["versions"]
        if images.DIGEST.fullmatch(reference):
            gone = [key for key, version in versions.items() if _is(version, file["digest"])]
        else:
            gone = [reference.lower()]
        for key in gone:
            del versions[key]
        return _answer(202)


def _is(version: Record, manifest: str) -> bool:
    names = (f["name"] for f in version["files"] if f["digest"] == manifest)
    return images.MANIFEST_FILE in names


def _image(call: Call, scope: str) -> Image:
    """The path's image, for somebody who may do this there."""
    allowed(call, scope)
    name = call.values["image"]
    if images.NAME.fullmatch(name) is None:
        raise _named("NAME_INVALID", 400)
    return Image(call.state, call.values["owner"].lower(), name, call.now)


def _mounted(call: Call) -> Record | None:
    """The blob to mount, if the image that it is to come from has it. A client that does not say
    where from gets it from anywhere."""
    digest, wanted = call.query.get("mount"), call.query.get("from", "")
    for key, package in call.state["packages"].items():
        if digest and wanted in ("", key):
            for file in images.files(package):
                if file["digest"] == digest:
                    return dict(file)
    return None


def _begun(call: Call) -> Record:
    begun: Record | None = call.state["uploads"].get(call.values["upload"])
    if begun is None:
        raise _named("BLOB_UPLOAD_UNKNOWN", 404)
    return begun


def _parts(blobs: Blobs, upload: str) -> Path:
    return blobs.folder.parent / "uploads" / upload


def _append(call: Call, blobs: Blobs, begun: Record) -> None:
    """Kept beside the blobs until the upload is finished. An answer lost after this is met by
    the client's starting anew, as with Gitea."""
    path = _parts(blobs, call.values["upload"])
    path.parent.mkdir(exist_ok=True)
    before = path.read_bytes()[: begun["received"]] if path.exists() else b""
    blobs.take(len(call.raw))
    path.write_bytes(before + call.raw)
    begun["received"] += len(call.raw)


def _forget(call: Call, blobs: Blobs, upload: str) -> None:
    received = call.state["uploads"].pop(upload)["received"]
    _parts(blobs, upload).unlink(missing_ok=True)
    blobs.take(-received)


def _finish(image: Image, blobs: Blobs, digest: str, data: bytes) -> Reply:
    if images.digest_of(data) != digest:
        raise _named("DIGEST_INVALID", 400)
    blobs.save(digest, data)
    image.add_uploaded(digest, len(data))
    return _stored(image, "blobs", digest, digest)


def _content(call: Call, blobs: Blobs, file: Record) -> Reply:
    headers = VERSION | {
        "Docker-Content-Digest": file["digest"],
        "ETag": f'"{file["digest"]}"',
    }
    # Of a blob Gitea says what kind of thing it is only to who fetches it.
    if call.method == "GET" or "reference" in call.values:
        headers["Content-Type"] = file["media_type"] or "application/octet-stream"
    return Reply(blobs.read(file["digest"]), headers=headers)


def _upload(image: Image, upload: str, status: int, received: int = 0) -> Reply:
    headers = {
        "Location": f"/v2/{image.key}/blobs/uploads/{upload}",
        "Docker-Upload-Uuid": upload,
    }
    if received:
        headers["Range"] = f"0-{received - 1}"
    return _answer(status, headers)


def _stored(image: Image, kind: str, reference: str, digest: str) -> Reply:
    headers = {
        "Location": f"/v2/{image.key}/{kind}/{reference}",
        "Docker-Content-Digest": digest,
        "ETag": f'"{digest}"',
    }
    return _answer(201, headers)


def _answer(status: int, headers: dict[str, str] | None = None) -> Reply:
    return Reply(b"", status, VERSION | (headers or {}))


def _named(code: str, status: int, message: str = "") -> Refusal:
    return Refusal(status, code, message, headers=VERSION)


def _count(call: Call, name: str, default: int) -> int:
    text = call.query.get(name, "")
    if not text:
        return default
    return int(text) if text.removeprefix("-").isdigit() else 0  # FormInt's zero value
