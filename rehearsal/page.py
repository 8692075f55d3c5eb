"""The last page of a rehearsal: what now runs, asked of the things themselves, and what is next."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rehearsal import serve
from rehearsal.display import output_lines
from rehearsal.engine.deployment import Deployment
from rehearsal.engine.values import Secret
from rehearsal.home import Home
from rehearsal.lose import call
from rehearsal.providers.kubernetes.client import Client
from rehearsal.providers.kubernetes.kubeconfig import parse

NEXT = (
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


def print_page(console: Console, engine: Deployment, home: Home) -> None:
    outputs = engine.outputs()
    kubeconfig = outputs.get("kubeconfig")
    environment = serve.environment(home)
    console.print(Text("What now runs", style="bold"))
    if isinstance(kubeconfig, Secret):
        cluster(console, Client(parse({"kubeconfig": kubeconfig.value})))
    records = call(operators(environment["CLOUDFLARE_BASE_URL"]), "GET", "/state")
    dns(console, records)
    console.print(Text("\n  Outputs", style="bold"))
    for line in output_lines(outputs, "    "):
        console.print(line, soft_wrap=True)
    console.print(Text("\nWhat to try next", style="bold"))
    width = max(len(command) for command, _ in NEXT)
    for command, why in NEXT:
        console.print(f"  {command:<{width}}  ", Text(why, style="dim"), soft_wrap=True)


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
