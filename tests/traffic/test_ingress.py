"""Traefik of one node, against an API server that is a dictionary: when it listens, what it says,
whom it asks."""

from __future__ import annotations

import base64
import copy
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from honeydue.kubernetes.ingress import TLS_SECRET
from rehearsal.clouds.cloudflare import Cloudflare
from rehearsal.clouds.machines import Machine
from rehearsal.cluster.clients import Api, NoAnswer
from rehearsal.cluster.node import Status
from rehearsal.home import Home
from rehearsal.kubelet.behaviour import Behaviour
from rehearsal.traffic import ingress as module
from rehearsal.traffic.authority import self_signed
from rehearsal.traffic.http import Answer, Listener, Request
from rehearsal.traffic.ingress import WATCHED, Around, Ingress, server_context
from rehearsal.traffic.way import Way
from tests.traffic.test_routes import objects, ready, slice_of

PATIENCE = 120.0  # seconds; only a machine that stands still needs more than one
MACHINE = Machine(
    id=1,
    name="honeydue-1",
    user_data="",
    public_ipv4="127.63.0.5",
    public_ipv6=None,
    private_ipv4=None,
    network_id=None,
    cores=4,
    memory_gb=8,
    disk_gb=80,
    location="nbg1",
    labels={},
)


class World:
    """Kubernetes' objects, the pods' processes, and a node's Traefik between them."""

    def __init__(self) -> None:
        self.objects: dict[str, list[Any]] = objects()
        self.images: dict[str, str] = {}  # by pod
        self.away = False
        self.on = {"honeydue-1"}
        self.processes: dict[tuple[str, int], tuple[str, int]] = {}
        self.behaviours: dict[str, Behaviour] = {}
        self.requests: list[Request] = []

    # the API server

    def get(self, path: str) -> dict[str, Any] | None:
        if self.away:
            raise NoAnswer("it is away")
        for kind, known in WATCHED.items():
            if path == known:
                # Without a version nothing can be watched: it is listed again and again.
                items = copy.deepcopy(self.objects[kind])
                for one in items:
                    one["metadata"]["uid"] = "/".join(str(v) for v in one["metadata"].values())
                return {"items": items, "metadata": {}}
        image = self.images.get(path.rpartition("/")[2])
        return {"spec": {"containers": [{"image": image}]}} if image else None

    # the kubelets

    def address(self, pod_ip: str, port: int) -> tuple[str, int] | None:
        return self.processes.get((pod_ip, port))

    def behaviour(self, pod_ip: str) -> Behaviour:
        return self.behaviours.get(pod_ip, Behaviour())

    def runs(self, stack: ExitStack, pod_ip: str, name: str) -> Listener:
        def handle(request: Request) -> Answer:
            self.requests.append(request)
            return Answer.text(200, name)

        listener = Listener(handle, "127.0.0.1", 0)
        stack.callback(listener.stop)
        self.processes[pod_ip, 8000] = "127.0.0.1", listener.port
        return listener


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(module, "THROTTLE_SECONDS", 0.02)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.02)
    return World()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def node(world: World, stack: ExitStack) -> Ingress:
    # An address of its own in a block that no rehearsal takes: 80 and 443 are free there.
    return begin(world, stack, "127.63.0.1")


def begin(world: World, stack: ExitStack, address: str, edge: str = "127.0.0.1") -> Ingress:
    around = Around(world, _built, lambda name: name in world.on, edge)
    ingress = Ingress(address, _as_api(world), around)
    stack.callback(ingress.stop)
    return ingress


def _as_api(world: World) -> Api:
    found: Any = world  # of an Api, only `get` is asked as long as nothing can be watched
    found.host = "127.63.0.1"
    api: Api = found
    return api


def _built(image: str) -> bool:
    return image.startswith("127.0.0.1:3000/")


def ask(node: Ingress, path: str = "/", host: str = "api.example.org") -> httpx.Response:
    port = until(lambda: node.where(80))
    with httpx.Client(trust_env=False, timeout=PATIENCE) as client:
        url = f"http://{node.address}:{port}{path}"
        return client.get(url, headers={"Host": host, "X-Forwarded-For": "203.0.113.9"})


def until(met: Callable[[], Any]) -> Any:
    limit = time.monotonic() + PATIENCE
    while not (found := met()):
        assert time.monotonic() < limit
        time.sleep(0.01)
    return found


def test_a_request_reaches_the_process_of_a_ready_pod(
    world: World, node: Ingress, stack: ExitStack
) -> None:
    world.runs(stack, "10.42.0.5", "the api")
    answer = ask(node, "/api/health/?a=1")
    assert (answer.status_code, answer.text) == (200, "the api")
    assert answer.headers["X-Rehearsal-Pod"] == "pod-10.42.0.5"
    assert "X-Rehearsal" not in answer.headers
    assert world.requests[0].target == "/api/health/?a=1"
    assert world.requests[0].host == "api.example.org"


def test_only_the_edge_is_believed_about_the_client(
    world: World, node: Ingress, stack: ExitStack
) -> None:
    world.runs(stack, "10.42.0.5", "the api")
    ask(node)
    assert world.requests[-1].header("x-forwarded-for") == "203.0.113.9, 127.0.0.1"
    stranger = begin(world, stack, "127.63.0.2", edge="127.63.255.254")
    ask(stranger)
    assert world.requests[-1].header("x-forwarded-for") == "127.0.0.1"
    assert world.requests[-1].header("x-real-ip") == "127.0.0.1"


def test_pretended_pods_are_answered_for_and_it_is_said(world: World, node: Ingress) -> None:
    digest = f"sha256:{'a' * 64}"
    world.images["pod-10.42.0.5"] = f"registry.honeydue.test/admin/honeydue-api@{digest}"
    answer = ask(node, "/any/path")
    assert answer.status_code == 200
    assert answer.headers["X-Rehearsal"] == "pretended"
    assert answer.json() == {"pretended": True, "pod": "pod-10.42.0.5", "image": digest}


def test_a_pod_that_was_told_to_answer_500_does(
    world: World, node: Ingress, stack: ExitStack
) -> None:
    world.runs(stack, "10.42.0.5", "the api")
    world.behaviours["10.42.0.5"] = Behaviour("answers-500")
    assert ask(node).status_code == 500
    assert world.requests == []


def test_a_pod_whose_process_is_gone_is_a_bad_gateway_and_never_answered_for(
    world: World, node: Ingress, stack: ExitStack
) -> None:
    world.images["pod-10.42.0.5"] = "127.0.0.1:3000/admin/honeydue-api@sha256:1"
    assert (ask(node).status_code, ask(node).text) == (502, "Bad Gateway")
    world.runs(stack, "10.42.0.5", "the api").stop()
    assert ask(node).status_code == 502


def test_the_pods_of_a_node_without_power_do_not_answer_pretended_or_not(
    world: World, node: Ingress, stack: ExitStack
) -> None:
    world.images["pod-10.42.0.5"] = "registry.honeydue.test/admin/honeydue-api@sha256:1"
    assert ask(node).status_code == 200
    world.on.clear()
    assert (ask(node).status_code, ask(node).text) == (504, "Gateway Timeout")
    world.runs(stack, "10.42.0.5", "the api")
    assert ask(node).status_code == 504


def test_the_statuses_of_no_route_and_no_pod_are_traefik_s(node: Ingress) -> None:
    unknown = ask(node, host="www.example.org")
    assert (unknown.status_code, unknown.text) == (404, "404 page not found\n")
    empty = ask(node, host="admin.example.org")
    assert (empty.status_code, empty.text) == (503, "no available server\n")


def test_pods_take_turns_and_one_that_goes_is_not_asked_any_more(
    world: World, node: Ingress, stack: ExitStack
) -> None:
    for address in ("10.42.0.5", "10.42.0.6"):
        world.runs(stack, address, address)
    both = ready("10.42.0.5"), ready("10.42.0.6")
    world.objects["endpointslices"] = [slice_of("api", *both)]
    until(lambda: len({ask(node).text for _ in range(2)}) == 2)
    going = ready("10.42.0.6", ready=False, terminating=True)
    world.objects["endpointslices"] = [slice_of("api", both[0], going)]
    until(lambda: {ask(node).text for _ in range(4)} == {"10.42.0.5"})


def test_while_the_api_server_is_away_what_it_said_last_holds(
    world: World, node: Ingress, stack: ExitStack
) -> None:
    world.runs(stack, "10.42.0.5", "the api")
    assert ask(node).status_code == 200
    world.away = True
    world.objects = {kind: [] for kind in WATCHED}
    time.sleep(0.1)  # several looks
    assert ask(node).status_code == 200


def test_nothing_listens_before_the_program_s_values_and_after_they_or_the_node_are_gone(
    world: World, stack: ExitStack
) -> None:
    values, world.objects["helmchartconfigs"] = world.objects["helmchartconfigs"], []
    node = begin(world, stack, "127.63.0.3")
    time.sleep(0.2)  # several looks
    assert node.where(80) is None
    world.objects["helmchartconfigs"] = values
    port = until(lambda: node.where(80))
    socket.create_connection((node.address, port)).close()
    world.objects["helmchartconfigs"] = []
    until(lambda: node.where(80) is None)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((node.address, port))
    world.objects["helmchartconfigs"] = values
    port = until(lambda: node.where(80))
    node.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((node.address, port))


def test_a_power_cut_ends_the_connections_that_are_open(
    world: World, node: Ingress, stack: ExitStack
) -> None:
    world.runs(stack, "10.42.0.5", "the api")
    port = until(lambda: node.where(80))
    with socket.create_connection((node.address, port), timeout=PATIENCE) as kept:
        kept.sendall(b"GET / HTTP/1.1\r\nHost: api.example.org\r\n\r\n")
        assert kept.recv(12) == b"HTTP/1.1 200"
        node.stop()
        while kept.recv(65536):
            pass


def test_by_tls_each_name_gets_its_certificate_and_others_traefik_s_own() -> None:
    chain, key = self_signed("the origin", ca=False)  # for the name `rehearsal`
    context = server_context([(chain, key)])
    listener = Listener(lambda _request: Answer(204), "127.0.0.1", 0, lambda: context)
    seen = {}
    for name in ("rehearsal", "other.example.org"):
        blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection((listener.host, listener.port)) as plain,
            blind.wrap_socket(plain, server_hostname=name) as secure,
        ):
            seen[name] = ssl.DER_cert_to_PEM_cert(secure.getpeercert(binary_form=True) or b"")
    listener.stop()
    assert seen["rehearsal"] == chain.decode()
    assert seen["other.example.org"] != chain.decode()


def test_strict_mode_serves_by_tls_alone(world: World, stack: ExitStack) -> None:
    chain, key = self_signed("the origin", ca=False)
    secret = {
        "metadata": {"namespace": "honeydue", "name": TLS_SECRET},
        "data": {
            "tls.crt": base64.b64encode(chain).decode(),
            "tls.key": base64.b64encode(key).decode(),
        },
    }
    world.objects = objects(tls=True, secrets=[secret])
    world.runs(stack, "10.42.0.5", "the api")
    node = begin(world, stack, "127.63.0.4")
    assert ask(node).status_code == 404
    trusting = ssl.create_default_context(cadata=chain.decode())
    trusting.verify_flags &= ~ssl.VERIFY_X509_STRICT  # it is its own authority
    port = until(lambda: node.where(443))
    with httpx.Client(verify=trusting, trust_env=False, timeout=PATIENCE) as client:
        answer = client.get(
            f"https://{node.address}:{port}/",
            headers={"Host": "api.example.org"},
            extensions={"sni_hostname": "rehearsal"},
        )
    # The certificate is for `rehearsal`: it is chosen by the name in the greeting, not the host.
    assert (answer.status_code, answer.text) == (200, "the api")


# --- a node's whole life, behind the edge ---


class Server:
    """A node of the data centre, as far as the way asks it."""

    def __init__(self, world: World) -> None:
        self.machine = MACHINE
        self.address = "127.63.0.5"
        self.phase = "booting"
        self._world = world

    def api(self) -> Api:
        return _as_api(self._world)

    def status(self) -> Status:
        return Status(self.phase, "")


class Rack:
    def __init__(self, *on: Server) -> None:
        self.on = list(on)

    def nodes(self) -> list[Server]:
        return self.on


def test_a_node_has_its_traefik_from_when_it_runs_until_its_power_is_off(
    world: World, stack: ExitStack, tmp_path: Path
) -> None:
    server = Server(world)
    rack = Rack(server)
    zones = Cloudflare(tmp_path / "store.json", None, {"0" * 32: "example.org"}).app.store
    with zones.transaction() as state:
        state["settings"]["0" * 32] = {"ssl": {"value": "flexible"}}
        state["records"]["1"] = {
            "zone_id": "0" * 32,
            "name": "api.example.org",
            "type": "A",
            "content": server.address,
            "proxied": True,
        }
    way = Way(Home(tmp_path), port=0, block=63, store=zones, nodes=rack, pods=world, built=_built)
    stack.callback(way.stop)
    trusting = ssl.create_default_context(cafile=Home(tmp_path).edge_ca)
    client = stack.enter_context(httpx.Client(verify=trusting, trust_env=False, timeout=PATIENCE))
    world.runs(stack, "10.42.0.5", "the api")

    def status() -> int:
        return client.get(
            f"https://127.0.0.1:{way._listener.port}/",
            headers={"Host": "api.example.org"},
            extensions={"sni_hostname": "api.example.org"},
        ).status_code

    assert status() == 521
    server.phase = "running"
    until(lambda: status() == 200)
    assert world.requests[-1].header("x-forwarded-for") == "127.0.0.1, 127.63.255.254"
    server.phase = "failed"  # K3s is; what it has started goes on
    world.away = True
    time.sleep(0.5)  # two looks
    assert status() == 200
    rack.on.clear()
    until(lambda: status() == 521)
