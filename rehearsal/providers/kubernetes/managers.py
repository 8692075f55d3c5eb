"""Who manages which field of an object (server-side apply's `metadata.managedFields`). Pure.

The plugin creates with POST (so that an existing object is an error) and updates with
server-side apply. The API server takes these for two managers, although they have the same name:
before the first apply, what the POST set has to be handed over, together with what an operator set
with kubectl in place of us. As pulumi-kubernetes does it: provider/pkg/await/await.go,
fixCSAFieldManagers, and Flux's PatchReplaceFieldsManagers.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

from rehearsal.providers.kubernetes.values import pluck

PREFIX: Final = "pulumi-kubernetes-"
_TAKEN_OVER: Final = (
    ("kubectl", "Apply"),
    ("kubectl", "Update"),
    ("before-first-apply", "Update"),
    ("pulumi-kubernetes", "Update"),  # a prefix: what our own POST set is among it
    ("pulumi-resource-kubernetes", "Update"),
)


def new_name() -> str:
    return PREFIX + secrets.token_hex(4)


def handed_over(live: Mapping[str, Any], manager: str) -> list[dict[str, Any]] | None:
    """`managedFields` with the fields of `_TAKEN_OVER` moved to our Apply entry; None: no change.

    Entries of a subresource stay: `kubectl scale` (subresource scale) keeps owning `replicas`, and
    an apply with another number is a conflict, with the plugin too.
    """
    ours: dict[str, Any] | None = None
    others: list[dict[str, Any]] = []
    entries = pluck(live, "metadata", "managedFields", default=[])
    for entry in entries:
        if entry.get("manager") == manager and entry.get("operation") == "Apply":
            ours = dict(entry)
    changed = False
    for entry in entries:
        if entry.get("manager") == manager and entry.get("operation") == "Apply":
            continue
        if not _is_taken_over(entry):
            others.append(dict(entry))
            continue
        changed = True
        if ours is None:
            ours = {**entry, "manager": manager, "operation": "Apply"}
        else:
            ours["fieldsV1"] = union(ours.get("fieldsV1") or {}, entry.get("fieldsV1") or {})
    return [*others, ours] if changed and ours is not None else None


def _is_taken_over(entry: Mapping[str, Any]) -> bool:
    return not entry.get("subresource") and any(
        str(entry.get("manager", "")).startswith(prefix) and entry.get("operation") == operation
        for prefix, operation in _TAKEN_OVER
    )


def has_create_entry(live: Mapping[str, Any]) -> bool:
    """Whether fields are still held by the POST of a provider: a dry run must force past it, as the
    hand-over is not done in a dry run."""
    return any(
        entry.get("operation") == "Update"
        and not entry.get("subresource")
        and str(entry.get("manager", "")).startswith("pulumi-")
        for entry in pluck(live, "metadata", "managedFields", default=[])
    )


def union(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Both sets of fields: `fieldsV1` is a trie whose keys are field names (`f:spec`, `k:{…}`)."""
    return {key: union(a.get(key) or {}, b.get(key) or {}) for key in sorted({*a, *b})}
