"""Every injectable fault at every request by which the program changes something at a vendor.

A `Case` is one fault at one such request. `trial` lives through it as an operator would: the run
that meets the fault, a look at what it left, and the next run once the vendor is well again.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.faults.lab import ENV_FILE, Lab, Told, short_of_time

Edit = Callable[[Lab], None]


def nothing(_lab: Lab) -> None:
    """A first deployment, or a destroy, of the settings as they are."""


def strict(lab: Lab) -> None:
    lab.edit("dns", {"ssl": "strict"})


def protected(lab: Lab) -> None:
    lab.edit("protect", "true")


def another_operator(lab: Lab) -> None:
    lab.edit("operator", {"apiCidrs": ["192.0.2.9/32"]})


def another_key(lab: Lab) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB1FEbGUOyJ9ZqWrN8MJ4Vy3Q1XyQ7Vh3pCq8qfHq1mE new"
    lab.edit("operator", {"sshPublicKey": key})


def tls13(lab: Lab) -> None:
    lab.edit("dns", {"minTls": "1.3"})


def another_name(lab: Lab) -> None:
    lab.edit("dns", {"admin": "panel.honeydue.test"})
    env = lab.checkout / ENV_FILE
    env.write_text(env.read_text().replace("//admin.honeydue.test", "//panel.honeydue.test"))


def nodes(**second: Any) -> Edit:
    def edit(lab: Lab) -> None:
        names = ("honeydue-1", "honeydue-2", "honeydue-3")
        listed = [{"name": n, **(second if n == "honeydue-2" else {})} for n in names]
        lab.edit("cluster", {"nodes": listed})

    return edit


def moved_record(lab: Lab) -> None:
    """Somebody points a record elsewhere; `refresh` finds it, and `up` puts it back."""
    with lab.cloudflare.app.store.transaction() as state:
        one = next(r for r in state["records"].values() if r["type"] == "A")
        one["content"] = "192.0.2.1"
    assert lab.run("refresh").ok


@dataclass(frozen=True)
class Target:
    """One changing request of the program: `what` is how the table calls it."""

    vendor: str
    what: str
    method: str
    path: str
    verb: str = "up"
    """The verb that meets the fault. `create` targets start from nothing, others from `edit`ed
    settings of a production that is there."""
    base: str = "empty"
    edit: Edit = nothing
    before: Edit = nothing
    """Settings before the first deployment, where `base` is `deployed`."""


H, C = "hetzner", "cloudflare"
TARGETS: Final = (
    Target(H, "Network: create", "POST", "/networks"),
    Target(H, "NetworkSubnet: create", "POST", "/networks/*/actions/add_subnet"),
    Target(H, "PlacementGroup: create", "POST", "/placement_groups"),
    Target(H, "Firewall: create", "POST", "/firewalls"),
    Target(H, "PrimaryIp: create", "POST", "/primary_ips"),
    Target(H, "SshKey: create", "POST", "/ssh_keys"),
    SERVER := Target(H, "Server: create", "POST", "/servers"),
    Target(H, "Server: attach network", "POST", "/servers/*/actions/attach_to_network"),
    Target(
        H, "Server: protect", "POST", "/servers/*/actions/change_protection", edit=protected
    ),
    Target(C, "DnsRecord: create", "POST", "/zones/*/dns_records"),
    Target(C, "ZoneSetting: create", "PATCH", "/zones/*/settings/*"),
    Target(C, "OriginCaCertificate: create", "POST", "/certificates", edit=strict),
    Target(
        H, "Firewall: update", "POST", "/firewalls/*/actions/set_rules",
        base="deployed", edit=another_operator,
    ),
    Target(
        H, "Network: update", "POST", "/networks/*/actions/change_protection",
        base="deployed", edit=protected,
    ),
    Target(
        H, "PrimaryIp: update", "POST", "/primary_ips/*/actions/change_protection",
        base="deployed", edit=protected,
    ),
    Target(
        H, "Server: update protection", "POST", "/servers/*/actions/change_protection",
        base="deployed", edit=protected,
    ),
    Target(
        H, "Server: power off to change its type", "POST", "/servers/*/actions/poweroff",
        base="deployed", edit=nodes(serverType="cx43"),
    ),
    Target(
        H, "Server: change type", "POST", "/servers/*/actions/change_type",
        base="deployed", edit=nodes(serverType="cx43"),
    ),
    Target(
        H, "Server: power on", "POST", "/servers/*/actions/poweron",
        base="deployed", edit=nodes(serverType="cx43"),
    ),
    Target(C, "ZoneSetting: update", "PATCH", "/zones/*/settings/*", base="deployed", edit=tls13),
    Target(
        C, "DnsRecord: update", "PUT", "/zones/*/dns_records/*",
        base="deployed", edit=moved_record,
    ),
    Target(
        H, "Server: replace, delete", "DELETE", "/servers/*",
        base="deployed", edit=nodes(generation=2),
    ),
    Target(
        H, "Server: replace, create", "POST", "/servers",
        base="deployed", edit=nodes(generation=2),
    ),
    Target(
        H, "SshKey: replace, delete", "DELETE", "/ssh_keys/*", base="deployed", edit=another_key
    ),
    Target(
        H, "SshKey: replace, create", "POST", "/ssh_keys", base="deployed", edit=another_key
    ),
    Target(
        C, "DnsRecord: delete", "DELETE", "/zones/*/dns_records/*",
        base="deployed", edit=another_name,
    ),
    Target(
        C, "OriginCaCertificate: delete", "DELETE", "/certificates/*",
        base="strict", edit=lambda lab: lab.edit("dns", {"ssl": "flexible"}),
    ),
    *(
        Target(vendor, f"{kind}: destroy", method, path, verb="destroy", base=base)
        for vendor, kind, method, path, base in (
            (H, "Server", "DELETE", "/servers/*", "deployed"),
            (H, "NetworkSubnet", "POST", "/networks/*/actions/delete_subnet", "deployed"),
            (H, "Network", "DELETE", "/networks/*", "deployed"),
            (H, "PlacementGroup", "DELETE", "/placement_groups/*", "deployed"),
            (H, "Firewall", "DELETE", "/firewalls/*", "deployed"),
            (H, "PrimaryIp", "DELETE", "/primary_ips/*", "deployed"),
            (H, "SshKey", "DELETE", "/ssh_keys/*", "deployed"),
            (C, "DnsRecord", "DELETE", "/zones/*/dns_records/*", "deployed"),
            (C, "OriginCaCertificate", "DELETE", "/certificates/*", "strict"),
        )
    ),
)  # fmt: skip

MANY: Final = 100
"""Each request of the run that meets the fault, and each second try of the client."""
FAULTS: Final[dict[str, dict[str, Any]]] = {
    "503": {"kind": "status", "status": 503, "times": MANY},
    "429 once": {"kind": "rate_limit"},
    "429": {"kind": "rate_limit", "times": MANY},
    "time-out": {"kind": "timeout", "times": MANY},
    "time-out after the change": {"kind": "timeout_after_change"},
    "dropped before the change": {"kind": "drop_before_change", "times": MANY},
    "dropped after the change": {"kind": "drop_after_change"},
    "API killed before the change": {"kind": "die_before_change"},
    "API killed after the change": {"kind": "die_after_change"},
}
SOLD_OUT: Final = "sold out"
"""Not a fault of a request but of the catalogue: `PUT /_rehearsal/sold-out`."""


@dataclass(frozen=True)
class Case:
    target: Target
    fault: str

    @property
    def name(self) -> str:
        return f"{self.target.what}, {self.fault}"


def cases() -> Iterator[Case]:
    for target in TARGETS:
        for fault in FAULTS:
            yield Case(target, fault)
        if target.path == "/servers" and target.method == "POST":
            yield Case(target, SOLD_OUT)


def sample() -> Iterator[Case]:
    """For every day: each creating request and a third of the others, each with another fault."""
    faults = [*FAULTS]
    for number, target in enumerate(TARGETS):
        if target.base == "empty" or number % 3 == 0:
            yield Case(target, faults[number % len(faults)])
    yield Case(SERVER, SOLD_OUT)
    # What was once lost or made twice.
    for what, fault in (
        ("PrimaryIp: create", "dropped after the change"),
        ("OriginCaCertificate: create", "dropped after the change"),
        ("OriginCaCertificate: create", "API killed after the change"),
    ):
        yield Case(next(target for target in TARGETS if target.what == what), fault)


@dataclass
class Outcome:
    """What was seen. `problems` is empty when nothing was lost and all was said."""

    case: Case
    read: str = ""
    after: str = ""
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Undisturbed:
    world: dict[str, Any]
    references: dict[str, set[str]]
    """URN → what it stands on, of each resource in the state."""

    def waits_for(self, failed: set[str]) -> set[str]:
        """What cannot be made without the failed ones; the state stands in dependency order."""
        found = set(failed)
        for urn, needs in self.references.items():
            if needs & found:
                found.add(urn)
        return found


@dataclass
class Bench:
    """A lab with productions to start from; made once for many cases."""

    lab: Lab
    kept: Path
    _worlds: dict[str, Undisturbed] = field(default_factory=dict)

    def start_from(self, base: str) -> None:
        where = self.kept / base
        if not where.exists():
            self.lab.back_to(self._settings())
            if base != "empty":
                if base == "strict":
                    strict(self.lab)
                made = self.lab.up()
                assert made.ok, made.text
            self.lab.keep(where)
        self.lab.back_to(where)

    def _settings(self) -> Path:
        """The stack file as the repository has it, and no state."""
        where = self.kept / "settings"
        if not where.exists():
            self.lab.keep(where)
        return where

    def undisturbed(self, target: Target) -> Undisturbed:
        """What this change leaves when nothing goes wrong."""
        key = target.what
        if key not in self._worlds:
            self.start_from(target.base)
            target.edit(self.lab)
            done = self.lab.run(target.verb)
            assert done.ok, done.text
            self._worlds[key] = Undisturbed(self.lab.world(), self.lab.references())
        return self._worlds[key]


def trial(bench: Bench, case: Case) -> Outcome:
    lab, target, outcome = bench.lab, case.target, Outcome(case)
    wanted = bench.undisturbed(target)
    bench.start_from(target.base)
    target.edit(lab)
    met, was_met = _meet(lab, case)
    if not was_met:
        outcome.problems.append("the fault met no request")
    _judge(met, outcome)
    if target.base == "empty":
        failed = {e.partition(": ")[0] for e in met.result.errors if e.startswith("urn:")}
        left_out = wanted.references.keys() - lab.references().keys() - wanted.waits_for(failed)
        if left_out:
            outcome.problems.append(f"independent, and not made: {sorted(left_out)}")

    again = lab.run(target.verb)
    if not again.ok:
        outcome.problems.append(f"the next {target.verb} fails:\n{again.text}")
    plan = lab.run("preview") if target.verb == "up" else lab.run("destroy", dry_run=True)
    if plan.changes:
        outcome.problems.append(f"the preview after it is not empty:\n{plan.text}")
    if "pending_operations" in lab.deployment.export()["deployment"]:
        outcome.problems.append("operations are still pending")
    if (world := lab.world()) != wanted.world:
        outcome.problems.append(f"another world: {_difference(world, wanted.world)}")
    unknown = [*lab.hetzner.app.unknown, *lab.cloudflare.app.unknown]
    if unknown:
        outcome.problems.append(f"asked what the stand-ins do not know: {unknown}")
    outcome.after = "converged" if not outcome.problems else outcome.problems[0].splitlines()[0]
    return outcome


def _meet(lab: Lab, case: Case) -> tuple[Told, bool]:
    target = case.target
    if case.fault == SOLD_OUT:
        lab.sold_out(True)
        told = lab.run(target.verb)
        lab.sold_out(False)
        return told, True
    fault = {**FAULTS[case.fault], "method": target.method, "path": target.path}
    if fault["kind"].startswith("die"):
        with lab.in_a_process() as process:
            lab.inject(target.vendor, **fault)
            told = lab.run(target.verb)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                return told, False
            return told, True
    lab.inject(target.vendor, **fault)
    with short_of_time(lab.silence) if fault["kind"].startswith("timeout") else nullcontext():
        told = lab.run(target.verb)
    waiting = lab.healthy()
    return told, not waiting or waiting[0]["times"] < fault.get("times", 1)


MENDS: Final = re.compile(
    r"run .{0,30}(again|`up`|`refresh`)|next `up`|[Ww]ait|Change `serverType`|"
    r"python -m rehearsal|see cloudflarestatus|Check the network"
)


def _judge(met: Told, outcome: Outcome) -> None:
    """What the operator read: which resource, why, and what to do."""
    target = outcome.case.target
    if met.ok:
        outcome.read = "nothing: the client tried again, and it was done"
        return
    kind = target.what.partition(":")[0]
    failed = _failures(met.text)
    # When the whole API is gone, the gate before a server may say it first.
    mine = [lines for head, lines in failed if kind.lower() in head.lower()] or [
        lines for head, lines in failed if "-gate" in head
    ]
    if not mine:
        outcome.problems.append(f"no failed {kind} is named:\n{met.text}")
        return
    texts = sorted({_normal(" ".join(lines)) for lines in mine})
    outcome.read = texts[0]
    for text in texts:
        if not MENDS.search(text):
            outcome.problems.append(f"no mend in: {text}")
        if "Traceback" in text or "object at 0x" in text:
            outcome.problems.append(f"not for an operator: {text}")


def _failures(text: str) -> list[tuple[str, list[str]]]:
    """The paragraphs under `Diagnostics`: (resource and type, its lines)."""
    _, _, diagnostics = text.partition("\nDiagnostics\n")
    found: list[tuple[str, list[str]]] = []
    for line in diagnostics.splitlines():
        if line.startswith("    ") and found:
            found[-1][1].append(line.strip())
        elif line.startswith("  ") and not line.startswith("  warning"):
            found.append((line.strip(), []))
        elif not line.strip():
            break
    return found


def _normal(text: str) -> str:
    """The same in every run: no ports, ids and temporary folders; which of several is left open."""
    for pattern, instead in (
        (r"127\.0\.0\.1:\d+", "127.0.0.1:<port>"),
        (r"\bid [0-9a-f]{5,}", "id <id>"),
        (r"/[0-9a-f]{32}\b", "/<id>"),
        (r"/(1\d{5}|\d{30,})\b", "/<id>"),
        (r"honeydue-[123]\b", "honeydue-N"),
        (r"-ipv[46]\b", "-ipvN"),
        (r"/zones/<id>/settings/\w+", "/zones/<id>/settings/<setting>"),
        (r"(A|AAAA) \S+ → \S+", "A <name> → <address>"),
        (r"limit of \d+ requests", "limit of <n> requests"),
    ):
        text = re.sub(pattern, instead, text)
    return " ".join(text.split())


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    parts = []
    for key, value in wanted.items():
        if found[key] != value:
            parts.append(f"{key}: {found[key]!r} instead of {value!r}")
    return "; ".join(parts)
