"""The picture of the stack: complete, well formed, and the same for the same stack."""

from __future__ import annotations

from xml.etree import ElementTree

from rehearsal.engine.state import Resource
from rehearsal.graph import CRITICAL, draw
from rehearsal.timeline import Step, critical_path, steps_of

STACK = "urn:pulumi:dev::shop::pulumi:pulumi:Stack::shop-dev"
SVG = "{http://www.w3.org/2000/svg}"


def component(name: str, area: str, *needs: str, parent: str = STACK) -> Resource:
    type_ = f"shop:{area}:{name}"
    urn = f"urn:pulumi:dev::shop::{type_}::{name.lower()}"
    return Resource(urn, type_, custom=False, parent=parent, dependencies=needs)


def thing(name: str, type_: str, parent: str, *needs: str) -> Resource:
    urn = f"urn:pulumi:dev::shop::{type_}::{name}"
    return Resource(urn, type_, custom=True, id=name, parent=parent, dependencies=needs)


NETWORK, NODES, EDGE = (
    component("Network", "hetzner"),
    component("Nodes", "hetzner"),
    component("Edge", "cloudflare"),
)
NET = thing("net", "hcloud:index/network:Network", NETWORK.urn)
SERVERS = [thing(f"s{i}", "hcloud:index/server:Server", NODES.urn, NET.urn) for i in range(3)]
RECORDS = [
    thing(f"r<{i}>", "cloudflare:index/dnsRecord:DnsRecord", EDGE.urn, NET.urn) for i in range(6)
]
SHOP = [Resource(STACK, "pulumi:pulumi:Stack", custom=False), NETWORK, NODES, EDGE]
SHOP += [NET, *SERVERS, *RECORDS]
STEPS = {
    NET.urn: Step(NET.urn, 0.0, 1.0),
    **{s.urn: Step(s.urn, 1.0, 3.0 + i) for i, s in enumerate(SERVERS)},
    **{r.urn: Step(r.urn, 1.0, 1.5) for r in RECORDS},
}


def boxes(svg: str) -> dict[str, ElementTree.Element]:
    """By title."""
    found = ElementTree.fromstring(svg).findall(f"{SVG}g")
    return {box.findall(f"{SVG}text")[1].text or "": box for box in found}


def words(box: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in box.findall(f"{SVG}text")]


def test_every_component_is_a_box_and_resources_of_one_type_one_line() -> None:
    drawn = boxes(draw(SHOP, STEPS, "dev"))
    assert drawn.keys() == {"Network", "Nodes", "Edge"}
    assert words(drawn["Edge"])[2:] == ["6 × DnsRecord", "0.5 s"]  # noqa: RUF001 - times


def test_the_critical_path_is_red_and_nothing_else_is() -> None:
    drawn = boxes(draw(SHOP, STEPS, "dev"))
    red = {
        title for title, box in drawn.items() if CRITICAL in ElementTree.tostring(box, "unicode")
    }
    assert red == {"Network", "Nodes"}
    edges = ElementTree.fromstring(draw(SHOP, STEPS, "dev")).findall(f"{SVG}path")
    assert sorted(edge.get("stroke") == CRITICAL for edge in edges) == [False, True]


def test_the_time_of_a_critical_line_is_that_of_its_critical_steps() -> None:
    assert words(boxes(draw(SHOP, STEPS, "dev"))["Nodes"])[2:] == ["3 × Server", "4.0 s"]  # noqa: RUF001 - times


def test_the_same_stack_is_the_same_picture() -> None:
    assert draw(SHOP, STEPS, "dev") == draw(list(SHOP), dict(reversed(STEPS.items())), "dev")


def test_a_stack_without_a_recorded_up_is_drawn_without_times() -> None:
    svg = draw(SHOP, {}, "dev")
    assert "no `up` of this stack is recorded here" in svg
    assert CRITICAL not in "".join(ElementTree.tostring(b, "unicode") for b in boxes(svg).values())


def test_boxes_do_not_overlap() -> None:
    many = [
        *SHOP,
        *(component(f"C{i}", "a", NET.urn) for i in range(8)),
    ]
    places = []
    for box in boxes(draw(many, STEPS, "dev")).values():
        rect = box.find(f"{SVG}rect")
        assert rect is not None
        places.append([float(rect.get(k, "")) for k in ("x", "y", "width", "height")])
    for i, (x, y, w, h) in enumerate(places):
        for u, v, _, _ in places[i + 1 :]:
            assert u >= x + w or u + w <= x or v >= y + h or v < y, (x, y, u, v)


def test_the_critical_path_is_the_longest_chain_not_the_longest_step() -> None:
    steps = {n: Step(n, 0, s) for n, s in (("a", 2.0), ("b", 2.0), ("c", 3.0))}
    needs = {"a": frozenset[str](), "b": frozenset({"a"}), "c": frozenset[str]()}
    assert critical_path(steps, needs) == ["a", "b"]


def test_the_steps_of_a_replacement_count_as_one() -> None:
    raw = [
        {"urn": "a", "op": "delete-replaced", "begin": 1.0, "end": 2.0},
        {"urn": "a", "op": "create-replacement", "begin": 2.0, "end": 5.0},
    ]
    assert steps_of(raw) == {"a": Step("a", 1.0, 5.0)}
