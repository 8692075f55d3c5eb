"""The stack as a picture: components, what needs what, and where the last `up` spent its time.

Pure: from resources of the checkpoint and timed steps to the text of an SVG, the same for the same.
A box is a component with its own resources, those of one type on one line. Columns are layers: a
box stands right of all that it needs. The critical path (the chain of needs that took longest) runs
through the top row, in red, so that everything below it had time to spare.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from typing import Final

from rehearsal.engine.state import Resource
from rehearsal.engine.steps import PROVIDER_PREFIX, STACK_TYPE
from rehearsal.timeline import Step, critical_path

# As docs/architecture.svg has them: (fill, line) by area, in order of appearance.
AREAS: Final = (
    ("#eef6ff", "#b6d4f5"),
    ("#f3f8ec", "#bfd9a0"),
    ("#fff6ec", "#f0cfa4"),
    ("#f7f0fb", "#d8bfe8"),
)
PLAIN: Final = ("#ffffff", "#8c959f")
CRITICAL: Final = "#cf222e"
INK, FAINT = "#1f2328", "#57606a"
WIDTH, GAP_X, GAP_Y, MARGIN, TOP, LINE, HEAD = 196, 32, 18, 20, 78, 17, 42  # pixels


@dataclass
class Box:
    """One component (or one provider that waits for something) and its lines."""

    key: str
    title: str
    within: str
    area: str
    resources: list[Resource] = field(default_factory=list)
    lines: list[tuple[str, str, bool]] = field(default_factory=list)  # text, time, critical
    critical: bool = False
    column: int = 0
    y: float = 0.0
    x: float = 0.0

    @property
    def height(self) -> float:
        return HEAD + LINE * len(self.lines) + 6


def draw(resources: Sequence[Resource], steps: Mapping[str, Step], stack: str) -> str:
    """The SVG. `resources` in the checkpoint's order: each after what it needs."""
    needs = {r.urn: r.references for r in resources}
    path = critical_path(steps, needs) if steps else []
    boxes, home = _boxes(resources, steps, set(path))
    edges = _edges(resources, home)
    hot = [home[urn] for urn in path if urn in home]
    spine = [box for at, box in enumerate(hot) if box not in hot[:at]]
    for key in spine:
        boxes[key].critical = True
    hot_edges = set(pairwise(spine)) & edges
    _layers(boxes, edges)
    shown = _reduced(edges) | hot_edges
    width, height = _place(boxes, shown)
    return _svg(boxes, shown, hot_edges, width, height, _headline(resources, steps, path, stack))


def _boxes(
    resources: Sequence[Resource], steps: Mapping[str, Step], critical: set[str]
) -> tuple[dict[str, Box], dict[str, str]]:
    """(boxes by key, URN of a resource → key of its box)."""
    by_urn = {r.urn: r for r in resources}
    boxes: dict[str, Box] = {}
    home: dict[str, str] = {}
    for r in resources:
        parent = by_urn.get(r.parent)
        if not r.custom and r.type != STACK_TYPE:
            above = parent.type.rpartition(":")[2] if parent and parent.type != STACK_TYPE else ""
            title = r.type.rpartition(":")[2]
            boxes[r.urn] = Box(r.urn, title, above, r.type.split(":")[1])
        elif r.custom and (parent is None or parent.type == STACK_TYPE):
            waits = bool(r.references - {r.parent})
            key = r.urn if waits else "alone"
            title = r.name if waits else "Providers" if _is_provider(r) else "Alone"
            box = boxes.setdefault(key, Box(key, title, "Provider" if waits else "", ""))
            box.resources.append(r)
            home[r.urn] = key
        elif r.custom and r.parent in boxes:
            boxes[r.parent].resources.append(r)
            home[r.urn] = r.parent
    for key, box in list(boxes.items()):
        if box.resources:
            box.lines = _lines(box.resources, steps, critical)
        elif any(b.within == box.title for b in boxes.values()):
            del boxes[key]  # its children say whose they are
    return boxes, home


def _is_provider(resource: Resource) -> bool:
    return resource.type.startswith(PROVIDER_PREFIX)


def _lines(
    resources: Sequence[Resource], steps: Mapping[str, Step], critical: set[str]
) -> list[tuple[str, str, bool]]:
    """One line a type. On the critical path the time is what its steps there took together,
    elsewhere that of the longest one."""
    by_type: dict[str, list[Resource]] = defaultdict(list)
    for r in resources:
        by_type["Provider" if _is_provider(r) else r.type.rpartition(":")[2]].append(r)
    lines = []
    for name, members in by_type.items():
        text = f"{len(members)} × {name}" if len(members) > 1 else name  # noqa: RUF001 - times
        hot = [steps[r.urn].seconds for r in members if r.urn in critical and r.urn in steps]
        all_ = [steps[r.urn].seconds for r in members if r.urn in steps]
        spent = sum(hot) if hot else max(all_, default=None)
        lines.append((text, "" if spent is None else _seconds(spent), bool(hot)))
    return lines


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 9.95 else f"{value:.1f} s" if value >= 0.05 else "·"


def _edges(resources: Sequence[Resource], home: Mapping[str, str]) -> set[tuple[str, str]]:
    return {
        (home[needed], home[r.urn])
        for r in resources
        if r.urn in home
        for needed in r.references
        if needed in home and home[needed] not in (home[r.urn], "alone")
    }


def _layers(boxes: Mapping[str, Box], edges: set[tuple[str, str]]) -> None:
    needed = {key: sorted(a for a, b in edges if b == key) for key in boxes}
    depth: dict[str, int] = {}

    def of(key: str, above: tuple[str, ...]) -> int:
        if key not in depth:  # two boxes may need each other: what leads back does not count
            before = [of(a, (*above, key)) for a in needed[key] if a not in above and a != key]
            depth[key] = 1 + max(before, default=-1)
        return depth[key]

    for key, box in boxes.items():
        box.column = of(key, ())


def _place(boxes: Mapping[str, Box], edges: set[tuple[str, str]]) -> tuple[float, float]:
    """The critical boxes on the top row; the others below it, near what they need."""
    row = max((b.height for b in boxes.values() if b.critical), default=0.0)
    columns = 1 + max((b.column for b in boxes.values()), default=0)
    bottom = TOP + row
    for column in range(columns):
        here = [b for b in boxes.values() if b.column == column]
        y = TOP + row + GAP_Y if row else TOP

        def near(box: Box, column: int = column) -> tuple[int, float, str]:
            sources = [boxes[a].y for a, b in edges if b == box.key and boxes[a].column < column]
            # What nobody needs goes further down, and what leads past a column below that, so that
            # its edge finds no box in its way.
            reach = max((boxes[b].column - column for a, b in edges if a == box.key), default=1.5)
            return int(2 * reach), sum(sources) / len(sources) if sources else 0.0, box.key

        for box in sorted(here, key=near):
            box.x = MARGIN + column * (WIDTH + GAP_X)
            if box.critical and not any(b.critical and b.y for b in here):
                box.y = TOP + (row - box.height) / 2
            else:
                box.y, y = y, y + box.height + GAP_Y
            bottom = max(bottom, box.y + box.height)
    return 2 * MARGIN + columns * (WIDTH + GAP_X) - GAP_X, bottom + 44


def _reduced(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Without those that a longer way says already."""
    after: dict[str, set[str]] = defaultdict(set)
    for a, b in edges:
        after[a].add(b)

    def reaches(start: str, goal: str) -> bool:
        seen, todo = set[str](), [n for n in after[start] if n != goal]
        while todo:
            at = todo.pop()
            if at == goal:
                return True
            if at not in seen:
                seen.add(at)
                todo += after[at]
        return False

    return {(a, b) for a, b in edges if not reaches(a, b)}


def _headline(
    resources: Sequence[Resource], steps: Mapping[str, Step], path: Sequence[str], stack: str
) -> tuple[str, str]:
    count = sum(r.custom for r in resources)
    title = f"{stack}: {count} resources"
    if not steps:
        return title, "no `up` of this stack is recorded here, so no times"
    took = max(s.end for s in steps.values()) - min(s.begin for s in steps.values())
    least = sum(steps[urn].seconds for urn in path if urn in steps)
    return title, (
        f"the last up took {took:.1f} s; its critical path (red) {least:.1f} s, "
        "the least that any parallelism could reach"
    )


def _svg(  # noqa: PLR0917 - private, and called once
    boxes: Mapping[str, Box],
    edges: set[tuple[str, str]],
    hot: set[tuple[str, str]],
    width: float,
    height: float,
    headline: tuple[str, str],
) -> str:
    areas = list(dict.fromkeys(b.area for b in boxes.values() if b.area))
    colours = {area: AREAS[i % len(AREAS)] for i, area in enumerate(areas)}
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        "font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\" "
        'font-size="12">',
        "<defs>",
        *(
            f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" '
            f'markerHeight="6" orient="auto"><path d="M0 0 8 4 0 8z" fill="{colour}"/></marker>'
            for name, colour in (("n", PLAIN[1]), ("c", CRITICAL))
        ),
        "</defs>",
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        f'<text x="{MARGIN}" y="34" font-size="18" font-weight="600" fill="{INK}">'
        f"{escape(headline[0])}</text>",
        f'<text x="{MARGIN}" y="55" font-size="13" fill="{FAINT}">{escape(headline[1])}</text>',
    ]
    for a, b in sorted(edges, key=lambda e: (e in hot, e)):
        out.append(_edge(boxes[a], boxes[b], (a, b) in hot))
    for key in sorted(boxes, key=lambda k: (boxes[k].column, boxes[k].y)):
        out += _box(boxes[key], *colours.get(boxes[key].area, PLAIN))
    x: float = MARGIN
    for area in areas:
        fill, line = colours[area]
        out.append(
            f'<rect x="{x}" y="{height - 28:.0f}" width="12" height="12" rx="3" fill="{fill}" '
            f'stroke="{line}"/><text x="{x + 18}" y="{height - 18:.0f}" fill="{FAINT}">'
            f"{escape(area)}</text>"
        )
        x += 36 + 7.0 * len(area)
    out.append(
        f'<text x="{width - MARGIN:.0f}" y="{height - 18:.0f}" text-anchor="end" fill="{FAINT}">'
        "times: on the critical path of its steps together, elsewhere of the longest of them; "
        "· is less than 0.05 s</text>"
    )
    return "\n".join([*out, "</svg>", ""])


def _edge(a: Box, b: Box, hot: bool) -> str:
    x1, y1, x2, y2 = a.x + WIDTH, a.y + a.height / 2, b.x, b.y + b.height / 2
    bend = GAP_X * 0.6
    colour, wide, end = (CRITICAL, 2.4, "c") if hot else (PLAIN[1], 1.2, "n")
    # All of the climb is in the last gap, so that a long edge keeps to its row until then.
    turn = max(x1, x2 - GAP_X)
    way = f"M{x1:.0f} {y1:.0f}H{turn:.0f}C{turn + bend:.0f} {y1:.0f} {x2 - bend:.0f} {y2:.0f} "
    return (
        f'<path d="{way}{x2:.0f} {y2:.0f}" fill="none" stroke="{colour}" stroke-width="{wide}" '
        f'marker-end="url(#{end})"/>'
    )


def _box(box: Box, fill: str, line: str) -> list[str]:
    x, y = box.x, box.y
    stroke, wide = (CRITICAL, 2) if box.critical else (line, 1.2)
    above = f"{box.within} /" if box.within else box.area
    out = [
        f'<g><title>{escape(box.key)}</title><rect x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" '
        f'height="{box.height:.0f}" rx="8" fill="{fill}" stroke="{stroke}" '
        f'stroke-width="{wide}"/>',
        f'<text x="{x + 12:.0f}" y="{y + 17:.0f}" font-size="10" fill="{FAINT}">'
        f"{escape(above)}</text>",
        f'<text x="{x + 12:.0f}" y="{y + 33:.0f}" font-size="13" font-weight="600" fill="{INK}">'
        f"{escape(box.title)}</text>",
    ]
    for at, (text, time, hot) in enumerate(box.lines):
        base = y + HEAD + LINE * at + 9
        colour = f'fill="{CRITICAL}" font-weight="600"' if hot else f'fill="{FAINT}"'
        out.append(
            f'<text x="{x + 12:.0f}" y="{base:.0f}" font-size="11" {colour}>{escape(text)}</text>'
            f'<text x="{x + WIDTH - 12:.0f}" y="{base:.0f}" font-size="11" text-anchor="end" '
            f"{colour}>{escape(time)}</text>"
        )
    return [*out, "</g>"]
