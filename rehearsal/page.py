"""The last page of a rehearsal: what now runs, asked of the things themselves, and what is next."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rehearsal import images, serve
from rehearsal.display import output_lines
from rehearsal.engine.deployment import Deployment
from rehearsal.engine.values import Secret
from rehearsal.home import Home
from rehearsal.lose import call
from rehearsal.providers.kubernetes.client import Client
from rehearsal.providers.kubernetes.kubeconfig import parse
from rehearsal.pulled import PulledBack, pull_back
from rehearsal.registry.pull import SECRET

NEXT: Final = (
    (
        "make kubeconfig STACK=rehearsal",
        "then kubectl --kubeconfig ~/.kube/honeydue-k3s.yaml get pods -A",
    ),
    (
        "python -m rehearsal preview --diff",
        "after an edit of Pulumi.rehearsal.yaml: raise a generation",
    ),
    ("python -m rehearsal lose server honeydue-2", "and bring it back: docs/rebuild.md"),
    ("python -m rehearsal destroy", "delete everything, in order"),
    ("make down", "end every process, keep the state"),
)


def print_page(console: Console, engine: Deployment, home: Home) -> str:
    """Returns why what runs could not be pulled back; empty when it could, or was not built."""
    outputs = engine.outputs()
    kubeconfig = outputs.get("kubeconfig")
    environment = serve.environment(home)
    problem = ""
    console.print(Text("What now runs", style="bold"))
    if isinstance(kubeconfig, Secret):
        client = Client(parse({"kubeconfig": kubeconfig.value}))
        cluster(console, client)
        if images.is_on(home):
            signing = json.loads(engine.configuration().values["honeydue:signing"])
            problem = pulled(console, list(pull_back(client, signing["publicKey"])))
    records = call(operators(environment["CLOUDFLARE_BASE_URL"]), "GET", "/state")
    dns(console, records)
    console.print(Text("\n  Outputs", style="bold"))
    for line in output_lines(outputs, "    "):
        console.print(line, soft_wrap=True)
    console.print(Text("\nWhat to try next", style="bold"))
    following = (*with_images(home), *NEXT) if images.is_on(home) else NEXT
    width = max(len(command) for command, _ in following)
    for command, why in following:
        console.print(f"  {command:<{width}}  ", Text(why, style="dim"), soft_wrap=True)
    return problem


def with_images(home: Home) -> Iterable[tuple[str, str]]:
    """What to try first where images are built."""
    app = images.app_folder(home)
    if app.is_relative_to(Path.cwd()):
        app = app.relative_to(Path.cwd())
    return (
        (f"$EDITOR {app}/admin/panel/index.html", "the application's checkout; change a line"),
        (f"git -C {app} commit -am 'A new line'", "what is not committed is not built"),
        ("python -m rehearsal up", "builds, scans, signs; admin alone is rolled"),
        ("python -m ops images list", "what the registry keeps, and why"),
    )


def operators(endpoint: str) -> str:
    """The stand-in's own side, beside the vendor's root."""
    scheme, _, rest = endpoint.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/_rehearsal"


def cluster(console: Console, client: Client) -> None:
    version = client.request("GET", "/version")["gitVersion"]
    nodes = client.request("GET", "/api/v1/nodes")["items"]
    console.print(Text(f"\n  Kubernetes API server {version}"))
    rows = [
        (
            node["metadata"]["name"],
            "Ready" if condition(node, "Ready") == "True" else "not ready",
            "etcd member" if condition(node, "EtcdIsVoter") == "True" else "",
            ", ".join(
                a["address"] for a in node["status"].get("addresses", []) if a["type"] != "Hostname"
            ),
        )
        for node in nodes
    ]
    grid(console, ("Node", "", "", "Addresses"), rows)
    workloads = [
        (kind.lower(), item)
        for kind in ("Deployment", "StatefulSet")
        for item in client.request("GET", f"/apis/apps/v1/{kind.lower()}s")["items"]
    ]
    grid_rows = [
        (
            f"{item['metadata']['namespace']}/{item['metadata']['name']}",
            f"{item['status'].get('readyReplicas', 0)} of {item['spec']['replicas']} ready",
            short(item["spec"]["template"]["spec"]["containers"][0]["image"]),
        )
        for _, item in workloads
    ]
    console.print()
    grid(console, ("Workload", "", "Image"), grid_rows)


def pulled(console: Console, found: Sequence[PulledBack]) -> str:
    """One line for each image; returns the first problem, if there is any."""
    console.print(Text("\n  Pulled back by digest, as a node does"))
    rows = [
        (one.name, one.tag, short(f"@{one.digest}")[1:], megabytes(one.size), verdict(one))
        for one in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)] if rows else []
    for row in rows:
        cells = [
            f"{cell:>{width}}" if column == 3 else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        good = row[4].startswith("pulled")
        console.print(
            Text("     " + "   ".join(cells) + "   ") + Text(row[4], style="" if good else "red"),
            soft_wrap=True,
        )
    if not found:
        return "no Deployment runs, so there was nothing to pull back"
    return next((one.problem for one in found if one.problem), "")


def verdict(one: PulledBack) -> str:
    if one.problem:
        return "not pulled: see the error below"
    return f"pulled with {SECRET}, every digest right, signed by key {one.key}"


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size else ""


def short(image: str) -> str:
    """With a digest's first twelve digits, as docker shows them."""
    name, at, digest = image.partition("@sha256:")
    return name + at + digest[:12]


def condition(thing: dict[str, Any], kind: str) -> str:
    found = [c["status"] for c in thing["status"].get("conditions", []) if c["type"] == kind]
    return found[0] if found else "unknown"


def dns(console: Console, state: dict[str, Any]) -> None:
    answers: dict[tuple[str, str], list[str]] = {}
    for record in state["records"].values():
        answers.setdefault((record["name"], record["type"]), []).append(record["content"])
    rows = [(name, kind, ", ".join(sorted(to))) for (name, kind), to in sorted(answers.items())]
    console.print()
    grid(console, ("DNS name", "", "Answers (proxied by Cloudflare)"), rows)


def grid(console: Console, heads: Iterable[str], rows: Iterable[tuple[str, ...]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for head in ("  ", *heads):
        table.add_column(head, no_wrap=True)
    for row in rows:
        table.add_row("  ", *row)
    console.print(table)
