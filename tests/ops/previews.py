"""Documents of `pulumi preview --json`, as the CLI prints them (pkg/display/json.go)."""

from __future__ import annotations

import copy
from typing import Any

from honeydue.images.references import TAG_ANNOTATION
from ops.plan import UNKNOWN
from tests.ops.kubernetes_json import DIGEST, OTHER, image, manifest

Json = dict[str, Any]

DEPLOYMENT = "kubernetes:apps/v1:Deployment"
CONFIG_MAP = "kubernetes:core/v1:ConfigMap"
SECRET = "kubernetes:core/v1:Secret"
STACK = {
    "op": "same",
    "urn": "urn:pulumi:prod::honeydue::pulumi:pulumi:Stack::honeydue-prod",
    "oldState": {"custom": False, "type": "pulumi:pulumi:Stack"},
    "newState": {"custom": False, "type": "pulumi:pulumi:Stack"},
}


def document(*steps: Json, diagnostics: tuple[Json, ...] = ()) -> Json:
    """With the stack itself, which the CLI always lists."""
    counted: dict[str, int] = {}
    for step in steps:
        counted[step["op"]] = counted.get(step["op"], 0) + 1
    return {
        "config": {"honeydue:tokens": "[secret]"},
        "steps": [STACK, *steps],
        "diagnostics": list(diagnostics),
        "duration": 4_200_000_000,
        "changeSummary": {"same": 90, **counted},
    }


def step(
    op: str, kind: str, name: str, old: Json | None = None, new: Json | None = None, **more: Any
) -> Json:
    """`old` and `new` are inputs; by default the resource is there before and after, as `op`
    wants it. `kind` may have its parents' before it, as a URN has them (`a:b:C$d:e:F`)."""
    urn = f"urn:pulumi:prod::honeydue::{kind}::{name}"
    kind = kind.rsplit("$", 1)[-1]
    told: Json = {"op": op, "urn": urn, **more}
    if op != "create":
        told["oldState"] = {"urn": urn, "custom": True, "type": kind, "inputs": old or {}}
    if op != "delete":
        told["newState"] = {"urn": urn, "custom": True, "type": kind, "inputs": new or {}}
    return told


def runs(service: str, *, digest: str = DIGEST, tag: str = "1a2b3c4") -> Json:
    """Inputs of a Deployment. `digest` may be UNKNOWN: the whole reference is then."""
    made = manifest(service, digest)
    made["metadata"]["annotations"][TAG_ANNOTATION] = tag
    reference = UNKNOWN if digest == UNKNOWN else image(service, digest)
    made["metadata"]["annotations"]["kubernetes.io/change-cause"] = reference
    made["spec"]["template"]["spec"]["containers"][0]["image"] = reference
    return copy.deepcopy(made)


def reads(inputs: Json, *, config: str = "", secrets: str = "") -> Json:
    """The same with another ConfigMap or Secret."""
    for entry in inputs["spec"]["template"]["spec"]["containers"][0]["envFrom"]:
        if config and "configMapRef" in entry:
            entry["configMapRef"]["name"] = config
        if secrets and "secretRef" in entry:
            entry["secretRef"]["name"] = secrets
    return inputs


def deployment(op: str, service: str, old: Json | None, new: Json | None) -> Json:
    return step(op, DEPLOYMENT, f"honeydue-{service}", old, new)


def config_map(service: str, old: Json, new: Json) -> Json:
    name = f"honeydue-config-{service}"
    return step(
        "replace",
        CONFIG_MAP,
        name,
        {"metadata": {"name": f"{name}-1"}, "data": old},
        {"metadata": {"name": f"{name}-2"}, "data": new},
        replaceReasons=["data", "metadata"],
    )


def released(service: str, digest: str = OTHER, tag: str = "237c6b8") -> Json:
    """A step that rolls a service to another image."""
    return deployment("update", service, runs(service), runs(service, digest=digest, tag=tag))
