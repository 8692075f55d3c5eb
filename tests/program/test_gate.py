"""The gates' judgement, against a cluster and a Hetzner that are plain tables; no time passes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from honeydue.k3s import gate
from honeydue.k3s.gate import Answer, Change, GateError, Node, Patience

NODES = tuple(Node(f"honeydue-{i}", f"203.0.113.{i}") for i in (1, 2, 3))
HEALTHY = "[+]ping ok\n[+]etcd ok\n[+]etcd-readiness ok\nreadyz check passed\n"
REFUSED = Answer(seen="connection refused (no K3s runs there)", kind="refused")
SILENT = Answer(seen="no answer on 203.0.113.1:6443", kind="silent")


def sold(name: str, cores: int, memory: float, euros: str, architecture: str = "x86") -> Any:
    price = {"location": "nbg1", "price_monthly": {"net": euros}}
    kind = {"name": name, "cores": cores, "memory": memory, "architecture": architecture}
    return kind | {"prices": [price], "deprecation": None}


SOLD = (
    sold("cx23", 2, 4.0, "3.49"),
    sold("cx33", 4, 8.0, "5.49"),
    sold("ccx23", 4, 16.0, "24.49"),
    sold("cx43", 8, 16.0, "9.49"),
    sold("cax21", 4, 8.0, "6.49", "arm"),
    sold("cpx31", 4, 8.0, "1.00") | {"deprecation": {"announced": "2025-10-16"}},
)


@dataclass
class World:
    """Three managers, all healthy, all at Hetzner; each test spoils what it is about."""

    health: dict[str, Answer] = field(
        default_factory=lambda: {n.name: Answer(200, HEALTHY) for n in NODES}
    )
    conditions: dict[str, dict[str, str]] = field(
        default_factory=lambda: {n.name: {"Ready": "True", "EtcdIsVoter": "True"} for n in NODES}
    )
    listing: Answer | None = None
    servers: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {
            n.name: {
                "id": i,
                "status": "running",
                "labels": {"generation": "1"},
                "server_type": {"name": "cx33"},
                "protection": {"delete": True, "rebuild": True},
            }
            for i, n in enumerate(NODES, 41)
        }
    )
    gone: set[str] = field(default_factory=set)
    """Server types that are sold out in nbg1."""
    hetzner_says: Exception | None = None
    """What asking for server types raises."""
    asked: int = 0
    clock: float = 0.0
    lines: list[str] = field(default_factory=list)
    lifted: list[int] = field(default_factory=list)
    later: dict[float, Callable[[World], None]] = field(default_factory=dict)
    """What happens when the clock reaches a second."""

    def ask(self, node: Node, path: str) -> Answer:
        if path == "/readyz?verbose":
            return self.health[node.name]
        assert path == "/api/v1/nodes"
        if self.health[node.name].status is None:
            return self.health[node.name]
        items = [
            {
                "metadata": {"name": name},
                "status": {"conditions": [{"type": t, "status": s} for t, s in found.items()]},
            }
            for name, found in self.conditions.items()
        ]
        return self.listing or Answer(200, json.dumps({"items": items}))

    def sleep(self, seconds: float) -> None:
        self.clock += seconds
        for moment in sorted(m for m in self.later if m <= self.clock):
            self.later.pop(moment)(self)

    def patience(self, deadline: float = 90.0) -> Patience:
        return Patience(deadline, self.lines.append, self.sleep, lambda: self.clock)

    # gate.Hetzner's three questions

    def server(self, name: str) -> dict[str, Any] | None:
        return self.servers.get(name)

    def lift_protection(self, server_id: int) -> None:
        self.lifted.append(server_id)

    def server_types(self) -> list[dict[str, Any]]:
        self.asked += 1
        if self.hetzner_says:
            raise self.hetzner_says
        return [kind | {"locations": self.places(kind["name"])} for kind in SOLD]

    def places(self, server_type: str) -> list[dict[str, Any]]:
        there = {"fsn1": True, "nbg1": server_type not in self.gone}
        return [{"name": name, "available": available} for name, available in there.items()]

    def lose(self, name: str) -> None:
        self.health[name] = SILENT
        self.servers.pop(name, None)

    def pass_gate(
        self,
        name: str,
        generation: int = 1,
        *,
        server_type: str = "cx33",
        nodes: Sequence[Node] = NODES,
    ) -> None:
        change = Change(name, generation, server_type, "nbg1", "prod")
        gate.health(nodes, change, self.ask, self, self.patience())  # type: ignore[arg-type]  # a fake

    def refused(self, name: str, generation: int = 1, **more: Any) -> str:
        with pytest.raises(GateError) as stopped:
            self.pass_gate(name, generation, **more)
        return str(stopped.value)


@pytest.fixture
def world() -> World:
    return World()


# --- at once ---


def test_on_the_very_first_creation_every_manager_passes_at_once() -> None:
    for name in ("honeydue-1", "honeydue-2", "honeydue-3"):
        world = World(servers={}, conditions={}, health=dict.fromkeys(World().health, SILENT))
        world.pass_gate(name)
        assert world.clock == 0.0
        assert "no manager's API server answers" in world.lines[-1]


def test_the_third_passes_while_the_first_two_still_boot(world: World) -> None:
    world.health = dict.fromkeys(world.health, SILENT)
    del world.servers["honeydue-3"]
    world.pass_gate("honeydue-3")
    assert world.clock == 0.0


def test_when_everything_is_lost_every_manager_passes_at_once(world: World) -> None:
    for name in list(world.servers):
        world.lose(name)
    world.pass_gate("honeydue-2", generation=2)
    assert world.clock == 0.0


def test_servers_on_which_k3s_is_dead_are_lost_too(world: World) -> None:
    world.health = dict.fromkeys(world.health, REFUSED)
    world.pass_gate("honeydue-2", generation=2)
    assert world.clock == 0.0
    assert world.lifted == [42]


def test_a_new_member_is_added_at_once_even_to_a_cluster_that_is_not_whole(world: World) -> None:
    del world.conditions["honeydue-3"], world.servers["honeydue-3"]
    world.health |= {"honeydue-2": REFUSED, "honeydue-3": SILENT}
    world.pass_gate("honeydue-3")
    assert world.clock == 0.0
    assert "the cluster does not know honeydue-3" in world.lines[-1]


def test_a_healthy_cluster_lets_a_manager_be_touched_at_once(world: World) -> None:
    world.pass_gate("honeydue-2", generation=2)
    assert world.clock == 0.0


def test_the_manager_that_is_to_be_repaired_may_be_dead(world: World) -> None:
    world.health["honeydue-2"] = SILENT
    world.conditions["honeydue-2"]["Ready"] = "Unknown"
    world.pass_gate("honeydue-2", generation=2)


# --- not ---


@pytest.mark.parametrize("other", ["honeydue-1", "honeydue-3"])
def test_a_dead_manager_before_or_after_stops_it(world: World, other: str) -> None:
    world.health[other] = REFUSED
    said = world.refused("honeydue-2", generation=2)
    assert said.startswith("honeydue-2 was not touched, because the cluster could lose its quorum")
    assert f"{other}: connection refused" in said
    assert "journalctl -u k3s" in said
    assert world.clock == 90.0
    assert world.lifted == []


def test_a_server_that_was_just_deleted_is_not_healthy_though_its_node_still_says_ready(
    world: World,
) -> None:
    world.lose("honeydue-1")  # within 40 s: its Node is Ready, its member a voter
    assert "honeydue-1: no answer" in world.refused("honeydue-2", generation=2)


def test_an_earlier_manager_that_the_cluster_does_not_know_yet_is_waited_for(world: World) -> None:
    del world.conditions["honeydue-1"]
    assert "no Node object of that name yet" in world.refused("honeydue-2", generation=2)


def test_a_later_manager_that_the_cluster_never_knew_is_not_waited_for(world: World) -> None:
    del world.conditions["honeydue-3"]
    world.lose("honeydue-3")
    world.pass_gate("honeydue-2")
    assert world.clock == 0.0


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda w: w.conditions["honeydue-1"].update(Ready="False"), "NotReady (Ready is False)"),
        (lambda w: w.conditions["honeydue-1"].update(EtcdIsVoter="False"), "not a voter yet"),
        (lambda w: w.conditions["honeydue-1"].pop("EtcdIsVoter"), "not a voter yet (learner)"),
        (
            lambda w: w.health.update(
                {"honeydue-1": Answer(500, "[+]ping ok\n[-]etcd failed: reason withheld\n")}
            ),
            "its API server is not ready: etcd failed",
        ),
        (
            lambda w: w.health.update({"honeydue-1": Answer(200, "readyz check passed\n")}),
            "says nothing of its etcd",
        ),
        (lambda w: w.health.update({"honeydue-1": Answer(503, "starting")}), "HTTP 503"),
        (
            lambda w: w.health.update({"honeydue-1": Answer(401, "{}")}),
            "HTTP 401: it does not accept our client certificate (another CA)",
        ),
    ],
)
def test_a_member_is_healthy_only_when_everything_says_so(
    world: World, spoil: Callable[[World], None], said: str
) -> None:
    spoil(world)
    assert said in world.refused("honeydue-2", generation=2)


def test_a_cluster_without_quorum_answers_and_stops_it(world: World) -> None:
    world.listing = Answer(500, "etcdserver: request timed out")
    assert "the list of Nodes cannot be read (HTTP 500)" in world.refused("honeydue-2")


def test_an_api_server_of_another_ca_is_somebody(world: World) -> None:
    strange = Answer(seen="its certificate is not this cluster's: another CA", kind="strange")
    world.health = {"honeydue-1": strange, "honeydue-2": REFUSED, "honeydue-3": REFUSED}
    assert "another CA" in world.refused("honeydue-2", generation=2)


def test_silence_from_servers_that_run_is_not_taken_for_death(world: World) -> None:
    # The operator's address has changed: the firewall drops what it asks, and all is well inside.
    world.health = dict.fromkeys(world.health, SILENT)
    said = world.refused("honeydue-2", generation=2)
    assert "honeydue-1 runs at Hetzner but no answer" in said
    assert "operator.apiCidrs" in said


def test_an_unknown_manager_is_an_error(world: World) -> None:
    assert world.refused("honeydue-9") == "honeydue-9 is not among the managers of the settings"


# --- waiting ---


def test_it_waits_for_the_replaced_neighbour_and_goes_on_as_soon_as_it_is_whole(
    world: World,
) -> None:
    world.health["honeydue-1"] = REFUSED
    del world.conditions["honeydue-1"]

    def up(w: World) -> None:
        w.health["honeydue-1"] = Answer(200, HEALTHY)
        w.conditions["honeydue-1"] = {"Ready": "False"}

    def whole(w: World) -> None:
        w.conditions["honeydue-1"] = {"Ready": "True", "EtcdIsVoter": "True"}

    world.later = {30.0: up, 60.0: whole}
    world.pass_gate("honeydue-2")
    assert 60.0 <= world.clock < 65.0


def test_progress_is_shown_when_it_changes_and_every_ten_seconds(world: World) -> None:
    world.health["honeydue-1"] = REFUSED
    world.later = {30.0: lambda w: w.health.update({"honeydue-1": Answer(503)})}
    world.later[40.0] = lambda w: w.health.update({"honeydue-1": Answer(200, HEALTHY)})
    world.pass_gate("honeydue-2")
    waiting = [line for line in world.lines if "waiting for" in line]
    assert 4 <= len(waiting) <= 7
    assert "connection refused" in waiting[0]
    assert "HTTP 503" in waiting[-1]


# --- making way ---


def test_a_raised_generation_lifts_the_protection_of_exactly_that_server(world: World) -> None:
    world.pass_gate("honeydue-2", generation=2)
    assert world.lifted == [42]
    assert "lifted the delete protection of honeydue-2 (server 42)" in world.lines[-2]


def test_it_says_what_to_do_when_the_run_breaks_off_before_the_replacement(world: World) -> None:
    world.pass_gate("honeydue-2", generation=2)
    assert "without asking the cluster again" in world.lines[-1]
    assert "set its generation to 3" in world.lines[-1]


def test_the_same_generation_leaves_the_protection_in_place(world: World) -> None:
    world.pass_gate("honeydue-2", generation=1)
    assert world.lifted == []


def test_an_unprotected_server_needs_no_lifting(world: World) -> None:
    world.servers["honeydue-2"]["protection"] = {"delete": False, "rebuild": False}
    world.pass_gate("honeydue-2", generation=2)
    assert world.lifted == []


# --- a quorum without it ---


def test_the_only_manager_is_not_replaced(world: World) -> None:
    world.conditions = {"honeydue-1": world.conditions["honeydue-1"]}
    said = world.refused("honeydue-1", generation=2, nodes=NODES[:1])
    assert said.startswith("honeydue-1 was not replaced: it is the only manager")
    assert "Add two first" in said
    assert "restore a snapshot" in said
    assert world.lifted == []


def test_the_only_manager_is_not_replaced_in_the_run_that_adds_two_others(world: World) -> None:
    for name in ("honeydue-2", "honeydue-3"):
        world.lose(name)
        del world.conditions[name]
    assert "it is the only manager" in world.refused("honeydue-1", generation=2)


def test_of_two_managers_none_is_replaced(world: World) -> None:
    world.lose("honeydue-3")
    del world.conditions["honeydue-3"]
    said = world.refused("honeydue-1", generation=2)
    assert "of the cluster's 2 managers only 1 would be left" in said
    assert world.lifted == []


def test_members_that_the_settings_no_longer_name_count_as_dead(world: World) -> None:
    world.conditions |= {f"honeydue-{i}": {"Ready": "True", "EtcdIsVoter": "True"} for i in (4, 5)}
    said = world.refused("honeydue-2", generation=2)
    assert "5 managers (honeydue-4, honeydue-5 not in the settings) only 2" in said
    assert "Fewer managers" in said


def test_a_node_that_is_no_member_of_etcd_does_not_count(world: World) -> None:
    world.conditions["worker-1"] = {"Ready": "True"}
    world.pass_gate("honeydue-2", generation=2)
    assert world.lifted == [42]


def test_the_only_manager_may_be_rebuilt_when_it_is_dead(world: World) -> None:
    world.health["honeydue-1"] = REFUSED
    world.pass_gate("honeydue-1", generation=2, nodes=NODES[:1])
    assert world.lifted == [41]


def test_a_gate_that_runs_for_another_reason_lets_the_only_manager_be(world: World) -> None:
    # A new Hetzner token changes every gate's environment; nothing is replaced.
    world.conditions = {"honeydue-1": world.conditions["honeydue-1"]}
    world.pass_gate("honeydue-1", nodes=NODES[:1])


# --- stock ---


def test_a_server_that_hetzner_could_not_replace_today_is_kept(world: World) -> None:
    world.gone = {"cx33"}
    assert world.refused("honeydue-2", generation=2) == (
        "honeydue-2 was not replaced: Hetzner has no cx33 left in nbg1; it is available in fsn1, "
        "but a node's addresses are bound to nbg1 (docs/rebuild.md). In nbg1, with at least 4 vCPU "
        "and 8 GB (x86), are available: cx43 (8 vCPU, 16 GB), ccx23 (4 vCPU, 16 GB). Wait, or set "
        "another serverType for honeydue-2 in Pulumi.prod.yaml: pulumi config set -s prod --path "
        "'honeydue:cluster.nodes[1].serverType' cx43"
    )
    assert world.lifted == []


def test_a_sold_out_type_ends_the_very_first_up_before_any_server_exists() -> None:
    world = World(servers={}, conditions={}, health=dict.fromkeys(World().health, SILENT))
    world.gone = {"cx33"}
    said = world.refused("honeydue-1")
    assert said.startswith("honeydue-1 was not created: Hetzner has no cx33 left in nbg1")
    assert "'honeydue:cluster.nodes[0].serverType' cx43" in said


def test_a_server_is_not_switched_off_for_a_type_that_is_sold_out(world: World) -> None:
    world.gone = {"ccx23"}
    said = world.refused("honeydue-2", server_type="ccx23")
    assert said.startswith("honeydue-2 was not changed to ccx23: Hetzner has no ccx23 left in nbg1")


def test_a_server_that_stays_as_it_is_needs_no_stock(world: World) -> None:
    world.gone = {"cx33"}
    world.pass_gate("honeydue-2")
    assert world.asked == 0


def test_when_nothing_large_enough_is_left_it_says_so(world: World) -> None:
    world.gone = {kind["name"] for kind in SOLD if kind["name"] != "cx23"}
    said = world.refused("honeydue-2", generation=2)
    assert "are available: none" in said
    assert said.endswith("serverType' <type>")


def test_a_type_that_hetzner_does_not_know_is_told_before_the_create(world: World) -> None:
    del world.servers["honeydue-2"]
    said = world.refused("honeydue-2", server_type="cx99")
    assert "Hetzner knows no server type cx99. In nbg1, with at least 4 vCPU" in said


def test_a_hetzner_that_cannot_say_it_is_a_warning_because_the_create_will_tell(
    world: World,
) -> None:
    del world.servers["honeydue-2"]
    world.hetzner_says = gate.HetznerError("Hetzner's API cannot be asked (HTTP 503)")
    world.pass_gate("honeydue-2")
    assert any(
        line.startswith("warning: whether cx33 is sold out is not known: Hetzner's API cannot")
        for line in world.lines
    )


def test_a_refused_token_stops_the_very_first_server(world: World) -> None:
    del world.servers["honeydue-2"]
    world.hetzner_says = GateError("Hetzner refuses the token (HTTP 401 unauthorized)")
    assert world.refused("honeydue-2") == "Hetzner refuses the token (HTTP 401 unauthorized)"


@pytest.mark.parametrize(
    ("locations", "available"),
    [
        ([{"name": "nbg1", "available": True}], True),
        ([{"name": "nbg1"}], True),  # silence
        ([], True),
        ([{"name": "nbg1", "available": False}], False),
        ([{"name": "fsn1", "available": True}], False),  # not sold there at all
    ],
)
def test_a_type_is_available_unless_hetzner_says_no(
    locations: list[dict[str, Any]], available: bool
) -> None:
    kind = sold("cx33", 4, 8.0, "5.49") | {"locations": locations}
    assert (gate.shortage([kind], "cx33", "nbg1") is None) is available


# --- ready ---


def test_ready_passes_when_all_three_are_up_and_says_so(world: World) -> None:
    gate.ready(NODES, world.ask, world.patience())
    assert world.lines == ["ready: 3 nodes Ready, 3 etcd voters, every API server up"]


def test_ready_waits_for_the_last_voter(world: World) -> None:
    world.conditions["honeydue-3"]["EtcdIsVoter"] = "False"
    world.later = {45.0: lambda w: w.conditions["honeydue-3"].update(EtcdIsVoter="True")}
    gate.ready(NODES, world.ask, world.patience())
    assert world.clock >= 45.0


def test_ready_names_each_node_that_is_not_up_and_what_to_look_at(world: World) -> None:
    world.health["honeydue-2"] = REFUSED
    world.conditions["honeydue-3"]["Ready"] = "False"
    with pytest.raises(GateError) as stopped:
        gate.ready(NODES, world.ask, world.patience(60.0))
    said = str(stopped.value)
    assert said.startswith("after 60 s the cluster is not up. honeydue-2: connection refused")
    assert "honeydue-3: NotReady (Ready is False)" in said
    assert "honeydue-1" not in said
    for clue in ("console.hetzner.cloud", "/var/log/cloud-init-output.log", "journalctl -u k3s"):
        assert clue in said


def test_ready_asks_another_manager_when_the_first_cannot_list_nodes(world: World) -> None:
    world.health["honeydue-1"] = REFUSED
    world.later = {9.0: lambda w: w.health.update({"honeydue-1": Answer(200, HEALTHY)})}
    gate.ready(NODES, world.ask, world.patience())
