"""A container's environment, from its pod's spec. Pure but for the look-ups.

Order and texts: k8s.io/kubernetes v1.34, pkg/kubelet/kubelet_pods.go (makeEnvironmentVariables).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from rehearsal.kubelet.container import ConfigMissing

Json = dict[str, Any]
Lookup = Callable[[str, str], "dict[str, str] | None"]
"""Kind (ConfigMap, Secret) and name → its data in the clear; None: there is no such thing."""


def environment(spec: Json, pod: Json, ip: str, lookup: Lookup) -> dict[str, str]:
    """What the pod says: envFrom, then env, which wins. The variables of Services are left out:
    their addresses lead nowhere here. Raises ConfigMissing."""
    found: dict[str, str] = {}
    for source in spec.get("envFrom") or ():
        for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if ref := source.get(field):
                data = lookup(kind, ref["name"])
                if data is None and not ref.get("optional"):
                    raise ConfigMissing(f'{kind.lower()} "{ref["name"]}" not found')
                prefix = source.get("prefix", "")
                found |= {f"{prefix}{key}": value for key, value in (data or {}).items()}
    for variable in spec.get("env") or ():
        value = variable.get("value", "")
        if "valueFrom" in variable:
            taken = _value_from(variable["valueFrom"], pod, ip, lookup)
            if taken is None:
                continue
            value = taken
        else:
            value = _expanded(value, found)
        found[variable["name"]] = value
    return found


def _value_from(source: Json, pod: Json, ip: str, lookup: Lookup) -> str | None:
    """None: optional, and not there."""
    for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        if ref := source.get(field):
            data = lookup(kind, ref["name"])
            if data is not None and ref["key"] in data:
                return data[ref["key"]]
            if ref.get("optional"):
                return None
            if data is None:
                raise ConfigMissing(f'{kind.lower()} "{ref["name"]}" not found')
            place = f"{pod['metadata']['namespace']}/{ref['name']}"
            raise ConfigMissing(f"couldn't find key {ref['key']} in {kind} {place}")
    path = (source.get("fieldRef") or {}).get("fieldPath", "")
    known: dict[str, str] = {
        "metadata.name": pod["metadata"]["name"],
        "metadata.namespace": pod["metadata"]["namespace"],
        "metadata.uid": pod["metadata"]["uid"],
        "spec.nodeName": pod["spec"].get("nodeName", ""),
        "status.podIP": ip,
    }
    return known.get(path, "")


def _expanded(text: str, known: Mapping[str, str]) -> str:
    """`$(NAME)` by what was set before it; `$$` is a dollar; an unknown name stays as it is."""

    def one(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else known.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^()]+)\)", one, text)
