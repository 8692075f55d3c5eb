"""A production to prune: Gitea's stand-in, an API server that lists objects, a stack's state."""

from __future__ import annotations

import http.server
import json
import shutil
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from honeydue.images.registry import (
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Login,
    Registry,
    digest_of,
)
from ops.engine import Engine
from rehearsal.clouds.http import Listener
from rehearsal.clouds.registry import Gitea
from tests.ops.api_servers import Server
from tests.ops.pulumi import Pulumi
from tests.ops.registries import attached
from tests.providers.api_server import credentials

DAY = 24 * 3600.0
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


class Alone(Engine):
    """A stack that nobody else works on."""

    @contextmanager
    def alone(self) -> Iterator[None]:
        yield


@dataclass
class Shelf:
    """A namespace of a registry, and someone who pushes to it. `age`: how many days ago it is."""

    registry: Registry
    namespace: str = "admin"
    age: float = 0

    def push(
        self,
        name: str,
        content: str = "",
        *,
        image: str = "honeydue-api",
        size: int = 20_000,
        shared: bytes = b"base " * 10_000,
        subject: str = "",
    ) -> str:
        """An image of two layers, `name` (or "": untagged, by its digest); returns its digest.
        `size`: bytes of the layer that it shares with no other."""
        repository = f"{self.namespace}/{image}"
        own = (content or f"{image} {name}").encode().ljust(size, b".")
        layers = [self.registry.push_blob(repository, data, LAYER) for data in (shared, own)]
        config = self.registry.push_blob(repository, b"{}", CONFIG)
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _shown(config),
            "layers": [_shown(layer) for layer in layers],
        }
        if subject:
            manifest["subject"] = {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1}
        return self._put(repository, name, manifest, OCI_MANIFEST)

    def push_index(self, name: str, *children: str, image: str = "honeydue-api") -> str:
        repository = f"{self.namespace}/{image}"
        entries = []
        for child in children:
            found = self.registry.manifest(repository, child)
            assert found is not None
            entries.append(
                {"mediaType": OCI_MANIFEST, "digest": found.digest, "size": len(found.body)}
            )
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        return self._put(repository, name, index, OCI_INDEX)

    def release(self, sha: str, *, image: str = "honeydue-api") -> str:
        """A signed image with an attestation, as a deploy pushes it."""
        digest = self.push(sha, image=image)
        for suffix, size in ((".sig", 200), (".att", 8000)):
            content = f"{suffix} of {sha}"
            self.push(attached(digest, suffix), content, image=image, size=size, shared=b"{}")
        return digest

    def pull(self, reference: str, *, image: str = "honeydue-api") -> bool:
        """Whether an image or all of an index can be had, to the last byte."""
        repository = f"{self.namespace}/{image}"
        found = self.registry.manifest(repository, reference)
        if found is None:
            return False
        body = json.loads(found.body)
        for blob in [*body.get("layers", ()), *filter(None, [body.get("config")])]:
            assert digest_of(self.registry.blob(repository, blob["digest"])) == blob["digest"]
        return all(self.pull(child["digest"], image=image) for child in body.get("manifests", ()))

    def tags(self, image: str = "honeydue-api") -> set[str]:
        return set(self.registry.tags(f"{self.namespace}/{image}"))

    def _put(self, repository: str, name: str, document: dict[str, Any], media_type: str) -> str:
        body = json.dumps(document).encode()
        return self.registry.push_manifest(repository, name or digest_of(body), body, media_type)


def _shown(blob: Descriptor) -> dict[str, Any]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}


class Cluster:
    """An API server: TLS with client certificates, and lists of objects by their path. `status`
    is what it answers; other than 200 is a refusal."""

    def __init__(self, folder: Path) -> None:
        self.objects: dict[str, list[Any]] = {}
        self.status = 200
        self.asked: list[str] = []
        cluster = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                cluster.asked.append(self.path)
                items = cluster.objects.get(self.path.rsplit("/", 1)[-1], [])
                body = json.dumps({"kind": "List", "items": items}).encode()
                self.send_response(cluster.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Not on the tests' terminal."""

        self._server = Server(("127.0.0.1", 0), Handler)
        folder.mkdir()
        self.kubeconfig = credentials(folder, self._server.server_port)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(folder / "server.crt", folder / "server.key")
        tls.load_verify_locations(folder / "ca.crt")
        tls.verify_mode = ssl.CERT_REQUIRED
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def runs(self, image: str, kind: str = "replicasets", **metadata: Any) -> None:
        """A workload whose pods run `image` (a full reference)."""
        containers = [{"name": "main", "image": image}]
        item = {
            "metadata": {"name": "api", **metadata},
            "spec": {"replicas": 0, "template": {"spec": {"containers": containers}}},
        }
        self.objects.setdefault(kind, []).append(item)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


@dataclass
class World:
    """`pulumi` is on the PATH and knows the stack `prod`, whose state is in `state`."""

    folder: Path
    gitea: Gitea
    shelf: Shelf
    cluster: Cluster
    pulumi: Pulumi
    server: str
    token: str
    deployed: dict[str, str] = field(default_factory=dict)

    def say(self, *, token: str | None = None, images: dict[str, str] | None = None) -> None:
        """What `pulumi` answers from now on."""
        registry = {
            "server": self.server,
            "namespace": "admin",
            "username": "admin",
            "token": token or self.token,
        }
        config = {
            "honeydue:registry": {
                "value": json.dumps(registry),
                "objectValue": registry,
                "secret": True,
            },
            "honeydue:images": {"objectValue": images or {}, "secret": False},
        }
        state = {"version": 3, "deployment": {"resources": [{"outputs": self.deployed}]}}
        self.pulumi.answers(
            config=config,
            stack_output={"kubeconfig": self.cluster.kubeconfig},
            stack_export=state,
            whoami={"url": f"file://{self.folder / 'state'}"},
        )

    def deployed_once(self, *images: str, at: int) -> None:
        """A past update that left these references in its checkpoint; `at` orders them."""
        folder = self.folder / "state/.pulumi/history/honeydue/prod"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"prod-{at:019d}.history.json").write_text("{}")
        outputs = {str(number): image for number, image in enumerate(images)}
        checkpoint = {"version": 3, "checkpoint": {"latest": {"resources": [{"outputs": outputs}]}}}
        (folder / f"prod-{at:019d}.checkpoint.json").write_text(json.dumps(checkpoint))

    def reference(self, digest_or_tag: str, service: str = "api") -> str:
        mark = "@" if digest_or_tag.startswith("sha256:") else ":"
        return f"{self.server}/admin/honeydue-{service}{mark}{digest_or_tag}"

    @property
    def deletes(self) -> list[str]:
        return [line for line in self.gitea.api.requests if line.startswith("DELETE")]


@dataclass(frozen=True)
class Stock:
    """A registry that was filled before: its folder, and its token."""

    folder: Path
    token: str


@contextmanager
def world(folder: Path, stock: Stock | None = None) -> Iterator[World]:
    """With a copy of `stock`. `shelf.age` sets the registry's clock back while one pushes."""
    holder: list[Shelf] = []
    if stock is not None:
        shutil.copytree(stock.folder, folder / "gitea")
    gitea = Gitea(
        folder / "gitea", clock=lambda: time.time() - (holder[0].age if holder else 0) * DAY
    )
    token = stock.token if stock is not None else gitea.token("admin", "write:package")
    listener = Listener(gitea.wsgi_app).start()
    server = urlsplit(listener.url).netloc
    cluster = Cluster(folder / "cluster")
    (folder / "state").mkdir()
    try:
        with Registry(server, Login("admin", token)) as registry:
            holder.append(Shelf(registry))
            made = World(folder, gitea, holder[0], cluster, Pulumi(folder / "bin"), server, token)
            made.say()
            yield made
    finally:
        cluster.stop()
        listener.stop()
