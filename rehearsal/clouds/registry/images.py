"""What is stored: packages, their versions and files, and blobs; as Gitea's database has it.

A version is a tag, or a digest for a manifest that was pushed by its digest. Its files are the
manifest and the blobs that the manifest names; a blob can be had in an image while any of that
image's versions has it, or while it waits, uploaded, for its manifest. So who deletes a version
takes its blobs along unless another version of the same image has them, and who deletes a child
breaks its index. A tag that is pushed again is a new version: the old manifest is gone with the
old one. (models/packages/container/search.go, routers/api/packages/container/manifest.go)

Bytes lie in one folder for all images and leave it only in `clean_up`, as with Gitea's cron task
(HINT: PACKAGE-DEFER-STORAGE-DELETE in services/packages/packages.go).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rehearsal.clouds.http import Refusal, State

DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_PART: Final = r"[a-z0-9]+([._-][a-z0-9]+)*"
NAME: Final = re.compile(rf"{_PART}(/{_PART})*")
MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
LARGEST_MANIFEST: Final = 10 << 20
MANIFEST_FILE: Final = "manifest.json"

Record = dict[str, Any]


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Blobs:
    """Bytes on disk, by digest; `room` is how many more fit (None: the disk does not fill up)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.room: int | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        return self.folder / digest.replace(":", "_")

    def take(self, size: int) -> None:
        """Uses up so many bytes, or gives them back. Raises Refusal when the disk is full: Gitea
        tells its log why, and the client nothing."""
        if self.room is not None:
            if size > self.room:
                raise Refusal(500, "", "no space left on device")
            self.room -= size

    def save(self, digest: str, data: bytes) -> None:
        if not self.path(digest).exists():
            self.take(len(data))
            self.path(digest).write_bytes(data)

    def read(self, digest: str) -> bytes:
        return self.path(digest).read_bytes()

    def delete(self, digest: str) -> None:
        self.take(-self.path(digest).stat().st_size)
        self.path(digest).unlink()

    def all(self) -> list[str]:
        return [path.name.replace("_", ":", 1) for path in self.folder.iterdir()]


@dataclass(frozen=True)
class Image:
    """One image of one owner, there or not. `now`: seconds since the epoch."""

    state: State
    owner: str
    name: str
    now: float

    @property
    def key(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def package(self) -> Record | None:
        found: Record | None = self.state["packages"].get(self.key)
        return found

    def made(self) -> Record:
        """The package. `uploaded`: blobs that no manifest names yet, by digest."""
        packages = self.state["packages"]
        if self.key not in packages:
            packages[self.key] = {
                "id": _next_id(self.state, "package"),
                "owner": self.owner,
                "name": self.name,
                "uploaded": {},
                "versions": {},
            }
        found: Record = packages[self.key]
        return found

    def add_uploaded(self, digest: str, size: int) -> None:
        uploaded = self.made()["uploaded"]
        if digest not in uploaded:
            file = _file(self.state, digest, size, "", _blob_name(digest))
            uploaded[digest] = file | {"created": self.now}

    def file(self, digest: str, *, manifest: bool = False) -> Record | None:
        """The first file with this digest that the image has; only manifests, if so asked."""
        fitting = (f for f in files(self.package or _NOTHING) if f["digest"] == digest)
        return next((f for f in fitting if not manifest or f["name"] == MANIFEST_FILE), None)

    def version(self, version: str) -> Record | None:
        found: Record | None = (self.package or _NOTHING)["versions"].get(version.lower())
        return found

    def manifest(self, reference: str) -> Record | None:
        """The manifest's file of a tag or a digest."""
        if DIGEST.fullmatch(reference):
            return self.file(reference, manifest=True)
        version = self.version(reference) if TAG.fullmatch(reference) else None
        if version is None:
            return None
        return next((f for f in version["files"] if f["name"] == MANIFEST_FILE), None)

    def put_manifest(self, reference: str, media_type: str, data: bytes) -> str:
        """Makes the version, or makes it anew; what the manifest refers to must be in this image
        already. Gitea does not compare a reference that is a digest with the bytes. Returns
        their digest. Raises Refusal."""
        tagged = not DIGEST.fullmatch(reference)
        if tagged and not TAG.fullmatch(reference):
            raise Refusal(400, "MANIFEST_INVALID", "Tag is invalid")
        if len(data) > LARGEST_MANIFEST:
            raise Refusal(413, "MANIFEST_INVALID", "Manifest exceeds maximum size")
        document = _document(data)
        if not media_type.startswith(_KNOWN_TYPES):
            media_type = document.get("mediaType", "")
            if not media_type.startswith(_KNOWN_TYPES):
                raise Refusal(400, "MANIFEST_INVALID", "MediaType not recognized")
        named: list[Record] = []
        if media_type in MANIFESTS:
            blobs = (document.get("config", {}), *document.get("layers", ()))
            named = [self._named(blob) for blob in blobs]
        elif media_type in INDEXES:
            for child in document.get("manifests", ()):
                self._check_child(child)
        else:
            raise Refusal(400, "MANIFEST_INVALID", "")
        digest = digest_of(data)
        package = self.made()
        package["versions"][reference.lower()] = {
            "id": _next_id(self.state, "version"),
            "version": reference.lower(),
            "tagged": tagged,
            "created": self.now,
            # A layer that is named twice is one file.
            "files": [
                *{file["digest"]: file for file in named}.values(),
                _file(self.state, digest, len(data), media_type, MANIFEST_FILE),
            ],
        }
        for file in named:
            package["uploaded"].pop(file["digest"], None)
        return digest

    def _named(self, reference: Record) -> Record:
        """A blob that a manifest names, as a file of the manifest's version."""
        digest, media_type = reference.get("digest", ""), reference.get("mediaType", "")
        file = self.file(digest)
        if file is None and digest:
            raise Refusal(404, "BLOB_UNKNOWN", "")
        if file is None or file["size"] != reference.get("size"):
            raise Refusal(400, "SIZE_INVALID", "")
        return _file(self.state, digest, file["size"], media_type, _blob_name(digest))

    def _check_child(self, child: Record) -> None:
        if child.get("mediaType") not in MANIFESTS:
            raise Refusal(400, "MANIFEST_INVALID", "")
        if self.file(child.get("digest", ""), manifest=True) is None:
            raise Refusal(404, "MANIFEST_BLOB_UNKNOWN", "")


_NOTHING: Final[Record] = {"versions": {}, "uploaded": {}}
_KNOWN_TYPES: Final = ("application/vnd.docker.", "application/vnd.oci.")


def files(package: Record) -> Iterator[Record]:
    for version in package["versions"].values():
        yield from version["files"]
    yield from package["uploaded"].values()


def tags(package: Record) -> list[str]:
    return sorted(v["version"] for v in package["versions"].values() if v["tagged"])


def _document(data: bytes) -> Record:
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise Refusal(500, "", "no JSON")
    if document.get("schemaVersion") != 2:
        raise Refusal(501, "UNSUPPORTED", "Schema version is not supported")
    return document


def _file(state: State, digest: str, size: int, media_type: str, name: str) -> Record:
    number = _next_id(state, "file")
    return {"id": number, "digest": digest, "size": size, "media_type": media_type, "name": name}


def _blob_name(digest: str) -> str:
    return digest.replace(":", "_")


def _next_id(state: State, kind: str) -> int:
    ids = state["ids"]
    ids[kind] = ids.get(kind, 0) + 1
    return int(ids[kind])


def clean_up(state: State, blobs: Blobs, now: float, older_than: float) -> None:
    """Gitea's cron task cleanup_packages: uploads and blobs that nothing has named for
    `older_than` seconds, packages without a version, bytes that no file has. Untagged manifests
    are versions like any other: it never takes one."""
    for key, found in list(state["packages"].items()):
        waiting = found["uploaded"].items()
        found["uploaded"] = {d: f for d, f in waiting if now - f["created"] < older_than}
        if not found["versions"] and not found["uploaded"]:
            del state["packages"][key]
    kept = {file["digest"] for found in state["packages"].values() for file in files(found)}
    for digest in blobs.all():
        if digest not in kept:
            blobs.delete(digest)
