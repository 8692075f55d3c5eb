"""Probes, and what a kubelet says when they fail.

Source of the texts: k8s.io/kubernetes v1.34, pkg/probe/http/http.go and pkg/probe/tcp/tcp.go; the
rest of each is what Go's net package says.
"""

from __future__ import annotations

import http.client
import socket
from typing import Any

from rehearsal.kubelet.addresses import Address

Json = dict[str, Any]


def probed_port(probe: Json, spec: Json) -> int:
    wanted = (probe.get("httpGet") or probe.get("tcpSocket") or {}).get("port", 0)
    named = {port.get("name"): port["containerPort"] for port in spec.get("ports") or ()}
    return int(named.get(wanted, wanted if str(wanted).isdigit() else 0))


def _url(probe: Json, said: str) -> str:
    get = probe["httpGet"]
    return f"{get.get('scheme', 'HTTP').lower()}://{said}{get.get('path', '/')}"


def refused(probe: Json, said: str, why: str = "connect: connection refused") -> str:
    dial = f"dial tcp {said}: {why}"
    return f'Get "{_url(probe, said)}": {dial}' if "httpGet" in probe else dial


def ask(probe: Json, at: Address | None, said: str) -> str:
    """Asks what listens at `at` (None: nothing does); "" when it passes. `said`: the address that
    the words tell. Other kinds of probes (exec, grpc) pass: there is no container to run them in.
    """
    seconds = float(probe.get("timeoutSeconds", 1))
    status = 200
    try:
        if at is None:
            raise ConnectionRefusedError
        if "tcpSocket" in probe:
            socket.create_connection(at, seconds).close()
        elif "httpGet" in probe:
            status = _status(probe["httpGet"], at, said, seconds)
    except TimeoutError:
        if "tcpSocket" in probe:
            return refused(probe, said, "i/o timeout")
        waiting = "(Client.Timeout exceeded while awaiting headers)"
        return f'Get "{_url(probe, said)}": context deadline exceeded {waiting}'
    except ConnectionRefusedError:
        return refused(probe, said)
    except (OSError, http.client.HTTPException) as error:
        return f'Get "{_url(probe, said)}": {getattr(error, "strerror", None) or "EOF"}'
    # A kubelet would first follow a redirect on the same host; one to elsewhere passes there too.
    return "" if 200 <= status < 400 else f"HTTP probe failed with statuscode: {status}"


def _status(get: Json, at: Address, said: str, seconds: float) -> int:
    connection = http.client.HTTPConnection(*at, timeout=seconds)
    try:
        headers = {"Host": said, "User-Agent": "kube-probe/1.34", "Connection": "close"}
        headers |= {each["name"]: each["value"] for each in get.get("httpHeaders") or ()}
        connection.request("GET", get.get("path", "/"), headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()
