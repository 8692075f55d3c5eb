"""Kubernetes resources: check, diff, create, read, update and delete as pulumi-kubernetes 4.3x.

Where it differs from the plugin:

- State: the plugin also keeps the inputs among the outputs (`__inputs`). The engine hands them to
  `diff` itself, and a second copy of a Secret's data would need a secret mark of its own.
- Names: the plugin makes up a missing `metadata.name` in Check, ours in Create (Check is not told
  the logical name). Either way it is `<logical name>-<8 hex>` and marked `pulumi.com/autonamed`.
- Only server-side apply; no Helm, kustomize, YAML or …Patch resources; no `waitFor`,
  no `replaceUnready`. All of these are refused, none is ignored.
- A refresh does not judge whether a workload is ready; the plugin's does, and keeps a failure as
  `initErrors`: its next preview shows an update without a difference, and `up` waits for it anew.
- An object of the same name that a preview of a replacement meets: the plugin tries again under
  another name where the answer says "field is immutable", and so previews (and passes on) that
  name. Any other refusal fails its preview as it does ours: of a StatefulSet, of a PriorityClass.
- Create by POST (never of this program, which upserts) is by a manager of its own name there,
  `pulumi-kubernetes`, which the first update hands over.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from rehearsal.engine.provider import (
    UNKNOWN,
    CheckFailure,
    Context,
    Diff,
    Properties,
    ProviderError,
    Unknown,
)
from rehearsal.providers import schema
from rehearsal.providers.kubernetes import kubeconfig, managers
from rehearsal.providers.kubernetes.await_ import (
    NotReadyError,
    Subject,
    until_gone,
    until_ready,
)
from rehearsal.providers.kubernetes.client import (
    APPLY,
    MERGE,
    ApiError,
    Client,
    Json,
    Kind,
    NoMatchError,
    UnreachableError,
    cluster_scoped,
)
from rehearsal.providers.kubernetes.diff import AUTONAMED, provider_diff, resource_diff
from rehearsal.providers.kubernetes.values import (
    SERVER_METADATA,
    annotations_of,
    has_unknown,
    normalized,
    pluck,
    prune,
    wire,
)

_MANAGER_KEY: Final = "__fieldManager"
_API_VERSION_KEY: Final = "__initialApiVersion"
_PATCH_FORCE: Final = "pulumi.com/patchForce"
_PATCH_MANAGER: Final = "pulumi.com/patchFieldManager"
# Annotations of the plugin that this provider does not have.
_UNSUPPORTED: Final = ("pulumi.com/waitFor", "pulumi.com/replaceUnready")
_PROPAGATION: Final = "pulumi.com/deletionPropagationPolicy"
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"

# The groups whose kinds the SDK package declares; every other group is a custom resource's.
_SDK_GROUPS: Final = frozenset(
    [
        "core",
        "apps",
        "autoscaling",
        "batch",
        "extensions",
        "policy",
        "admissionregistration.k8s.io",
        "apiextensions.k8s.io",
        "apiregistration.k8s.io",
        "certificates.k8s.io",
        "coordination.k8s.io",
        "discovery.k8s.io",
        "events.k8s.io",
        "flowcontrol.apiserver.k8s.io",
        "networking.k8s.io",
        "node.k8s.io",
        "rbac.authorization.k8s.io",
        "resource.k8s.io",
        "scheduling.k8s.io",
        "storage.k8s.io",
    ]
)
_NOT_OBJECTS: Final = frozenset({"helm.sh", "kustomize", "yaml"})

# Provider option → environment variable, both of them the plugin's own.
_OPTIONS: Final = {
    "deleteUnreachable": "PULUMI_K8S_DELETE_UNREACHABLE",
    "enableConfigMapMutable": "PULUMI_K8S_ENABLE_CONFIGMAP_MUTABLE",
    "enablePatchForce": "PULUMI_K8S_ENABLE_PATCH_FORCE",
    "enableSecretMutable": "PULUMI_K8S_ENABLE_SECRET_MUTABLE",
    "enableServerSideApply": "PULUMI_K8S_ENABLE_SERVER_SIDE_APPLY",
    "skipUpdateUnreachable": "PULUMI_K8S_SKIP_UPDATE_UNREACHABLE",
    "suppressDeprecationWarnings": "PULUMI_K8S_SUPPRESS_DEPRECATION_WARNINGS",
    "suppressHelmHookWarnings": "PULUMI_K8S_SUPPRESS_HELM_HOOK_WARNINGS",
    "upsertExistingObjects": "PULUMI_K8S_UPSERT_EXISTING_OBJECTS",
}
_TEXTS: Final = frozenset({"cluster", "clusterIdentifier", "context", "kubeconfig", "namespace"})

_DELETE_UNREACHABLE_MEND: Final = (
    "If the cluster is really gone (and not merely stopped), remove its objects from the "
    "state with PULUMI_K8S_DELETE_UNREACHABLE=true in the environment of one `refresh`."
)

T = TypeVar("T")


class KubernetesProvider:
    """One configured provider. `kubeconfig` may be UNKNOWN in a preview: then nothing is asked.

    Whether the cluster can be reached is decided once, at the first use, without a retry, as the
    plugin does when it is configured: so the provider resource has to wait for the readiness gate.
    """

    # Between the tries of a create whose kind or namespace may be about to appear.
    retry_seconds: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)

    def __init__(self, inputs: Properties):
        for option in inputs:
            if option not in _OPTIONS and option not in _TEXTS and not option.startswith("__"):
                raise ProviderError(
                    f"provider option {option!r}: the rehearsal's kubernetes provider has none of "
                    "that name, or does not support it; remove it."
                )
        self._options = {name: _flag(inputs, name) for name in _OPTIONS}
        if self._options["enableServerSideApply"] is False:
            raise ProviderError(
                "enableServerSideApply: the rehearsal only speaks server-side apply; "
                "remove enable_server_side_apply=False."
            )
        if self._options["skipUpdateUnreachable"]:
            raise ProviderError(
                "skipUpdateUnreachable: it reports changes as made that were not; "
                "remove skip_update_unreachable=True."
            )
        self._default_namespace = inputs.get("namespace")
        unknown = any(
            isinstance(inputs.get(k), Unknown) for k in ("kubeconfig", "context", "cluster")
        )
        self._connection = None if unknown else kubeconfig.parse(inputs)
        self._decision: Client | str | None = None
        self._lock = threading.Lock()

    # --- check and diff ---

    def check(
        self,
        type_: str,
        olds: Properties | None,  # noqa: ARG002 - the protocol's
        news: Properties,
    ) -> tuple[Properties, list[CheckFailure]]:
        group, version, kind = _parse(type_)
        inputs = {
            **news,
            "apiVersion": version if group == "core" else f"{group}/{version}",
            "kind": kind,
        }
        if isinstance(inputs.get("metadata", {}), Unknown):
            return inputs, _declared_failures(type_, inputs)
        metadata = dict(inputs.get("metadata") or {})
        failures = _declared_failures(type_, inputs)
        if "generateName" in metadata:
            failures.append(
                CheckFailure("metadata.generateName", "is not supported with server-side apply")
            )
        marks = metadata.get("annotations")
        failures += [
            CheckFailure(f'metadata.annotations["{mark}"]', "the rehearsal does not support it")
            for mark in _UNSUPPORTED
            if isinstance(marks, Mapping) and mark in marks
        ]
        if not metadata.get("name"):
            metadata["annotations"] = {**(marks or {}), AUTONAMED: "true"}
        wanted = self._default_namespace if not metadata.get("namespace") else None
        if wanted and self._is_namespaced(inputs["apiVersion"], kind):
            metadata["namespace"] = wanted
        inputs["metadata"] = metadata
        return inputs, failures

    def diff(
        self,
        type_: str,
        id: str,  # noqa: ARG002
        old_inputs: Properties,
        old_outputs: Properties,
        new_inputs: Properties,
    ) -> Diff:
        if type_ == "pulumi:providers:kubernetes":
            return provider_diff(old_inputs, new_inputs)
        return resource_diff(
            old_inputs,
            {k: v for k, v in old_outputs.items() if not k.startswith("__")},
            new_inputs,
            namespaced=self._is_namespaced(new_inputs["apiVersion"], new_inputs["kind"]),
            mutable_config_maps=self._options["enableConfigMapMutable"] is True,
            mutable_secrets=self._options["enableSecretMutable"] is True,
        )

    # --- create ---

    def create(self, type_: str, inputs: Properties, ctx: Context) -> tuple[str, Properties]:
        client = self._reach()
        if ctx.dry_run:
            return "", self._predict_create(client, inputs, ctx)
        client = self._demand(client)
        manager = _chosen_manager(inputs, {})
        body = wire(self._named(inputs, ctx))
        try:
            kind, live = self._retrying(
                lambda: self._post_or_apply(client, body, manager, ctx, dry_run=False), ctx
            )
        except NoMatchError as error:
            raise ProviderError(
                f"the API server has no such kind ({error}): the CustomResourceDefinition of "
                f"{type_.removeprefix('kubernetes:')} is missing, or its apiVersion is wrong."
            ) from None
        except ApiError as error:
            raise _refused("was not created", body, error) from None
        except UnreachableError as error:
            raise _lost(error) from None
        return self._ready(client, kind, live, inputs, manager, ctx)

    def _predict_create(
        self, client: Client | str | None, inputs: Properties, ctx: Context
    ) -> Properties:
        """The server's own answer to a dry run, where it can give one; else the inputs.

        With a known kubeconfig and a refused connection the plugin previews creates in silence
        too: a green preview proves nothing about the cluster.
        """
        guess = _predicted(inputs)
        if not isinstance(client, Client) or has_unknown(inputs):
            return guess
        try:
            body = wire(self._named(inputs, ctx))
            _, answer = self._post_or_apply(client, body, managers.new_name(), ctx, dry_run=True)
        except (NoMatchError, UnreachableError):
            return guess
        except ApiError as error:
            # The namespace or the object it replaces may change before `up`; a wrong spec will not.
            # (An apply over the object that is to be replaced meets its immutable fields.)
            if error.code in {403, 404, 409} or "field is immutable" in str(error):
                return guess
            raise _refused("would not be created", inputs, error) from None
        return _predicted(inputs, answer)

    def _post_or_apply(
        self, client: Client, body: Json, manager: str, ctx: Context, *, dry_run: bool
    ) -> tuple[Kind, Json]:
        """Create by POST, so that an object that exists is an error (as the
        plugin does since its pull request 4278, April 2026); with
        upsertExistingObjects by apply, which takes such an object over."""
        kind = client.kind(body["apiVersion"], body["kind"])
        query = {"fieldManager": manager, "fieldValidation": "Warn"}
        if dry_run:
            query["dryRun"] = "All"
        namespace = self._namespace_of(body)
        if not self._options["upsertExistingObjects"]:
            return kind, client.request(
                "POST", kind.path(namespace), query=query, body=body, warn=_warner(ctx)
            )
        query["force"] = str(dry_run or self._forces(body)).lower()
        path = kind.path(namespace, body["metadata"]["name"])
        return kind, client.request(
            "PATCH", path, query=query, body=body, content_type=APPLY, warn=_warner(ctx)
        )

    def _retrying(self, attempt: Callable[[], T], ctx: Context) -> T:
        """Again while the kind or the namespace may be about to appear (created beside it)."""
        for seconds in self.retry_seconds:
            try:
                return attempt()
            except NoMatchError as error:
                ctx.progress(f"not created yet: {error}")
            except ApiError as error:
                if error.code != 404:
                    raise
                ctx.progress(f"not created yet: {error}")
            time.sleep(seconds)
        return attempt()

    def _named(self, inputs: Properties, ctx: Context) -> Properties:
        metadata = dict(inputs.get("metadata") or {})
        if not metadata.get("name"):
            metadata["name"] = f"{ctx.urn.rpartition('::')[2]}-{secrets.token_hex(4)}".lower()
        return {**inputs, "metadata": metadata}

    def _ready(  # noqa: PLR0917
        self,
        client: Client,
        kind: Kind,
        live: Json,
        inputs: Properties,
        manager: str,
        ctx: Context,
    ) -> tuple[str, Properties]:
        """Waits for what was made or changed; from here on a failure must not lose the object."""
        id_, outputs = _id(live), _checkpoint(live, manager)
        subject = _subject(kind, id_)
        try:
            live = until_ready(client, subject, inputs, ctx)
            return id_, _checkpoint(live, manager)
        except NotReadyError as error:
            detail = str(error)
        except (ApiError, UnreachableError) as error:
            detail = f"what became of it cannot be read: {error}"
        with contextlib.suppress(ApiError, UnreachableError):  # else: as it was after the change
            outputs = _checkpoint(client.request("GET", subject.path), manager)
        raise ProviderError(
            f"{kind.name} {id_} is in the cluster but did not become ready: {detail}",
            id=id_,
            outputs=outputs,
        )

    # --- find and read ---

    def find(self, type_: str, inputs: Properties, ctx: Context) -> tuple[str, Properties] | None:
        """By its name, when it was made by a manager of this provider's."""
        metadata = inputs["metadata"]
        if not metadata.get("name"):
            return None  # named in the create whose answer was lost
        id_ = metadata["name"]
        if self._is_namespaced(inputs["apiVersion"], inputs["kind"]):
            id_ = f"{self._namespace_of(inputs)}/{id_}"
        found = self.read(type_, id_, inputs, {}, ctx)
        if found is None:
            return None
        entries = pluck(found[1], "metadata", "managedFields", default=[])
        made_by = [e["manager"] for e in entries if e["manager"].startswith(managers.PREFIX)]
        return (id_, {**found[1], _MANAGER_KEY: made_by[0]}) if made_by else None

    def read(
        self,
        type_: str,
        id: str,
        inputs: Properties,
        outputs: Properties,
        ctx: Context,
    ) -> tuple[Properties, Properties] | None:
        client = self._reach()
        if not isinstance(client, Client):
            if self._options["deleteUnreachable"]:
                ctx.progress("the cluster is unreachable: removed from the state")
                return None
            raise ProviderError(
                f"configured Kubernetes cluster is unreachable: {client or 'kubeconfig unknown'}. "
                + _DELETE_UNREACHABLE_MEND
            )
        group, version, kind_name = _parse(type_)
        api_version = version if group == "core" else f"{group}/{version}"
        try:
            kind = client.kind(api_version, kind_name)
            live = client.request("GET", _subject(kind, id).path)
        except NoMatchError:
            return None  # its definition is gone, and its objects with it
        except ApiError as error:
            if error.code == 404:
                return None
            raise _refused("cannot be read", inputs, error) from None
        except UnreachableError as error:
            raise _lost(error) from None
        manager = _chosen_manager(inputs, outputs)
        return _live_inputs(live, inputs, outputs), _checkpoint(live, manager)

    # --- update ---

    def update(  # noqa: PLR0917 - the protocol's
        self,
        type_: str,  # noqa: ARG002 - the inputs say it
        id: str,
        old_inputs: Properties,  # noqa: ARG002 - the server knows what it has
        old_outputs: Properties,
        new_inputs: Properties,
        ctx: Context,
    ) -> Properties:
        client = self._reach()
        if ctx.dry_run and (not isinstance(client, Client) or has_unknown(new_inputs)):
            return _predicted(new_inputs)
        client = self._demand(client)
        manager = _chosen_manager(new_inputs, old_outputs)
        name = id.rpartition("/")[2]
        body = wire({**new_inputs, "metadata": {**new_inputs["metadata"], "name": name}})
        path = None
        try:
            kind = client.kind(body["apiVersion"], body["kind"])
            path = _subject(kind, id).path
            live = client.request("GET", path)
            answer = self._apply(client, path, body, live, manager, ctx)
        except NoMatchError as error:
            if ctx.dry_run:
                return _predicted(new_inputs)
            raise ProviderError(f"the API server no longer has this kind: {error}") from None
        except ApiError as error:
            if ctx.dry_run and error.code == 403:
                return _predicted(new_inputs)
            refused = _refused("was not updated", body, error)
            if ctx.dry_run or path is None:
                raise refused from None
            # As the plugin: the state has the new inputs, over the object as it is, and the next
            # `up` tries them again, even if the program says the old ones by then.
            with contextlib.suppress(ApiError, UnreachableError):  # gone, or it cannot be asked
                live = client.request("GET", path)
                refused = ProviderError(str(refused), id=id, outputs=_checkpoint(live, manager))
            raise refused from None
        except UnreachableError as error:
            raise _lost(error) from None
        if ctx.dry_run:
            return _predicted(new_inputs, answer, updated=True)
        outputs = self._ready(client, kind, answer, new_inputs, manager, ctx)[1]
        before = str(old_outputs.get(_MANAGER_KEY) or manager)
        if before != manager:
            # After the wait, as the plugin does: in the same update the manager of before still
            # holds its fields, and a changed one is a conflict.
            try:
                _let_go(client, path, answer, before)
            except (ApiError, UnreachableError) as error:
                message = f"{kind.name} {id} is updated, but still has two managers: {error}"
                raise ProviderError(message, id=id, outputs=outputs) from None
        return outputs

    def _apply(  # noqa: PLR0917
        self, client: Client, path: str, body: Json, live: Json, manager: str, ctx: Context
    ) -> Json:
        query = {"fieldManager": manager}
        if ctx.dry_run:
            query["dryRun"] = "All"
        if body["kind"] == "CustomResourceDefinition":
            # Replaced as a whole, as `kubectl replace`: its objects stay.
            version = pluck(live, "metadata", "resourceVersion")
            whole = {**body, "metadata": {**body["metadata"], "resourceVersion": version}}
            return client.request("PUT", path, query=query, body=whole, warn=_warner(ctx))
        force = self._forces(body)
        if ctx.dry_run:
            # The hand-over below cannot be rehearsed, so the dry run goes past what it would move.
            force = force or managers.has_create_entry(live)
        else:
            self._hand_over(client, path, live, manager)
        query["force"] = str(force).lower()
        return client.request(
            "PATCH", path, query=query, body=body, content_type=APPLY, warn=_warner(ctx)
        )

    def _hand_over(self, client: Client, path: str, live: Json, manager: str) -> None:
        """Moves to us what our own create and kubectl's edits hold; see managers.py."""
        for tries_left in (4, 3, 2, 1, 0):
            entries = managers.handed_over(live, manager)
            if entries is None:
                return
            # With the version, so that an entry which a controller adds meanwhile is not lost.
            version = pluck(live, "metadata", "resourceVersion")
            moved = {"metadata": {"managedFields": entries, "resourceVersion": version}}
            try:
                client.request(
                    "PATCH",
                    path,
                    query={"fieldManager": manager},
                    body=moved,
                    content_type=MERGE,
                )
                return
            except ApiError as error:
                if error.reason != "Conflict" or not tries_left:
                    raise
                live = client.request("GET", path)

    # --- delete ---

    def delete(
        self,
        type_: str,
        id: str,
        inputs: Properties,
        outputs: Properties,
        ctx: Context,
    ) -> None:
        client = self._reach()
        if not isinstance(client, Client):
            if self._options["deleteUnreachable"]:
                ctx.progress("the cluster is unreachable: removed from the state")
                return
            raise ProviderError(
                f"configured Kubernetes cluster is unreachable: {client or 'kubeconfig unknown'}. "
                + _DELETE_UNREACHABLE_MEND
            )
        group, version, kind_name = _parse(type_)
        api_version = version if group == "core" else f"{group}/{version}"
        policy = {"orphan": "Orphan", "background": "Background"}.get(
            str(annotations_of(inputs).get(_PROPAGATION, "")).lower(), "Foreground"
        )
        try:
            subject = _subject(client.kind(api_version, kind_name), id)
            client.request("DELETE", subject.path, body={"propagationPolicy": policy})
            until_gone(client, subject, pluck(outputs, "metadata", "uid"), inputs, ctx)
        except NoMatchError:
            return  # its definition is gone, and its objects with it
        except ApiError as error:
            if error.code != 404:
                raise _refused("was not deleted", inputs, error) from None
        except NotReadyError as error:
            raise ProviderError(f"{kind_name} {id} was not deleted: {error}") from None
        except UnreachableError as error:
            raise _lost(error) from None

    def invoke(self, token: str, args: Mapping[str, Any]) -> Properties:  # noqa: ARG002
        raise ProviderError(f"the rehearsal's kubernetes provider has no function {token!r}.")

    # --- the cluster ---

    def _reach(self) -> Client | str | None:
        """The client; why the cluster cannot be reached; or None: the kubeconfig is unknown."""
        if self._connection is None:
            return None
        with self._lock:
            if self._decision is None:
                client = Client(self._connection)
                try:
                    client.answers()
                    self._decision = client
                except (UnreachableError, ApiError) as error:
                    self._decision = f"{self._connection.server}: {error}"
            return self._decision

    def _demand(self, client: Client | str | None) -> Client:
        if isinstance(client, Client):
            return client
        raise ProviderError(
            f"configured Kubernetes cluster is unreachable: {client or 'its kubeconfig is unknown'}"
            ". Is that node up, and is your address in honeydue:operator.apiCidrs? To go on by "
            "another node: pulumi config set --path honeydue:cluster.apiNode <node>, then `up` "
            "again; if all of them are lost: docs/rebuild.md"
        )

    def _is_namespaced(self, api_version: str, kind: str) -> bool:
        client = self._reach()
        if isinstance(client, Client):
            try:
                return client.kind(api_version, kind).namespaced
            except (NoMatchError, ApiError, UnreachableError):
                pass  # a custom resource whose definition is not there yet
        return not cluster_scoped(kind)

    def _namespace_of(self, body: Json) -> str:
        default = self._connection.namespace if self._connection else "default"
        return str(pluck(body, "metadata", "namespace", default=default))

    def _forces(self, inputs: Mapping[str, Any]) -> bool:
        return annotations_of(inputs).get(_PATCH_FORCE) == "true" or bool(
            self._options["enablePatchForce"]
        )


# --- pure helpers ---


def _flag(inputs: Properties, name: str) -> bool | None:
    """An option of the provider resource wins over its environment variable; None: neither is set.
    (The SDK sends booleans of provider resources as the texts "true" and "false".)"""
    value = inputs.get(name)
    if value is None:
        value = os.environ.get(_OPTIONS[name])
    return None if value is None else value in {True, "true"}


def _parse(type_: str) -> tuple[str, str, str]:
    """`kubernetes:apps/v1:Deployment` → ("apps", "v1", "Deployment")."""
    _, _, rest = type_.partition(":")
    module, _, kind = rest.rpartition(":")
    group, _, version = module.partition("/")
    if not (group and version and kind):
        raise ProviderError(
            f"{type_!r} is not a type of the form kubernetes:<group>/<version>:<Kind>"
        )
    return group, version, kind


def _declared_failures(type_: str, inputs: Properties) -> list[CheckFailure]:
    """What the SDK package's own declaration of the kind says; custom resources have none there and
    are left to the API server, whose CustomResourceDefinition knows."""
    group, version, kind = _parse(type_)
    if group in _NOT_OBJECTS or kind.endswith(("Patch", "List")):
        return [CheckFailure("", f"the rehearsal's kubernetes provider does not support {type_}")]
    if group not in _SDK_GROUPS:
        if isinstance(inputs.get("metadata", {}), Mapping | Unknown):
            return []
        return [CheckFailure("metadata", "must be an object")]
    return schema.check(f"kubernetes:{group.partition('.')[0]}/{version}:{kind}", inputs)


def _chosen_manager(inputs: Mapping[str, Any], outputs: Properties) -> str:
    chosen = annotations_of(inputs).get(_PATCH_MANAGER) or outputs.get(_MANAGER_KEY)
    return str(chosen) if chosen else managers.new_name()


def _id(live: Mapping[str, Any]) -> str:
    namespace, name = pluck(live, "metadata", "namespace"), live["metadata"]["name"]
    return f"{namespace}/{name}" if namespace else str(name)


def _subject(kind: Kind, id_: str) -> Subject:
    namespace, _, name = id_.rpartition("/")
    return Subject(
        key=f"{kind.api_version}/{kind.name}",
        path=kind.path(namespace or None, name),
        name=name,
        namespace=namespace or None,
    )


def _checkpoint(live: Json, manager: str) -> Properties:
    """The outputs: the live object, and what later operations need to know of its making."""
    outputs: Properties = {
        **live,
        _MANAGER_KEY: manager,
        _API_VERSION_KEY: live.get("apiVersion"),
    }
    if live.get("kind") == "Secret" and _LAST_APPLIED in annotations_of(live):
        # kubectl copies the whole object there, and nothing would mark that copy as secret.
        kept = {k: v for k, v in annotations_of(live).items() if k != _LAST_APPLIED}
        outputs["metadata"] = {**live["metadata"], "annotations": kept}
    return outputs


def _let_go(client: Client, path: str, live: Json, manager: str) -> None:
    """An apply of nothing: what a manager does not name any more is no longer its own."""
    identity = {k: v for k, v in live["metadata"].items() if k in {"name", "namespace"}}
    nothing = {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": identity}
    query = {"fieldManager": manager}
    client.request("PATCH", path, query=query, body=nothing, content_type=APPLY)


def _predicted(
    inputs: Properties, answer: Json | None = None, *, updated: bool = False
) -> Properties:
    """The outputs of a preview: the answer or the inputs, with UNKNOWN for what `up` decides."""
    base = dict(answer if answer is not None else inputs)
    given = base.get("metadata")
    if not isinstance(given, Unknown):
        metadata = {k: v for k, v in dict(given or {}).items() if k != "managedFields"}
        if not updated:
            # Of an update the plugin passes on the dry run's answer as it is. One UNKNOWN in it
            # makes all of `metadata` unknown to the SDK: a namespace that gets a label would
            # preview the replacement of everything that is in it.
            decided = ("uid", "creationTimestamp", "resourceVersion", "generation")
            metadata.update(dict.fromkeys(decided, UNKNOWN))
        if not pluck(inputs, "metadata", "name") and not updated:
            metadata["name"] = UNKNOWN
        base["metadata"] = metadata
    base["status"] = UNKNOWN
    spec = base.get("spec")
    to_be_given = base.get("kind") == "Service" and not pluck(inputs, "spec", "clusterIP")
    if to_be_given and not updated and isinstance(spec, Mapping):
        base["spec"] = {**spec, "clusterIP": UNKNOWN, "clusterIPs": UNKNOWN}
    return base


def _live_inputs(live: Json, inputs: Properties, before: Properties) -> Properties:
    """The inputs as the cluster has them now: the shape of the old inputs, the values of live.

    Without old inputs (an import), everything but what the server itself writes.
    """
    kind = str(live.get("kind", ""))
    if not inputs:
        found = {k: v for k, v in live.items() if k != "status"}
        found["metadata"] = {k: v for k, v in live["metadata"].items() if k not in SERVER_METADATA}
        return found
    pruned: Properties = prune(live, normalized(kind, inputs), before=before)
    plain = inputs.get("stringData")
    if kind == "Secret" and isinstance(plain, Mapping):
        _restore_string_data(pruned, inputs, plain)
    return pruned


def _restore_string_data(pruned: Properties, inputs: Properties, plain: Mapping[str, Any]) -> None:
    """Back from `data` (base64) to the field in which the program gave the values."""
    same = prune(pruned.get("data", {}), normalized("Secret", inputs)["data"])
    wanted = normalized("Secret", {"stringData": dict(plain)})["data"]
    data = dict(same)
    restored: dict[str, Any] = {}
    for key, encoded in wanted.items():
        if key in data:
            value = data.pop(key)
            # A changed value that is no text any more is shown in base64: it is different anyway.
            restored[key] = plain[key] if value == encoded else _decoded(value)
    pruned["stringData"] = restored
    pruned.pop("data", None)
    if inputs.get("data"):
        pruned["data"] = data


def _decoded(value: Any) -> Any:
    try:
        return base64.b64decode(str(value)).decode()
    except (binascii.Error, UnicodeDecodeError):
        return value


def _warner(ctx: Context) -> Callable[[str], None]:
    return lambda text: ctx.progress(f"warning: {text}")


def _lost(error: UnreachableError) -> ProviderError:
    return ProviderError(f"the API server stopped answering: {error}", lost=True)


def _refused(what: str, inputs: Mapping[str, Any], error: ApiError) -> ProviderError:
    """The API server's refusal, with the mend where there is one."""
    kind = inputs.get("kind")
    name = "/".join(filter(None, (pluck(inputs, "metadata", k) for k in ("namespace", "name"))))
    detail = _without_secrets(str(error), inputs)
    match error.reason:
        case "AlreadyExists":
            mend = (
                " It is not in this stack's state. If it should become this stack's (after a "
                "restored snapshot, say), run once with PULUMI_K8S_UPSERT_EXISTING_OBJECTS=true or "
                "the provider's upsert_existing_objects=True; if the resource was renamed in the "
                "program, give it an alias; else delete the object."
            )
        case "Conflict" if "Apply failed" in detail:
            mend = (
                " Somebody else manages these fields. Undo that change with the tool that made it; "
                "or take the fields over: annotate the resource with pulumi.com/patchForce: "
                '"true", or set PULUMI_K8S_ENABLE_PATCH_FORCE=true for one run.'
            )
        case "NotFound" if what == "was not updated":
            mend = " It is gone from the cluster: run `refresh`, then `up` makes it again."
        case _:
            mend = ""
    return ProviderError(f"{kind} {name} {what}: {detail}{mend and '.' + mend}")


def _without_secrets(text: str, inputs: Mapping[str, Any]) -> str:
    if inputs.get("kind") != "Secret":
        return text
    for field in ("data", "stringData"):
        for value in (pluck(inputs, field, default={}) or {}).values():
            if isinstance(value, str) and value:
                text = text.replace(value, "[secret]")
    return text
