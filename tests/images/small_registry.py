"""A registry in memory on loopback, for tests: what the OCI distribution API needs, Basic auth."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

USERNAME, TOKEN = "admin", "canary-registry-token-41d7"
REPOSITORY = "admin/honeydue-api"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(repr=False)
class Content:
    """Everything stored, open to the test's hands."""

    server: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    """(repository, tag or digest) → (media type, body)"""
    uploads: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def push(self, repository: str, tag: str, layers: list[bytes] | None = None) -> str:
        """A whole image of those layers (gzipped tars); its digest."""
        layers = layers or []
        config = json.dumps({"architecture": "amd64", "os": "linux", "of": tag}).encode()
        for blob in (config, *layers):
            self.blobs[digest_of(blob)] = blob
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "size": len(config),
                "digest": digest_of(config),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                    "size": len(layer),
                    "digest": digest_of(layer),
                }
                for layer in layers
            ],
        }
        return self.put(repository, tag, json.dumps(manifest).encode())

    def put(
        self,
        repository: str,
        tag: str,
        body: bytes,
        media_type: str = "application/vnd.oci.image.manifest.v1+json",
    ) -> str:
        digest = digest_of(body)
        self.manifests[repository, tag] = self.manifests[repository, digest] = (media_type, body)
        return digest

    def layers(self, repository: str, tag: str) -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(self.manifests[repository, tag][1])["layers"]
        return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: two of them wait 40 ms for each other
    content: Content

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        body = json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode()
        challenge = {"WWW_Authenticate": 'Basic realm="small"'} if status == 401 else {}
        self._answer(status, body, Content_Type="application/json", **challenge)

    def _any(self) -> None:
        body = self._body()
        self.content.requests.append(f"{self.command} {self.path}")
        expected = "Basic " + base64.b64encode(f"{USERNAME}:{TOKEN}".encode()).decode()
        if self.headers.get("Authorization") != expected:
            return self._error(401, "UNAUTHORIZED")
        url = urlsplit(self.path)
        if url.path == "/v2/":
            return self._answer(200)
        found = re.fullmatch(r"/v2/(.+?)/(manifests|blobs|tags)/(.*)", url.path)
        if not found:
            return self._error(404, "NAME_UNKNOWN")
        repository, kind, rest = found.groups()
        if kind == "manifests":
            return self._manifest(repository, rest, body)
        if kind == "tags":
            tags = [t for r, t in self.content.manifests if r == repository and ":" not in t]
            text = json.dumps({"name": repository, "tags": tags}).encode()
            return self._answer(200, text, Content_Type="application/json")
        return self._blob(repository, rest, parse_qs(url.query), body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _manifest(self, repository: str, reference: str, body: bytes) -> None:
        if self.command == "PUT":
            kind = self.headers.get("Content-Type", "")
            digest = self.content.put(repository, reference, body, kind)
            return self._answer(201, Docker_Content_Digest=digest)
        if (repository, reference) not in self.content.manifests:
            return self._error(404, "MANIFEST_UNKNOWN")
        kind, data = self.content.manifests[repository, reference]
        return self._answer(200, data, Content_Type=kind, Docker_Content_Digest=digest_of(data))

    def _blob(self, repository: str, rest: str, query: dict[str, list[str]], body: bytes) -> None:
        if self.command == "POST":
            return self._answer(202, Location=f"/v2/{repository}/blobs/uploads/{uuid4()}")
        if self.command == "PATCH":
            self.content.uploads[rest] = body
            return self._answer(202, Location=f"/v2/{repository}/blobs/{rest}")
        if self.command == "PUT":
            data = body or self.content.uploads.pop(rest, b"")
            digest = query["digest"][0]
            if digest_of(data) != digest:
                return self._error(400, "DIGEST_INVALID")
            self.content.blobs[digest] = data
            return self._answer(201, Docker_Content_Digest=digest)
        if rest not in self.content.blobs:
            return self._error(404, "BLOB_UNKNOWN")
        blob = self.content.blobs[rest]
        return self._answer(200, blob, Content_Type="application/octet-stream")

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = _any  # noqa: N815 - http.server's names


@contextmanager
def serve() -> Iterator[Content]:
    """`content.server` is 127.0.0.1:<port>."""
    content = Content()
    handler = type("Handler", (_Handler,), {"content": content})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    content.server = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield content
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
