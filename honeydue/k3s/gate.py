"""The two gates, as a program of their own: `python -m honeydue.k3s.gate health|ready`.

`health` stands before each manager: may this one be touched now? `ready` stands before the first
Kubernetes resource: is the whole cluster up? Pulumi runs them as `command.local.Command`
(honeydue/k3s/gates.py, docs/adr/0002). Standard library only: whatever Python the machine has will
do. Everything comes by environment variables, no secret is printed, none touches the disk.

    HONEYDUE_NODES        [{"name": "honeydue-1", "address": "203.0.113.1"}, …]: all, in order
    HONEYDUE_SERVER_CA    PEM; the API servers' certificates must be signed by it
    HONEYDUE_ADMIN_CERTIFICATE, HONEYDUE_ADMIN_KEY    PEM of a client of the group system:masters
    HONEYDUE_DEADLINE     seconds to wait at most
    HONEYDUE_API_PORT     6443 unless given

and for `health` also

    HONEYDUE_NODE, HONEYDUE_GENERATION    the manager about to be touched, and its new generation
    HONEYDUE_SERVER_TYPE, HONEYDUE_LOCATION    what it will be made as: is that sold out?
    HONEYDUE_STACK                        whose settings to mend
    HCLOUD_TOKEN, HCLOUD_ENDPOINT         Hetzner's API (its public address unless given)

Exit code: 0 go on, 1 do not (stderr says why and what to look at), 2 called wrongly.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

HETZNER = "https://api.hetzner.cloud/v1"
POLL = 3.0  # seconds between two looks
PROGRESS = 10.0  # seconds between two lines when nothing changes
TIMEOUT = 5.0  # seconds for one request; above the API server's own etcd check of 2 s

WHERE_TO_LOOK = (
    "Look at its console in https://console.hetzner.cloud, and there at"
    " /var/log/cloud-init-output.log and `journalctl -u k3s`"
)


class GateError(Exception):
    """Stop here; the message is fit for the operator."""


class HetznerError(GateError):
    """Hetzner's API gave no usable answer, however often it was asked."""


@dataclass(frozen=True)
class Node:
    name: str
    address: str


@dataclass(frozen=True)
class Answer:
    """What one API server said to one question.

    `status` is the HTTP status, or None when there was no answer; then `seen` says what there was
    instead, and `kind` is "refused", "silent" (no route, time-out) or "strange" (TLS).
    """

    status: int | None = None
    body: str = ""
    seen: str = ""
    kind: str = ""

    @property
    def ok(self) -> bool:
        return self.status == 200

    def said(self) -> str:
        """In words, for the operator."""
        if self.status is None:
            return self.seen
        if self.status in {401, 403}:
            return f"HTTP {self.status}: it does not accept our client certificate (another CA)"
        return f"HTTP {self.status}"


Ask = Callable[[Node, str], Answer]
"""A question (path) to one node's own API server."""


# --- the cluster -------------------------------------------------------------------------------


def tls_context(*, server_ca: str, certificate: str, key: str) -> ssl.SSLContext:
    """Trusts `server_ca` only and presents the client certificate; PEM, never on disk.

    Made by hand, since Python 3.13's default context wants extensions (VERIFY_X509_STRICT) that
    not every K3s leaf certificate has.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=server_ca)
    with _Pipe(certificate) as chain, _Pipe(key) as secret:
        context.load_cert_chain(chain.path, secret.path)
    return context


class _Pipe:
    """A text as a path to read once: OpenSSL takes a client's certificate from files only.

    A pipe holds 64 KiB (16 KiB on macOS) without a reader; certificate and key have about 2.
    """

    def __init__(self, text: str) -> None:
        self._text = text.encode()

    def __enter__(self) -> _Pipe:
        self._reader, writer = os.pipe()
        os.write(writer, self._text)
        os.close(writer)
        self.path = f"/dev/fd/{self._reader}"
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._reader)


def asker(context: ssl.SSLContext, port: int) -> Ask:
    """Asks over HTTPS, each time on a new connection: nodes come and go."""

    def ask(node: Node, path: str) -> Answer:
        connection = http.client.HTTPSConnection(
            node.address, port, timeout=TIMEOUT, context=context
        )
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return Answer(response.status, response.read().decode(errors="replace"))
        except ConnectionRefusedError:
            return Answer(seen="connection refused (no K3s runs there)", kind="refused")
        except ssl.SSLCertVerificationError as error:
            return Answer(
                seen=f"its certificate is not this cluster's ({error.verify_message}): another CA",
                kind="strange",
            )
        except ssl.SSLError as error:
            return Answer(seen=f"TLS error ({error.reason})", kind="strange")
        except (TimeoutError, socket.gaierror, OSError) as error:
            reason = "no answer" if isinstance(error, TimeoutError) else (error.strerror or "")
            return Answer(seen=f"{reason or error} on {node.address}:{port}", kind="silent")
        except http.client.HTTPException as error:
            return Answer(seen=f"broken answer ({type(error).__name__})", kind="strange")
        finally:
            connection.close()

    return ask


@dataclass(frozen=True)
class View:
    """The cluster at one moment, as seen from outside."""

    health: Mapping[str, Answer]
    """Node name → its own API server's /readyz?verbose."""
    listing: Answer
    """The list of Nodes, from the first API server that gives it; else the best refusal."""
    known: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Node object's name → its conditions (type → status)."""

    def nobody(self) -> bool:
        """No K3s answers anywhere (a TLS error is an answer too: somebody is there)."""
        return all(answer.kind in {"refused", "silent"} for answer in self.health.values())

    def problem(self, name: str) -> str | None:
        """Why this manager is not a healthy member; None: it is.

        A Node's Ready is up to 40 s old, and its voter condition never ages: a server that was just
        deleted still has both. So its own API server is asked too, with its etcd check.
        """
        return _api_problem(self.health[name]) or self._node_problem(name)

    def _node_problem(self, name: str) -> str | None:
        conditions = self.known.get(name)
        if not self.listing.ok:
            return f"the list of Nodes cannot be read ({self.listing.said()})"
        if conditions is None:
            return "its API server answers, but there is no Node object of that name yet"
        if conditions.get("Ready") != "True":
            return f"NotReady (Ready is {conditions.get('Ready', 'not reported')})"
        if conditions.get("EtcdIsVoter") != "True":
            return "its etcd member is not a voter yet (learner)"
        return None


def _api_problem(answer: Answer) -> str | None:
    """Why an API server is not in order by its own /readyz?verbose; None: it is."""
    failed = re.findall(r"^\[-\](\S+)", answer.body, re.MULTILINE)
    if failed:
        return f"its API server is not ready: {', '.join(failed)} failed"
    if not answer.ok:
        return answer.said()
    if not re.search(r"^\[\+\]etcd ok", answer.body, re.MULTILINE):
        return "its API server says nothing of its etcd"
    return None


def look(nodes: Sequence[Node], ask: Ask) -> View:
    # All at once: on a first creation each of them is a time-out.
    with ThreadPoolExecutor(max_workers=len(nodes)) as pool:
        answers = list(pool.map(lambda node: ask(node, "/readyz?verbose"), nodes))
    health = {node.name: answer for node, answer in zip(nodes, answers, strict=True)}
    listing = Answer(seen="no API server answers", kind="silent")
    for node in nodes:
        if health[node.name].status is None:
            continue
        listing = ask(node, "/api/v1/nodes")
        if listing.ok:
            try:
                return View(health, listing, _conditions(json.loads(listing.body)))
            except (ValueError, KeyError, TypeError, AttributeError):
                listing = Answer(seen="the list of Nodes is not Kubernetes'", kind="strange")
    return View(health, listing)


def _conditions(nodes: Any) -> dict[str, dict[str, str]]:
    return {
        item["metadata"]["name"]: {
            c["type"]: c["status"] for c in item.get("status", {}).get("conditions") or ()
        }
        for item in nodes["items"]
    }


# --- Hetzner -----------------------------------------------------------------------------------


class Hetzner:
    """The few calls that the gate makes, with patience for what passes (429, 5xx, broken lines)."""

    def __init__(
        self,
        *,
        token: str,
        endpoint: str,
        sleep: Callable[[float], None] = time.sleep,
        tries: int = 6,
    ) -> None:
        self._token, self._endpoint = token, endpoint.rstrip("/")
        self._sleep, self._tries = sleep, tries

    def server(self, name: str) -> dict[str, Any] | None:
        """The server of that name; names are unique in a project."""
        found = self._call("GET", f"/servers?{urllib.parse.urlencode({'name': name})}")["servers"]
        return found[0] if found else None

    def lift_protection(self, server_id: int) -> None:
        action = self._call(
            "POST",
            f"/servers/{server_id}/actions/change_protection",
            {"delete": False, "rebuild": False},
        )["action"]
        for _ in range(60):
            if action["status"] == "success":
                return
            if action["status"] == "error":
                raise GateError(f"Hetzner did not lift the protection: {action.get('error')}")
            self._sleep(1.0)
            action = self._call("GET", f"/actions/{action['id']}")["action"]
        raise GateError("Hetzner is still lifting the protection after a minute; run `up` again")

    def server_types(self) -> list[dict[str, Any]]:
        """Everything that Hetzner sells, as its API lists it; about 30 entries."""
        found: list[dict[str, Any]] = []
        page: int | None = 1
        while page:
            answer = self._call("GET", f"/server_types?per_page=50&page={page}")
            found += answer["server_types"]
            page = ((answer.get("meta") or {}).get("pagination") or {}).get("next_page")
        return found

    def _call(self, verb: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self._endpoint + path,
            method=verb,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self._token}",
                "Content-Type": "application/json",
                "User-Agent": "honeydue-gate",
            },
        )
        seen = ""
        for attempt in range(self._tries):
            if attempt:
                self._sleep(min(2.0**attempt, 20.0))
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                seen = f"HTTP {error.code}{_code(error)}"
                if error.code in {401, 403}:
                    raise GateError(
                        f"Hetzner refuses the token ({seen}): is honeydue:hcloudToken right, "
                        "and may it write?"
                    ) from None
                if error.code not in {409, 423, 429} and error.code < 500:
                    break
            except (OSError, http.client.HTTPException, ValueError) as error:
                seen = str(getattr(error, "reason", "") or error or type(error).__name__)
        raise HetznerError(
            f"Hetzner's API cannot be asked ({verb} {path}: {seen}); run `up` again when it answers"
        )


def _code(error: urllib.error.HTTPError) -> str:
    try:
        return f" {json.load(error)['error']['code']}"
    except (ValueError, KeyError, TypeError):
        return ""


# --- waiting -----------------------------------------------------------------------------------


@dataclass
class Patience:
    """Polls until a verdict, with a line whenever it changes and every ten seconds."""

    deadline: float
    say: Callable[[str], None]
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.monotonic

    def until(self, look_again: Callable[[], list[str]], waiting_for: str) -> list[str]:
        """Calls `look_again` until it returns no problem; returns those left at the deadline."""
        started, spoken, last = self.now(), float("-inf"), None
        while True:
            problems = look_again()
            waited = self.now() - started
            if not problems or waited >= self.deadline:
                return problems
            if problems != last or self.now() - spoken >= PROGRESS:
                self.say(f"{waited:4.0f} s  waiting for {waiting_for}: {'; '.join(problems)}")
                spoken, last = self.now(), problems
            self.sleep(min(POLL, max(self.deadline - waited, 0.0)))


# --- health ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """The manager whose turn it is."""

    node: str
    generation: int
    server_type: str
    location: str
    stack: str


def health(
    nodes: Sequence[Node], change: Change, ask: Ask, hetzner: Hetzner, patience: Patience
) -> None:
    """Returns when this manager may be touched; raises GateError when not.

    - Nobody answers: a first creation, or everything is lost. Go on at once. But an existing server
      whose port does not even refuse is not proof of that: perhaps it is we who cannot see (another
      address than operator.apiCidrs allows), and a live quorum stands behind the silence. Wait.
    - The cluster does not know this node: a member is added, none is touched. Go on at once.
    - Else every manager before it, and every later one that the cluster knows, must be healthy.
      This one may be dead: it is about to be repaired. But a server is replaced only when those
      others are a quorum without it.
    """
    me = next((i for i, node in enumerate(nodes) if node.name == change.node), None)
    if me is None:
        raise GateError(f"{change.node} is not among the managers of the settings")
    reason = ""
    alone: str | None = None

    def problems() -> list[str]:
        nonlocal reason, alone
        alone = None
        view = look(nodes, ask)
        if view.nobody():
            hidden = _hidden(nodes, nodes[me], view, hetzner)
            reason = "no manager's API server answers: nothing is running that could be hurt"
            return [
                f"{node.name} runs at Hetzner but {view.health[node.name].said()}"
                for node in hidden
            ]
        if view.listing.ok and change.node not in view.known:
            reason = f"the cluster does not know {change.node}: it gains a member and loses none"
            return []
        others = [
            node.name
            for i, node in enumerate(nodes)
            if i < me or (i > me and (node.name in view.known or not view.listing.ok))
        ]
        reason = f"{', '.join(others) or 'no other manager'}: healthy"
        alone = _indispensable(change.node, others, view)
        found = {name: view.problem(name) for name in others}
        return [f"{name}: {problem}" for name, problem in found.items() if problem]

    left = patience.until(problems, f"the members beside {change.node}")
    if left:
        raise GateError(
            f"{change.node} was not touched, because the cluster could lose its quorum. "
            f"{'; '.join(left)}. {WHERE_TO_LOOK}. If nothing answers, compare this machine's "
            "public address with operator.apiCidrs in the settings"
        )
    server = hetzner.server(change.node)
    before = _replaced_generation(server, change)
    if alone and before is not None:
        raise GateError(alone)
    ask_for_stock(server, change, me, hetzner, patience.say)
    patience.say(f"{change.node} may be touched ({reason})")
    if server and before is not None:
        make_way(server, before, change, hetzner, patience.say)


def _hidden(nodes: Sequence[Node], me: Node, view: View, hetzner: Hetzner) -> list[Node]:
    """Managers that run at Hetzner and are silent to us; only asked when `me` exists: otherwise
    nothing can be hurt, since it is only created."""
    silent = [node for node in nodes if view.health[node.name].kind == "silent"]
    if not silent or hetzner.server(me.name) is None:
        return []
    servers = {node.name: hetzner.server(node.name) for node in silent}
    return [
        node for node in silent if (found := servers[node.name]) and found["status"] == "running"
    ]


def _indispensable(me: str, others: Sequence[str], view: View) -> str | None:
    """Why the cluster would not survive the loss of `me`, however healthy the others are.

    A member that the settings no longer name counts as dead: nobody here can ask it.
    """
    strangers = [
        name
        for name, conditions in view.known.items()
        if "EtcdIsVoter" in conditions and name not in {me, *others}
    ]
    members = 1 + len(others) + len(strangers)
    if 2 * len(others) > members:
        return None
    if members == 1:
        return (
            f"{me} was not replaced: it is the only manager, and replacing it destroys the "
            "cluster. Add two first (honeydue:cluster.nodes), then `up`, then raise its "
            "generation; or delete it at Hetzner yourself, and restore a snapshot afterwards"
        )
    besides = f" ({', '.join(strangers)} not in the settings)" if strangers else ""
    return (
        f"{me} was not replaced: of the cluster's {members} managers{besides} only {len(others)} "
        "would be left for sure, which is no quorum. First let `up` without this generation bring "
        "the cluster to the managers of the settings (docs/rebuild.md, Fewer managers)"
    )


def _replaced_generation(server: Mapping[str, Any] | None, change: Change) -> int | None:
    """The server's generation, when a higher one is about to replace it."""
    label = str(server["labels"].get("generation", "")) if server else ""
    return int(label) if label.isdigit() and int(label) < change.generation else None


def make_way(
    server: Mapping[str, Any],
    before: int,
    change: Change,
    hetzner: Hetzner,
    say: Callable[[str], None],
) -> None:
    """Lifts the protection of exactly this server, which a raised generation is about to replace.

    Hetzner refuses to delete a protected server and Pulumi's plugin does not lift the protection
    first. That refusal is what stops every other plan that would replace a node.
    """
    protection = server["protection"]
    if protection.get("delete") or protection.get("rebuild"):
        hetzner.lift_protection(server["id"])
        say(
            f"lifted the delete protection of {change.node} (server {server['id']}): generation "
            f"{before} is to be replaced by {change.generation}"
        )
    # Pulumi has noted by now that this gate passed, and does not run it again for this generation.
    say(
        f"if this run breaks off before {change.node} is replaced, the next one replaces it "
        f"without asking the cluster again. To be asked, set its generation to "
        f"{change.generation + 1} (docs/rebuild.md, A run that broke off)"
    )


# --- stock -------------------------------------------------------------------------------------

CORES, MEMORY = 4, 8  # vCPU and GB (x86) of a manager; honeydue/kubernetes/capacity.py counts them


def ask_for_stock(
    server: Mapping[str, Any] | None,
    change: Change,
    index: int,
    hetzner: Hetzner,
    say: Callable[[str], None],
) -> None:
    """Raises GateError when Hetzner must make a server of this type and has none.

    A server that cannot be made again is kept, one that changes its type is not switched off for
    nothing, and a first `up` ends before half of production is there. When Hetzner cannot say it,
    the create itself will.
    """
    if server is None:
        verb = "created"
    elif _replaced_generation(server, change) is not None:
        verb = "replaced"
    elif server.get("server_type", {}).get("name", change.server_type) != change.server_type:
        verb = f"changed to {change.server_type}"
    else:
        return
    try:
        types = hetzner.server_types()
    except HetznerError as error:
        say(f"warning: whether {change.server_type} is sold out is not known: {error}")
        return
    if lack := shortage(types, change.server_type, change.location):
        node, stack = change.node, change.stack
        instead = next(iter(large_enough(types, change.location)), "<type>").split()[0]
        path = f"honeydue:cluster.nodes[{index}].serverType"
        raise GateError(
            f"{node} was not {verb}: {lack}. Wait, or set another serverType for {node} in "
            f"Pulumi.{stack}.yaml: pulumi config set -s {stack} --path '{path}' {instead}"
        )


def shortage(types: Sequence[Mapping[str, Any]], wanted: str, location: str) -> str | None:
    """Why this server type cannot be had there today, and what can; None: it can.

    A type of which Hetzner does not say where it is sold is taken to be available.
    """
    found = next((kind for kind in types if kind["name"] == wanted), None)
    if found is None:
        lack = f"Hetzner knows no server type {wanted}"
    elif _available(found, location):
        return None
    else:
        lack = f"Hetzner has no {wanted} left in {location}"
        elsewhere = [p["name"] for p in found["locations"] if p.get("available") is not False]
        lack += f"; it is available in {', '.join(elsewhere)}" if elsewhere else " or elsewhere"
        if elsewhere:
            lack += f", but a node's addresses are bound to {location} (docs/rebuild.md)"
    instead = large_enough(types, location)
    return (
        f"{lack}. In {location}, with at least {CORES} vCPU and {MEMORY} GB (x86), are available: "
        f"{', '.join(instead[:5]) or 'none'}"
    )


def large_enough(types: Sequence[Mapping[str, Any]], location: str) -> list[str]:
    """What a manager could be instead, in words, the cheapest first."""
    fit = [
        kind
        for kind in types
        if kind["architecture"] == "x86"
        and kind["cores"] >= CORES
        and kind["memory"] >= MEMORY
        and not kind.get("deprecation")
        and _available(kind, location)
    ]
    fit.sort(key=lambda kind: _price(kind, location))
    return [f"{kind['name']} ({kind['cores']} vCPU, {kind['memory']:g} GB)" for kind in fit]


def _available(kind: Mapping[str, Any], location: str) -> bool:
    places = {place["name"]: place for place in kind.get("locations") or ()}
    if not places:
        return True
    return location in places and places[location].get("available") is not False


def _price(kind: Mapping[str, Any], location: str) -> float:
    for price in kind.get("prices") or ():
        if price["location"] == location:
            return float(price["price_monthly"]["net"])
    return float("inf")


# --- ready -------------------------------------------------------------------------------------


def ready(nodes: Sequence[Node], ask: Ask, patience: Patience) -> None:
    """Returns when every manager is a Ready node, a voting member, and serves the API itself."""

    def problems() -> list[str]:
        view = look(nodes, ask)
        found = {node.name: view.problem(node.name) for node in nodes}
        return [f"{name}: {problem}" for name, problem in found.items() if problem]

    left = patience.until(problems, f"{len(nodes)} nodes")
    if left:
        raise GateError(
            f"after {patience.deadline:.0f} s the cluster is not up. {'; '.join(left)}. "
            f"{WHERE_TO_LOOK}. Nothing in the cluster was changed; `up` again goes on from here"
        )
    patience.say(f"ready: {len(nodes)} nodes Ready, {len(nodes)} etcd voters, every API server up")


# --- called by Pulumi --------------------------------------------------------------------------


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    def need(name: str) -> str:
        value = environment.get(name)
        if not value:
            raise GateError(
                f"{name} is not set; the gate is run by Pulumi, see honeydue/k3s/gates.py"
            )
        return value

    def say(line: str) -> None:
        print(line, flush=True)

    if list(arguments) not in (["health"], ["ready"]):
        print("usage: python -m honeydue.k3s.gate health|ready", file=sys.stderr)
        return 2
    try:
        nodes = [Node(n["name"], n["address"]) for n in json.loads(need("HONEYDUE_NODES"))]
        context = tls_context(
            server_ca=need("HONEYDUE_SERVER_CA"),
            certificate=need("HONEYDUE_ADMIN_CERTIFICATE"),
            key=need("HONEYDUE_ADMIN_KEY"),
        )
        ask = asker(context, int(environment.get("HONEYDUE_API_PORT") or 6443))
        patience = Patience(float(need("HONEYDUE_DEADLINE")), say)
        if arguments[0] == "ready":
            ready(nodes, ask, patience)
            return 0
        change = Change(
            need("HONEYDUE_NODE"),
            int(need("HONEYDUE_GENERATION")),
            need("HONEYDUE_SERVER_TYPE"),
            need("HONEYDUE_LOCATION"),
            need("HONEYDUE_STACK"),
        )
        hetzner = Hetzner(
            token=need("HCLOUD_TOKEN"), endpoint=environment.get("HCLOUD_ENDPOINT") or HETZNER
        )
        health(nodes, change, ask, hetzner, patience)
    except GateError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
