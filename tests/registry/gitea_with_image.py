"""The stand-in of Gitea with an image in it, for tests that need a registry in a moment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx

from rehearsal.clouds.http import Listener
from rehearsal.clouds.registry import Gitea

REPOSITORY = "admin/honeydue-api"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def digest_of(data: bytes) -> str:
    return "sha256:" + sha256(data).hexdigest()


@dataclass(frozen=True)
class SmallRegistry:
    gitea: Gitea
    server: str
    read: str
    write: str

    def push(
        self, tag: str, *, os: str = "linux", architecture: str = "amd64", layers: int = 2
    ) -> str:
        """An image of so many small layers; its digest."""
        config = json.dumps({"os": os, "architecture": architecture, "of": tag}).encode()
        content = [f"{tag}, layer {number}".encode() for number in range(layers)]
        descriptors = [self._push_blob(blob) for blob in (config, *content)]
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptors[0] | {"mediaType": "application/vnd.oci.image.config.v1+json"},
            "layers": [
                layer | {"mediaType": "application/vnd.oci.image.layer.v1.tar"}
                for layer in descriptors[1:]
            ],
        }
        return self.push_manifest(tag, manifest, MANIFEST)

    def push_manifest(self, tag: str, manifest: dict[str, Any], media_type: str) -> str:
        body = json.dumps(manifest).encode()
        self._ask("PUT", f"manifests/{tag}", body, media_type)
        return digest_of(body)

    def manifest(self, tag_or_digest: str) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("GET", f"manifests/{tag_or_digest}").json()
        return found

    def damage(self, digest: str) -> None:
        """Other bytes of the same length, as a broken disk leaves them."""
        (file,) = [
            path
            for path in self.gitea.blobs.folder.rglob("*")
            if path.is_file() and digest_of(path.read_bytes()) == digest
        ]
        file.write_bytes(bytes(len(file.read_bytes())))

    def forget_blob(self, digest: str) -> None:
        self._ask("DELETE", f"blobs/{digest}")

    def _push_blob(self, blob: bytes) -> dict[str, Any]:
        digest = digest_of(blob)
        self._ask("POST", f"blobs/uploads/?digest={digest}", blob, "application/octet-stream")
        return {"digest": digest, "size": len(blob)}

    def _ask(self, method: str, path: str, body: bytes = b"", type_: str = "") -> httpx.Response:
        answer = httpx.request(
            method,
            f"http://{self.server}/v2/{REPOSITORY}/{path}",
            auth=("admin", self.write),
            content=body,
            headers={"Content-Type": type_, "Accept": f"{MANIFEST}, {INDEX}"},
            timeout=60,
        )
        assert answer.is_success, answer.text
        return answer


@contextmanager
def serve(folder: Path) -> Iterator[SmallRegistry]:
    gitea = Gitea(folder)
    listener = Listener(gitea.wsgi_app)
    listener.start()
    try:
        yield SmallRegistry(
            gitea,
            f"127.0.0.1:{listener.port}",
            read=gitea.token("admin", "read:package"),
            write=gitea.token("admin", "write:package"),
        )
    finally:
        listener.stop()
