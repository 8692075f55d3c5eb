"""Two small HTTPS clients: of an API server, and of an etcd member (its JSON gateway).

Small on purpose: the boot asks a dozen things, of servers that are not up yet, many times.
"""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass, replace
from typing import Any

from rehearsal.cluster.certificates import Pair


class NoAnswer(Exception):  # noqa: N818 - a state of the other side, not an error of ours
    """Nothing listens there, or not yet, or not what our CA vouches for."""


class Refused(Exception):  # noqa: N818 - the other side's answer
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Https:
    """JSON over mutual TLS. One connection a call: peers come and go here."""

    host: str
    port: int
    context: ssl.SSLContext
    seconds: float = 5.0

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Any:
        """The parsed answer (text when it is not JSON). Raises NoAnswer or Refused."""
        connection = http.client.HTTPSConnection(
            self.host, self.port, context=self.context, timeout=self.seconds
        )
        try:
            payload = None if body is None else json.dumps(body).encode()
            connection.request(method, path, payload, {"Content-Type": content_type})
            answer = connection.getresponse()
            raw = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"{self.host}:{self.port}: {error}") from None
        finally:
            connection.close()
        try:
            said: Any = json.loads(raw)
        except ValueError:
            said = raw.decode(errors="replace")
        if answer.status >= 400:
            message = said.get("message") if isinstance(said, dict) else said
            raise Refused(answer.status, str(message)[:500])
        return said


def tls_context(ca: Pair, client: Pair) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca.crt))
    # Python 3.13 asks of a CA what OpenSSL and Go do not (key identifiers); nodes use Go.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.load_cert_chain(client.crt, client.key)
    return context


class Api(Https):
    """An API server, as system:masters."""

    def ready(self) -> bool:
        try:
            return bool(self.call("GET", "/readyz") == "ok")
        except (NoAnswer, Refused):
            return False

    def get(self, path: str) -> dict[str, Any] | None:
        try:
            answer: dict[str, Any] = self.call("GET", path)
            return answer
        except Refused as refusal:
            if refusal.status == 404:
                return None
            raise

    def delete(self, path: str) -> None:
        try:
            self.call("DELETE", path)
        except Refused as refusal:
            if refusal.status != 404:
                raise

    def create(self, path: str, body: dict[str, Any]) -> bool:
        """False when it exists already."""
        try:
            self.call("POST", path, body)
            return True
        except Refused as refusal:
            if refusal.status == 409:
                return False
            raise

    def patch(self, path: str, body: dict[str, Any]) -> None:
        """Strategic merge: conditions and addresses merge by type, as kubelets patch them."""
        self.call("PATCH", path, body, "application/strategic-merge-patch+json")

    def apply(self, path: str, body: dict[str, Any]) -> None:
        """Server-side apply as K3s's deploy controller; never fights the program's own fields."""
        self.call(
            "PATCH", f"{path}?fieldManager=k3s&force=false", body, "application/apply-patch+yaml"
        )


@dataclass(frozen=True)
class Member:
    """One etcd member. `name` is empty until it has started."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    learner: bool

    def is_of_node(self, node: str) -> bool:
        """K3s names members <node>-<8 hex digits>."""
        return self.name.rpartition("-")[0] == node


class Etcd(Https):
    """An etcd member's gateway: gRPC's messages as JSON, 64-bit numbers as strings."""

    def healthy(self) -> bool:
        """True when it answers and its cluster has a leader (a quorum)."""
        try:
            said = self.call("GET", "/health")
        except (NoAnswer, Refused):
            return False
        return isinstance(said, dict) and said.get("health") == "true"

    def serves(self) -> bool:
        """True once it serves clients, as a learner too (which is never `healthy`). Until then it
        takes connections and says nothing."""
        try:
            replace(self, seconds=1.0).call("GET", "/version")
        except (NoAnswer, Refused):
            return False
        return True

    def members(self) -> list[Member]:
        # linearizable=false: a member without quorum still says what it knows.
        said = self.call("POST", "/v3/cluster/member/list", {"linearizable": False})
        return [
            Member(
                int(one["ID"]),
                one.get("name", ""),
                tuple(one.get("peerURLs", ())),
                bool(one.get("isLearner", False)),
            )
            for one in said.get("members", [])
        ]

    def add_learner(self, peer_url: str) -> None:
        self.call("POST", "/v3/cluster/member/add", {"peerURLs": [peer_url], "isLearner": True})

    def promote(self, member: int) -> None:
        self.call("POST", "/v3/cluster/member/promote", {"ID": str(member)})

    def remove(self, member: int) -> None:
        self.call("POST", "/v3/cluster/member/remove", {"ID": str(member)})
