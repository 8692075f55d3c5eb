"""Three nodes' API servers that answer from one list of objects: TLS with client certificates."""

from __future__ import annotations

import copy
import http.server
import json
import ssl
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.providers.api_server import credentials

Json = dict[str, Any]
READY = "[+]ping ok\n[+]log ok\n[+]etcd ok\nreadyz check passed\n"


@dataclass
class Objects:
    """`kinds`: plural → objects; `logs`: (pod, whether previous) → lines with their time stamps."""

    kinds: dict[str, list[Json]] = field(default_factory=dict)
    logs: dict[tuple[str, bool], list[str]] = field(default_factory=dict)
    patches: list[tuple[str, Json, dict[str, list[str]]]] = field(default_factory=list)
    gone: int = 404  # what a PUT to one that is not there is answered with
    namespace: bool = True  # whether there is one to create things in
    version: int = 100  # as etcd counts: one for all objects
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def write(self, verb: str, path: str, body: Json) -> tuple[int, Json]:
        """POST, PUT or DELETE: status and answer. What is in the way is a 409, as at the real one
        (k8s.io/apiserver, pkg/registry/generic/registry/store.go)."""
        with self.one_at_a_time:
            self.version += 1
            return self._create(path, body) if verb == "POST" else self._change(verb, path, body)

    def _create(self, path: str, body: Json) -> tuple[int, Json]:
        kind, name = path.rsplit("/", maxsplit=1)[-1], body["metadata"]["name"]
        if not self.namespace:
            return 404, {"message": 'namespaces "honeydue" not found'}
        if self.one(f"{path}/{name}") is not None:
            return 409, {"message": f'{kind} "{name}" already exists'}
        made = copy.deepcopy(body)
        made["metadata"] |= {"uid": f"u{self.version}", "resourceVersion": str(self.version)}
        self.kinds.setdefault(kind, []).append(made)
        return 201, copy.deepcopy(made)

    def _change(self, verb: str, path: str, body: Json) -> tuple[int, Json]:
        there = self.one(path)
        if there is None:
            return self.gone if verb == "PUT" else 404, {"message": "not found"}
        wanted = body.get("preconditions", {}) if verb == "DELETE" else body["metadata"]
        for key in ("uid", "resourceVersion"):
            if wanted.get(key, there["metadata"][key]) != there["metadata"][key]:
                return 409, {"message": "the object has been modified"}
        if verb == "DELETE":
            self.kinds[path.split("/")[-2]].remove(there)
            return 200, {"kind": "Status", "status": "Success"}
        changed = copy.deepcopy(body)
        changed["metadata"]["resourceVersion"] = str(self.version)
        # Another object in its place: whoever reads at this moment has one of the two.
        of_its_kind = self.kinds[path.split("/")[-2]]
        of_its_kind[of_its_kind.index(there)] = changed
        return 200, copy.deepcopy(changed)

    def one(self, path: str) -> Json | None:
        *_, kind, name = path.split("/")
        found = [x for x in self.kinds.get(kind, ()) if x["metadata"]["name"] == name]
        return found[0] if found else None


class Server(http.server.ThreadingHTTPServer):
    """That many may connect at once: beyond it the kernel lets them wait for a second or three."""

    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has left is nothing to be told on the terminal of whatever test is next."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class ApiServer:
    """`status` other than 200: what it answers to everything; `readyz`: what it says of itself;
    `refuses`: kinds that it lists for nobody."""

    def __init__(self, folder: Path, objects: Objects) -> None:
        self.status, self.readyz, self.delay = 200, READY, 0.0
        self.asked: list[str] = []
        self.refuses: tuple[str, ...] = ()
        self.loses = ""  # the verb that it does, and dies before it has answered
        self.behind = 0.0  # seconds, of its clock
        self.released = threading.Event()  # cleared: followed logs do not end
        self.released.set()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                server.asked.append(url.path)
                time.sleep(server.delay)
                query = parse_qs(url.query)
                if url.path == "/readyz":
                    failed = "[-]" in server.readyz
                    self._answer(500 if failed else 200, server.readyz)
                elif server.status != 200:
                    self._refuse(server.status, "etcdserver: no leader")
                elif url.path.endswith(server.refuses):
                    self._refuse(403, "forbidden")
                elif url.path.endswith("/log"):
                    self._log(url.path.split("/")[-2], query)
                elif (found := objects.one(url.path)) is not None:
                    self._answer(200, json.dumps(found))
                elif url.path.split("/")[-2] in objects.kinds:
                    self._refuse(404, "not found")
                else:
                    items = objects.kinds.get(url.path.split("/")[-1], [])
                    for selector in query.get("labelSelector", ()):
                        key, value = selector.split("=")
                        items = [x for x in items if x["metadata"]["labels"].get(key) == value]
                    self._answer(200, json.dumps({"kind": "List", "items": items}))

            def do_PATCH(self) -> None:
                url = urlsplit(self.path)
                server.asked.append(f"PATCH {url.path}")
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.headers["Content-Type"] == "application/merge-patch+json"
                found = objects.one(url.path)
                if server.status != 200:
                    self._refuse(server.status, "etcdserver: no leader")
                elif found is None:
                    self._refuse(404, "not found")
                else:
                    query = parse_qs(url.query)
                    objects.patches.append((url.path, body, query))
                    changed = merged(copy.deepcopy(found), body)
                    if "dryRun" not in query:
                        found.clear()
                        found.update(changed)
                    self._answer(200, json.dumps(changed))

            def do_POST(self) -> None:
                self._write()

            def do_PUT(self) -> None:
                self._write()

            def do_DELETE(self) -> None:
                self._write()

            def _write(self) -> None:
                url = urlsplit(self.path)
                server.asked.append(f"{self.command} {url.path}")
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if server.status != 200:
                    self._refuse(server.status, "etcdserver: no leader")
                    return
                code, said = objects.write(self.command, url.path, body)
                if server.loses == self.command:
                    self.close_connection = True
                else:
                    self._answer(code, json.dumps(said))

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string((timestamp or time.time()) - server.behind)

            def _log(self, pod: str, query: dict[str, list[str]]) -> None:
                lines = objects.logs.get((pod, query.get("previous") == ["true"]))
                if lines is None:
                    self._refuse(400, f'container "api" in pod "{pod}" is waiting to start')
                    return
                lines = lines[-int(query["tailLines"][0]) :]
                if "timestamps" not in query:
                    lines = [line.split(" ", 1)[1] for line in lines]
                text = "".join(f"{line}\n" for line in lines)
                if "follow" in query and not server.released.is_set():
                    self._answer(200, text, more=1)  # the pod goes on
                    server.released.wait(120)
                    self.close_connection = True
                else:
                    self._answer(200, text)

            def _refuse(self, code: int, message: str) -> None:
                self._answer(code, json.dumps({"kind": "Status", "message": message}))

            def _answer(self, code: int, text: str, more: int = 0) -> None:
                body = text.encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(body) + more))
                self.end_headers()
                self.wfile.write(body)
                self.wfile.flush()

            def log_message(self, format: str, *args: Any) -> None:
                """Not on the tests' terminal."""

        self._server = Server(("127.0.0.1", 0), Handler)
        folder.mkdir(parents=True)
        self.kubeconfig: Json = yaml.safe_load(credentials(folder, self._server.server_port))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(folder / "server.crt", folder / "server.key")
        tls.load_verify_locations(folder / "ca.crt")
        tls.verify_mode = ssl.CERT_REQUIRED
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        """Afterwards its port refuses."""
        self.released.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


class Nodes:
    """honeydue-1 to 3; `kubeconfig` has a context for each."""

    def __init__(self, folder: Path) -> None:
        self.objects = Objects()
        self.servers = {
            name: ApiServer(folder / name, self.objects)
            for name in ("honeydue-1", "honeydue-2", "honeydue-3")
        }

    @property
    def kubeconfig(self) -> str:
        document: Json = {"clusters": [], "users": [], "contexts": []}
        for name, server in self.servers.items():
            for kind in ("clusters", "users"):
                (entry,) = server.kubeconfig[kind]
                document[kind].append({**entry, "name": name})
            context = {"cluster": name, "user": name}
            document["contexts"].append({"name": name, "context": context})
        return yaml.safe_dump({**document, "current-context": "honeydue-1"})

    def stop(self) -> None:
        for server in self.servers.values():
            server.stop()


def merged(value: Json, patch: Json) -> Json:
    """RFC 7386."""
    for key, change in patch.items():
        if change is None:
            value.pop(key, None)
        elif isinstance(change, dict):
            value[key] = merged(value.get(key) or {}, change)
        else:
            value[key] = change
    return value
