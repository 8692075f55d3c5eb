"""The gates on the wire: real TLS with client certificates, real HTTP, the real process."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from honeydue.k3s import gate
from honeydue.k3s.gate import GateError, Hetzner, Node
from honeydue.k3s.gates import script

ROOT = Path(gate.__file__).parents[2]
READY = "[+]ping ok\n[+]etcd ok\nreadyz check passed\n"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "TIMEOUT", 60.0)


@pytest.fixture
def nobody_listens() -> Iterator[int]:
    """A port of loopback that is held, and refuses connections."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


class Authority:
    """A small CA: self-signed, P-256, as the program's."""

    def __init__(self, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(name, self.key.public_key(), ca=True)
        self.pem = _pem(self.certificate)

    def issue(self, name: str, *, address: str | None = None) -> tuple[str, str]:
        """Certificate and key, PEM; for a server with that address, else for a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(name, key.public_key(), address=address)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        return _pem(certificate), private.decode()

    def _sign(
        self, name: str, public: Any, *, ca: bool = False, address: str | None = None
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if ca else self.certificate.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if address:
            names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
            builder = builder.add_extension(names, critical=False)
        if not ca:
            use = ExtendedKeyUsageOID.SERVER_AUTH if address else ExtendedKeyUsageOID.CLIENT_AUTH
            builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        return builder.sign(self.key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


@contextmanager
def serve(
    answers: Any, context: ssl.SSLContext | None = None, address: str = "127.0.0.1"
) -> Iterator[int]:
    """`answers(verb, path, body)` → (status, text), on a port of loopback; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            status, text = answers(self.command, self.path, self.rfile.read(length))
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET  # noqa: N815 (http.server's name)

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = False  # their ends are waited for when it is closed

        def handle_error(self, *_: object) -> None: ...  # refused handshakes are what we test

    server = Server((address, 0), Handler)
    if context:
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Cluster:
    """One API server as K3s would serve it: the server CA's certificate, client CA demanded."""

    def __init__(self, folder: Path) -> None:
        self.server_ca, self.client_ca = Authority("server-ca"), Authority("client-ca")
        self.certificate, self.key = self.client_ca.issue("system:admin")
        serving, serving_key = self.server_ca.issue("k3s", address="127.0.0.1")
        (folder / "serving.pem").write_text(serving + serving_key)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "serving.pem")
        self.context.load_verify_locations(cadata=self.client_ca.pem)
        self.context.verify_mode = ssl.CERT_REQUIRED

    def ask(self, port: int, *, server_ca: str | None = None) -> gate.Answer:
        context = gate.tls_context(
            server_ca=server_ca or self.server_ca.pem, certificate=self.certificate, key=self.key
        )
        return gate.asker(context, port)(Node("honeydue-1", "127.0.0.1"), "/readyz?verbose")


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def ready_cluster(_verb: str, path: str, _body: bytes) -> tuple[int, str]:
    if path == "/readyz?verbose":
        return 200, READY
    conditions = [{"type": t, "status": "True"} for t in ("Ready", "EtcdIsVoter")]
    names = ["honeydue-1", "honeydue-2", "honeydue-3"]
    status = {"conditions": conditions}
    nodes = [{"metadata": {"name": name}, "status": status} for name in names]
    return 200, json.dumps({"items": nodes})


def test_the_client_certificate_reaches_the_server_and_no_file_is_left(cluster: Cluster) -> None:
    before = open_files()
    with serve(ready_cluster, cluster.context) as port:
        assert cluster.ask(port).body == READY
    assert open_files() <= before


def open_files() -> set[str]:
    """What this process has open, each by what it is: `pipe:[4711]`."""
    found = set()
    for number in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            found.add(os.readlink(f"/dev/fd/{number}"))
    return found


def test_an_api_server_of_another_ca_is_seen_as_such(cluster: Cluster) -> None:
    with serve(ready_cluster, cluster.context) as port:
        answer = cluster.ask(port, server_ca=Authority("other").pem)
    assert answer.kind == "strange"
    assert "another CA" in answer.seen


def test_a_port_on_which_nothing_listens_refuses(cluster: Cluster, nobody_listens: int) -> None:
    assert cluster.ask(nobody_listens).kind == "refused"


def test_a_server_that_speaks_no_tls_is_strange(cluster: Cluster) -> None:
    with serve(ready_cluster) as port:
        assert cluster.ask(port).kind == "strange"


# --- the process, as Pulumi runs it ---


def environment(cluster: Cluster, port: int, **more: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HONEYDUE_PYTHON": sys.executable,
        "HONEYDUE_NODES": json.dumps([{"name": "honeydue-1", "address": "127.0.0.1"}]),
        "HONEYDUE_SERVER_CA": cluster.server_ca.pem,
        "HONEYDUE_ADMIN_CERTIFICATE": cluster.certificate,
        "HONEYDUE_ADMIN_KEY": cluster.key,
        "HONEYDUE_DEADLINE": "0",
        "HONEYDUE_API_PORT": str(port),
    } | more


def run(which: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", script("ready" if which == "ready" else "health")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_command_finds_its_python_and_passes_a_ready_cluster(cluster: Cluster) -> None:
    with serve(ready_cluster, cluster.context) as port:
        result = run("ready", environment(cluster, port, HONEYDUE_DEADLINE="120"))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == (
        "ready: 1 nodes Ready, 1 etcd voters, every API server up"
    )


def test_a_failed_gate_ends_with_one_line_and_shows_no_secret(
    cluster: Cluster, nobody_listens: int
) -> None:
    result = run("ready", environment(cluster, nobody_listens, HCLOUD_TOKEN="canary-token"))
    assert result.returncode == 1
    assert result.stderr.startswith("error: after 0 s the cluster is not up. honeydue-1: ")
    assert result.stderr.count("\n") == 1
    for secret in ("canary-token", cluster.key.splitlines()[1], "Traceback"):
        assert secret not in result.stdout + result.stderr


def test_a_gate_without_its_environment_says_what_is_missing(cluster: Cluster) -> None:
    without = environment(cluster, 1)
    del without["HONEYDUE_ADMIN_KEY"]
    result = run("ready", without)
    assert result.returncode == 1
    assert result.stderr.startswith("error: HONEYDUE_ADMIN_KEY is not set")


def test_the_health_gate_lifts_the_protection_over_the_wire(cluster: Cluster) -> None:
    hetzner = FakeHetzner()
    hetzner.asked = 1
    three = [{"name": f"honeydue-{i}", "address": "127.0.0.1"} for i in (1, 2, 3)]
    with serve(ready_cluster, cluster.context) as port, serve(hetzner) as api:
        result = run(
            "health",
            environment(
                cluster,
                port,
                HONEYDUE_DEADLINE="120",
                HONEYDUE_NODES=json.dumps(three),
                HONEYDUE_NODE="honeydue-1",
                HONEYDUE_GENERATION="2",
                HONEYDUE_SERVER_TYPE="cx33",
                HONEYDUE_LOCATION="nbg1",
                HONEYDUE_STACK="prod",
                HCLOUD_TOKEN="canary-token",
                HCLOUD_ENDPOINT=f"http://127.0.0.1:{api}/v1",
            ),
        )
    assert (result.returncode, result.stderr) == (0, "")
    assert "lifted the delete protection of honeydue-1 (server 42)" in result.stdout
    # More than once only when the process waited in vain for the answer to the first.
    assert [{"delete": False, "rebuild": False}] * len(hetzner.posted) == hetzner.posted != []


def test_the_gate_needs_the_standard_library_only() -> None:
    result = subprocess.run(
        [sys.executable, "-S", "-c", "import honeydue.k3s.gate"],  # -S: no site-packages
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stderr == ""


# --- Hetzner ---


class FakeHetzner:
    """Two calls of patience: the action runs a while, and the first request is refused."""

    pages = (
        {"server_types": [{"name": "cx23"}], "meta": {"pagination": {"next_page": 2}}},
        {
            "server_types": [{"name": "cx33", "locations": [{"name": "nbg1", "available": True}]}],
            "meta": {"pagination": {"next_page": None}},
        },
    )

    def __init__(self, *failures: int) -> None:
        self.failures = list(failures)
        self.posted: list[Any] = []
        self.asked = 0

    def __call__(self, verb: str, path: str, body: bytes) -> tuple[int, str]:
        if self.failures:
            return self.failures.pop(0), json.dumps({"error": {"code": "rate_limit_exceeded"}})
        if path == "/v1/servers?name=honeydue-1":
            protection = {"delete": True, "rebuild": True}
            server = {"id": 42, "labels": {"generation": "1"}, "protection": protection}
            return 200, json.dumps({"servers": [server]})
        if path.startswith("/v1/servers?"):
            return 200, json.dumps({"servers": []})
        if path.startswith("/v1/server_types?per_page=50&page="):
            return 200, json.dumps(self.pages[int(path[-1]) - 1])
        if verb == "POST" and path == "/v1/servers/42/actions/change_protection":
            self.posted.append(json.loads(body))
            return 201, json.dumps({"action": {"id": 7, "status": "running"}})
        assert path == "/v1/actions/7", path
        self.asked += 1
        status = "success" if self.asked > 1 else "running"
        return 200, json.dumps({"action": {"id": 7, "status": status}})


@contextmanager
def hetzner(fake: FakeHetzner) -> Iterator[tuple[Hetzner, list[float]]]:
    slept: list[float] = []
    with serve(fake) as port:
        endpoint = f"http://127.0.0.1:{port}/v1/"
        yield Hetzner(token="canary-token", endpoint=endpoint, sleep=slept.append), slept


def test_a_rate_limit_and_a_5xx_are_waited_out() -> None:
    with hetzner(FakeHetzner(429, 503)) as (api, slept):
        found = api.server("honeydue-1")
    assert found is not None
    assert found["id"] == 42
    assert slept == [2.0, 4.0]


def test_a_server_that_is_not_there_is_none() -> None:
    with hetzner(FakeHetzner()) as (api, _):
        assert api.server("honeydue-9") is None


def test_lifting_waits_for_the_action() -> None:
    fake = FakeHetzner()
    with hetzner(fake) as (api, slept):
        api.lift_protection(42)
    assert fake.asked == 2
    assert slept == [1.0, 1.0]


def test_server_types_are_listed_to_the_last_page() -> None:
    with hetzner(FakeHetzner()) as (api, _):
        assert [kind["name"] for kind in api.server_types()] == ["cx23", "cx33"]


def test_a_refused_token_is_named_and_not_shown() -> None:
    with hetzner(FakeHetzner(401)) as (api, slept), pytest.raises(GateError) as refused:
        api.server("honeydue-1")
    assert "is honeydue:hcloudToken right" in str(refused.value)
    assert "canary-token" not in str(refused.value)
    assert slept == []


def test_an_api_that_stays_broken_is_given_up_with_the_reason() -> None:
    with hetzner(FakeHetzner(*[503] * 6)) as (api, _), pytest.raises(GateError) as broken:
        api.server("honeydue-1")
    assert "GET /servers?name=honeydue-1: HTTP 503 rate_limit_exceeded" in str(broken.value)
