"""A real Kubernetes on servers that the Hetzner stand-in boots, and the disasters it must outlive.

One production for the whole file, made through the vendor's client as Pulumi's plugin makes it:
the server first, its private network after it has started. Each test leaves three good nodes.
"""

from __future__ import annotations

import base64
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hcloud
import pytest
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.networks import Network, NetworkSubnet
from hcloud.primary_ips import PrimaryIP
from hcloud.server_types import ServerType
from hcloud.servers import BoundServer, ServerCreatePublicNetwork

from rehearsal import serve
from rehearsal.cluster.certificates import Pair, issue
from rehearsal.cluster.clients import Api, Etcd, NoAnswer, Refused, tls_context
from rehearsal.cluster.processes import Identity
from rehearsal.home import Home
from tests.rehearsal.production import Production

pytestmark = pytest.mark.cluster

NUMBERS = (1, 2, 3)


class Datacenter:
    """Three servers at the stand-in, seen from outside: only what an operator has."""

    def __init__(self, home: Home, folder: Path) -> None:
        self.home = home
        self.production = Production()
        at = serve.ensure_serving(home)
        self.client = hcloud.Client(token="t" * 64, api_endpoint=at.hcloud_url, poll_interval=0.1)
        self.network: Network = self.client.networks.create(
            "honeydue",
            "10.10.0.0/16",
            subnets=[NetworkSubnet("10.10.1.0/24", "cloud", "eu-central")],
        )
        self.addresses: dict[int, PrimaryIP] = {}
        for number in NUMBERS:
            made = self.client.primary_ips.create(
                "ipv4", f"honeydue-{number}-ipv4", location=Location(name="nbg1"), auto_delete=False
            )
            assert made.primary_ip.ip is not None
            self.addresses[number] = made.primary_ip
            self.production.addresses[number] = made.primary_ip.ip
        self.context = self._admin(folder)
        self.etcd_context = self._etcd_client(folder)

    def create(self, number: int, **changed: Any) -> BoundServer:
        made = self.client.servers.create(
            name=f"honeydue-{number}",
            server_type=ServerType(name="cx33"),
            image=Image(name="ubuntu-24.04"),
            location=Location(name="nbg1"),
            user_data=self.production.user_data(number, **changed),
            public_net=ServerCreatePublicNetwork(
                ipv4=self.addresses[number], enable_ipv4=True, enable_ipv6=False
            ),
        )
        made.action.wait_until_finished()
        attached = made.server.attach_to_network(self.network, ip=f"10.10.1.{10 + number}")
        attached.wait_until_finished()
        return made.server

    def server(self, number: int) -> BoundServer:
        found = self.client.servers.get_by_name(f"honeydue-{number}")
        assert found is not None
        return found

    def api(self, number: int) -> Api:
        """With the admin certificate that is known before the first boot."""
        return Api(self.production.public(number), 6443, self.context, seconds=20)

    def etcd(self, number: int) -> Etcd:
        return Etcd(self.production.public(number), 2379, self.etcd_context)

    def status(self, number: int) -> tuple[str, str]:
        node = serve.nodes(self.home)["nodes"].get(f"honeydue-{number}", {})
        return node.get("phase", "off"), node.get("line", "")

    def wait_until_whole(self, seconds: float = 120) -> None:
        """Three Ready nodes, three voters, three API servers."""
        until(self._whole, seconds, lambda: str([self.status(n) for n in NUMBERS]))

    def _whole(self) -> bool:
        if not all(self.status(n)[0] == "running" for n in NUMBERS):
            return False
        conditions = {
            name: {one["type"]: one["status"] for one in node["status"].get("conditions", [])}
            for name, node in self.nodes(1).items()
        }
        return len(conditions) == 3 and all(
            one.get("Ready") == one.get("EtcdIsVoter") == "True" for one in conditions.values()
        )

    def nodes(self, through: int) -> dict[str, dict[str, Any]]:
        items = (self.api(through).get("/api/v1/nodes") or {}).get("items", [])
        return {node["metadata"]["name"]: node for node in items}

    def _admin(self, folder: Path) -> Any:
        return tls_context(self._ca(folder, "server-ca"), self._leaf(folder, "client-ca"))

    def _etcd_client(self, folder: Path) -> Any:
        return tls_context(self._ca(folder, "etcd/server-ca"), self._leaf(folder, "etcd/server-ca"))

    def _ca(self, folder: Path, name: str) -> Pair:
        pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
        pair.crt.parent.mkdir(parents=True, exist_ok=True)
        pair.crt.write_text(self.production.pki[f"{name}.crt"])
        pair.key.write_text(self.production.pki[f"{name}.key"])
        return pair

    def _leaf(self, folder: Path, ca: str) -> Pair:
        leaf = Pair(folder / f"{ca}-admin.crt", folder / f"{ca}-admin.key")
        return issue(self._ca(folder, ca), leaf, name="operator", groups=["system:masters"])


def until(
    condition: Callable[[], object], seconds: float, told: Callable[[], str] = lambda: ""
) -> None:
    limit = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except (NoAnswer, Refused):
            pass
        assert time.monotonic() < limit, f"not within {seconds} s: {told()}"
        time.sleep(0.25)


@pytest.fixture(scope="module")
def datacenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Datacenter]:
    home = Home(tmp_path_factory.mktemp("home"))
    try:
        made = Datacenter(home, tmp_path_factory.mktemp("operator"))
        for number in NUMBERS:
            made.create(number)
        made.wait_until_whole(seconds=1500)  # a cold cache builds Kubernetes first
        yield made
    finally:
        serve.down(home)


@pytest.fixture(autouse=True)
def _whole_again(datacenter: Datacenter) -> None:
    datacenter.wait_until_whole()


def test_every_node_answers_on_its_own_address_with_the_certificate_known_before(
    datacenter: Datacenter,
) -> None:
    for number in NUMBERS:
        assert datacenter.api(number).ready()
        assert len(datacenter.nodes(number)) == 3


def test_an_api_server_takes_nobody_without_a_certificate(datacenter: Datacenter) -> None:
    import ssl  # noqa: PLC0415 - only a stranger needs it

    stranger = ssl.create_default_context(cadata=datacenter.production.pki["server-ca.crt"])
    stranger.verify_flags &= ~ssl.VERIFY_X509_STRICT
    with pytest.raises(Refused) as refusal:
        Api(datacenter.production.public(1), 6443, stranger).call("GET", "/readyz")
    assert refusal.value.status == 401


def test_a_node_is_as_k3s_registers_it(datacenter: Datacenter) -> None:
    node = datacenter.nodes(1)["honeydue-2"]
    labels, status = node["metadata"]["labels"], node["status"]
    assert labels["node-role.kubernetes.io/control-plane"] == "true"
    assert labels["node-role.kubernetes.io/etcd"] == "true"
    assert "topology.kubernetes.io/zone" not in labels
    assert {one["type"]: one["address"] for one in status["addresses"]} == {
        "InternalIP": "10.10.1.12",
        "ExternalIP": datacenter.production.public(2),
        "Hostname": "honeydue-2",
    }
    assert status["nodeInfo"]["kubeletVersion"] == "v1.34.6+k3s1"
    assert status["capacity"]["cpu"] == "4"
    assert status["allocatable"]["cpu"] == "3"  # less what the kubelet-args reserve
    assert node["spec"]["providerID"] == "k3s://honeydue-2"


def test_etcd_has_three_voters_named_after_their_nodes(datacenter: Datacenter) -> None:
    members = datacenter.etcd(2).members()
    assert sorted(member.name.rpartition("-")[0] for member in members) == [
        "honeydue-1",
        "honeydue-2",
        "honeydue-3",
    ]
    assert not any(member.learner for member in members)


def test_secrets_are_encrypted_in_etcd_and_every_server_reads_them(datacenter: Datacenter) -> None:
    secret = {"metadata": {"name": "canary"}, "stringData": {"word": "canary-in-the-clear"}}
    datacenter.api(1).create("/api/v1/namespaces/default/secrets", secret)
    key = base64.b64encode(b"/registry/secrets/default/canary").decode()
    stored = datacenter.etcd(3).call("POST", "/v3/kv/range", {"key": key})["kvs"][0]["value"]
    raw = base64.b64decode(stored)
    assert raw.startswith(b"k8s:enc:aescbc:v1:")
    assert b"canary-in-the-clear" not in raw
    for number in NUMBERS:
        read = datacenter.api(number).get("/api/v1/namespaces/default/secrets/canary")
        assert read is not None
        assert base64.b64decode(read["data"]["word"]) == b"canary-in-the-clear"


def test_what_k3s_packages_is_there(datacenter: Datacenter) -> None:
    api = datacenter.api(1)
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for name in ("helmchartconfigs.helm.cattle.io", "middlewares.traefik.io"):
        assert api.get(f"{definitions}/{name}") is not None
    assert api.get("/apis/networking.k8s.io/v1/ingressclasses/traefik") is not None
    config = {
        "apiVersion": "helm.cattle.io/v1",
        "kind": "HelmChartConfig",
        "metadata": {"name": "traefik"},
        "spec": {"valuesContent": "{}"},
    }
    assert api.create("/apis/helm.cattle.io/v1/namespaces/kube-system/helmchartconfigs", config)


def test_the_audit_log_and_the_admission_file_are_in_force(datacenter: Datacenter) -> None:
    pod = {
        "metadata": {"name": "privileged"},
        "spec": {
            "containers": [
                {"name": "x", "image": "x", "securityContext": {"privileged": True}},
            ]
        },
    }
    with pytest.raises(Refused, match="violates PodSecurity"):
        datacenter.api(1).create("/api/v1/namespaces/default/pods", pod)
    folder = datacenter.home.nodes / str(datacenter.server(1).id) / "disk"
    log = folder / "var/lib/rancher/k3s/server/logs/audit.log"
    until(lambda: "privileged" in log.read_text(), 10)


def test_workloads_are_placed_on_all_nodes_become_ready_and_get_their_volumes(
    datacenter: Datacenter,
) -> None:
    api = datacenter.api(2)
    labels = {"app": "stateful"}
    stateful = {
        "metadata": {"name": "stateful"},
        "spec": {
            "serviceName": "stateful",
            "replicas": 3,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "containers": [{"name": "x", "image": "x"}],
                    "topologySpreadConstraints": [
                        {
                            "maxSkew": 1,
                            "topologyKey": "kubernetes.io/hostname",
                            "whenUnsatisfiable": "DoNotSchedule",
                            "labelSelector": {"matchLabels": labels},
                        }
                    ],
                },
            },
            "volumeClaimTemplates": [
                {
                    "metadata": {"name": "data"},
                    "spec": {
                        "accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": "1Gi"}},
                    },
                }
            ],
        },
    }
    path = "/apis/apps/v1/namespaces/default/statefulsets"
    api.create(path, stateful)

    def ready() -> bool:
        found = api.get(f"{path}/stateful") or {}
        return bool(found["status"].get("readyReplicas") == 3)

    until(ready, 60)
    pods = api.call("GET", "/api/v1/namespaces/default/pods?labelSelector=app%3Dstateful")["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == {"honeydue-1", "honeydue-2", "honeydue-3"}
    api.delete(f"{path}/stateful")
    api.delete("/api/v1/namespaces/default/persistentvolumeclaims")
    until(lambda: not (api.get("/api/v1/persistentvolumes") or {})["items"], 60)


def test_an_api_server_that_crashes_is_started_again(datacenter: Datacenter) -> None:
    folder = datacenter.home.nodes / str(datacenter.server(2).id)
    identity = Identity.read(folder / "run" / "kube-apiserver.pid")
    assert identity is not None
    os.kill(identity.pid, signal.SIGKILL)
    until(lambda: not datacenter.api(2).ready(), 10)
    until(datacenter.api(2).ready, 60)
    assert "kube-apiserver ended (signal 9)" in (folder / "console.log").read_text()


def test_one_node_may_be_off_without_an_outage_and_resumes_with_its_own_disk(
    datacenter: Datacenter,
) -> None:
    before = {member.id for member in datacenter.etcd(1).members()}
    datacenter.server(3).power_off().wait_until_finished()
    until(lambda: datacenter.status(3)[0] == "off", 30)
    until(lambda: not datacenter.api(3).ready(), 30)
    assert datacenter.api(1).ready()
    space = {"metadata": {"name": "made-by-two"}}
    assert datacenter.api(2).create("/api/v1/namespaces", space)
    datacenter.server(3).power_on().wait_until_finished()
    datacenter.wait_until_whole()
    assert {member.id for member in datacenter.etcd(1).members()} == before
    assert datacenter.api(3).get("/api/v1/namespaces/made-by-two") is not None


def test_a_replaced_founder_joins_its_peers_and_never_founds_again(datacenter: Datacenter) -> None:
    old = datacenter.nodes(2)["honeydue-1"]["metadata"]["uid"]
    space = {"metadata": {"name": "older-than-the-founder"}}
    datacenter.api(2).create("/api/v1/namespaces", space)
    datacenter.server(1).delete().wait_until_finished()
    created = datacenter.create(1)
    datacenter.wait_until_whole()
    assert datacenter.nodes(1)["honeydue-1"]["metadata"]["uid"] != old
    assert datacenter.api(1).get("/api/v1/namespaces/older-than-the-founder") is not None
    assert len(datacenter.etcd(1).members()) == 3
    console = (datacenter.home.nodes / str(created.id) / "console.log").read_text()
    assert "founding" not in console
    assert "removing the Node object that the previous honeydue-1 left" in console


def test_a_deleted_node_takes_its_etcd_member_along(datacenter: Datacenter) -> None:
    """How a cluster gets smaller: off, then the Node, and no voter is left (docs/rebuild.md)."""
    datacenter.server(3).delete().wait_until_finished()
    assert len(datacenter.etcd(1).members()) == 3
    datacenter.api(1).delete("/api/v1/nodes/honeydue-3")
    until(lambda: len(datacenter.etcd(1).members()) == 2, 30)
    assert not any(member.is_of_node("honeydue-3") for member in datacenter.etcd(1).members())
    datacenter.create(3)


def test_servers_that_k3s_would_refuse_stay_out_and_their_consoles_say_why(
    datacenter: Datacenter,
) -> None:
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"cluster_cidr": "10.99.0.0/16"}, "refuses this node: cluster-cidr is '10.42.0.0/16'"),
        ({"token": "another-password"}, "refuses this node: 401 Unauthorized, the token"),
        ({"tls_sans": []}, "K3s v1.34 has no flag 'tls-sans'; did you mean 'tls-san'?"),
    ]
    for changed, cause in refusals:
        datacenter.server(3).delete().wait_until_finished()
        datacenter.create(3, **changed)
        until(lambda: datacenter.status(3)[0] == "failed", 60)
        assert cause in datacenter.status(3)[1]
    assert len(datacenter.etcd(1).members()) == 3  # two living, and the one that was deleted
    datacenter.server(3).delete().wait_until_finished()
    datacenter.create(3)


def test_everything_comes_back_after_the_serving_process_was_killed(
    datacenter: Datacenter,
) -> None:
    pids = [
        identity
        for file in datacenter.home.nodes.glob("*/run/*.pid")
        if (identity := Identity.read(file))
    ]
    assert len(pids) == 15
    found = serve.serving(datacenter.home)
    assert found is not None
    serving = Identity.of(found.pid, "serve")
    assert serving is not None
    os.kill(found.pid, signal.SIGKILL)
    until(lambda: not serving.lives(), 10)
    serve.ensure_serving(datacenter.home)
    assert not any(identity.lives() for identity in pids)
    datacenter.wait_until_whole()


def test_down_leaves_no_process_and_the_next_serve_finds_all_again(datacenter: Datacenter) -> None:
    block = int(datacenter.production.public(1).split(".")[1])
    datacenter.api(1).create("/api/v1/namespaces", {"metadata": {"name": "before-down"}})
    serve.down(datacenter.home)
    assert block not in serve._listening_blocks()
    assert not [
        process
        for process in Path("/proc").glob("[0-9]*/cmdline")
        if str(datacenter.home.root).encode() in _contents(process)
    ]
    serve.ensure_serving(datacenter.home)
    datacenter.wait_until_whole()
    assert datacenter.api(2).get("/api/v1/namespaces/before-down") is not None


def _contents(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
