"""The seam: Pulumi's ResourceMonitor and Engine services, answered in this process.

`pulumi.runtime.settings.Settings(monitor=…, engine=…)` takes any object with the services'
methods, the seam that `pulumi.runtime.mocks` uses. The SDK calls them from its executor's threads
and expects a `grpc.RpcError` for a refusal. Here messages become the engine's values and back, and
nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import (
    alias_pb2,
    callback_pb2,
    callback_pb2_grpc,
    engine_pb2,
    resource_pb2,
)

from rehearsal.engine import events
from rehearsal.engine.errors import EngineError
from rehearsal.engine.provider import ProviderError
from rehearsal.engine.registration import Bail, Goal, Registrar, Skipped
from rehearsal.engine.run import Cancelled, Run, StepFailed
from rehearsal.engine.state import Resource
from rehearsal.engine.steps import (
    PROVIDER_PREFIX,
    STACK_TYPE,
    make_urn,
    package_of,
    parse_timeout,
)
from rehearsal.engine.values import UNKNOWN_SENTINEL, decode, decode_value, encode, has_unknown

# What the SDK may use. What is missing (transforms, remote components' output values, state
# migrations, …) it then refuses by itself, with an error that names the feature.
FEATURES = (
    resource_pb2.RESOURCE_MONITOR_FEATURE_SECRETS,
    resource_pb2.RESOURCE_MONITOR_FEATURE_RESOURCE_REFERENCES,
    resource_pb2.RESOURCE_MONITOR_FEATURE_ALIAS_SPECS,
    resource_pb2.RESOURCE_MONITOR_FEATURE_REPLACEMENT_TRIGGER,
    resource_pb2.RESOURCE_MONITOR_FEATURE_DELETED_WITH,
    resource_pb2.RESOURCE_MONITOR_FEATURE_RESOURCE_HOOKS,
)
HOOK_KINDS = tuple(
    f"{when}-{what}" for when in ("before", "after") for what in ("create", "update", "delete")
)


class Refusal(grpc.RpcError):  # type: ignore[misc]  # grpc has no type information
    """What the SDK turns into an exception of the program; UNAVAILABLE into `RunError`."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self._code, self._message = code, message

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._message


def terminated() -> NoReturn:
    """The program must stop, and why has been said: it was cancelled, or it is wrong."""
    raise Refusal(grpc.StatusCode.UNAVAILABLE, "the engine has ended this run")


class Monitor:
    """`when_done` runs when the program has ended well and is still there: the deletes, whose hooks
    call back into the program."""

    def __init__(self, run: Run, registrar: Registrar, when_done: Callable[[], None]) -> None:
        self._run, self._registrar, self._when_done = run, registrar, when_done
        self._hooks: dict[str, resource_pb2.RegisterResourceHookRequest] = {}
        self._channels: dict[str, grpc.Channel] = {}
        self._lock = threading.Lock()
        run.run_hooks = self._call_hooks

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    # --- service ResourceMonitor ---------------------------------------------------------------

    def GetDeploymentInfo(self, _request: empty_pb2.Empty) -> resource_pb2.DeploymentInfo:  # noqa: N802 - the service's names, here and below
        return resource_pb2.DeploymentInfo(supportedFeatures=FEATURES)

    def RegisterResource(  # noqa: N802
        self, request: resource_pb2.RegisterResourceRequest
    ) -> resource_pb2.RegisterResourceResponse:
        urn = self._urn(request.parent, request.type, request.name)
        respond = resource_pb2.RegisterResourceResponse
        try:
            made = self._registrar.register(self._goal(request, urn))
        except (StepFailed, Skipped):  # the SDK makes the outputs unknown, and the program goes on
            return respond(urn=urn, result=resource_pb2.FAIL)
        except (Cancelled, Bail):
            terminated()
        except EngineError as error:  # from the request itself
            self._run.error(str(error), urn)
            return respond(urn=urn, result=resource_pb2.FAIL)
        # A component's outputs come later, from the program itself; those of the last run are not
        # sent, because they may not fit what the program's classes declare now.
        outputs = made.outputs if made.custom else {}
        return respond(urn=urn, id=made.id, object=encode(outputs))

    def RegisterResourceOutputs(  # noqa: N802
        self, request: resource_pb2.RegisterResourceOutputsRequest
    ) -> empty_pb2.Empty:
        """A component's outputs; of the stack's component, the outputs of the stack."""
        run = self._run
        component = run.journal.new(request.urn)
        if component is not None:
            outputs = decode(request.outputs)
            run.redaction.learn(outputs)
            if not run.dry_run:
                # After a failure some outputs were never known: what they last were still holds.
                old = component.outputs
                outputs = {
                    key: old.get(key) if has_unknown(value) else value
                    for key, value in outputs.items()
                }
            run.journal.amend(component, outputs)
            if component.type == STACK_TYPE:
                run.outputs = outputs
                run.emit(events.StackOutputs(outputs, component.outputs))
        return empty_pb2.Empty()

    def ReadResource(  # noqa: N802
        self, request: resource_pb2.ReadResourceRequest
    ) -> resource_pb2.ReadResourceResponse:
        urn = self._urn(request.parent, request.type, request.name)
        respond = resource_pb2.ReadResourceResponse
        try:
            made = self._registrar.read(
                Resource(
                    urn=urn,
                    type=request.type,
                    custom=True,
                    external=True,
                    id="" if request.id == UNKNOWN_SENTINEL else request.id,
                    inputs=decode(request.properties),
                    parent=request.parent,
                    provider=request.provider,
                    dependencies=tuple(sorted(request.dependencies)),
                    additional_secret_outputs=tuple(request.additionalSecretOutputs),
                )
            )
        except (StepFailed, Skipped):  # the SDK makes the outputs unknown, and the program goes on
            return respond(urn=urn, result=resource_pb2.FAIL)
        except (Cancelled, Bail):
            terminated()
        return respond(urn=urn, id=made.id, properties=encode(made.outputs))

    def Invoke(  # noqa: N802
        self, request: resource_pb2.ResourceInvokeRequest
    ) -> resource_pb2.ResourceInvokeResponse:
        """The SDK itself answers "unknown" for unknown arguments or dependencies; left here is a
        provider that is not there yet."""
        if self._run.cancelled.is_set():
            terminated()
        provider_urn, _, _ = request.provider.rpartition("::")
        if provider_urn in self._run.failed:
            return resource_pb2.ResourceInvokeResponse(unknown=True)
        try:
            if not request.provider:
                raise EngineError(self._registrar.no_provider(package_of(request.tok), request.tok))
            provider = self._run.provider(request.provider)
            answer = provider.invoke(request.tok, decode(request.args))
        except (ProviderError, EngineError) as error:
            raise Refusal(grpc.StatusCode.UNKNOWN, str(error)) from error
        response = resource_pb2.ResourceInvokeResponse()
        getattr(response, "return").CopyFrom(encode(answer))  # `return` is the field's name
        return response

    def RegisterResourceHook(  # noqa: N802
        self, request: resource_pb2.RegisterResourceHookRequest
    ) -> empty_pb2.Empty:
        with self._lock:
            if request.name in self._hooks:
                raise Refusal(
                    grpc.StatusCode.ALREADY_EXISTS,
                    f"resource hook already registered for name {request.name!r}",
                )
            self._hooks[request.name] = request
        return empty_pb2.Empty()

    def SignalAndWaitForShutdown(self, _request: empty_pb2.Empty) -> empty_pb2.Empty:  # noqa: N802
        self._when_done()
        return empty_pb2.Empty()

    # --- service Engine ------------------------------------------------------------------------

    def Log(self, request: engine_pb2.LogRequest) -> empty_pb2.Empty:  # noqa: N802
        match request.severity:
            case engine_pb2.ERROR:
                self._run.errors.append(self._run.redaction.text(request.message))
                self._run.emit(events.Diagnostic(request.urn, "error", request.message))
            case engine_pb2.WARNING:
                self._run.warn(request.message, request.urn)
            case engine_pb2.INFO:
                self._run.emit(events.Diagnostic(request.urn, "info", request.message))
        return empty_pb2.Empty()  # DEBUG is the SDK's own chatter, some hundred lines a resource

    def RequirePulumiVersion(  # noqa: N802
        self, _request: engine_pb2.RequirePulumiVersionRequest
    ) -> engine_pb2.RequirePulumiVersionResponse:
        return engine_pb2.RequirePulumiVersionResponse()

    # --- requests to goals ---------------------------------------------------------------------

    def _urn(self, parent: str, type_: str, name: str) -> str:
        return make_urn(self._run.stack, self._run.project, parent, type_, name)

    def _goal(self, request: resource_pb2.RegisterResourceRequest, urn: str) -> Goal:
        if request.remote:
            raise EngineError(f"{request.type}: the rehearsal's engine has no remote components")
        if request.importId:
            raise EngineError(
                f"import_={request.importId!r}: the rehearsal's engine imports nothing: its "
                "vendors hold only what it made"
            )
        inputs = decode(request.object)
        if request.type.startswith(PROVIDER_PREFIX) and request.version:
            inputs["version"] = request.version  # where the CLI keeps the plugin's version
        hooks = {kind: tuple(getattr(request.hooks, kind.replace("-", "_"))) for kind in HOOK_KINDS}
        if request.hooks.on_error:
            raise EngineError(f"{request.name}: the rehearsal's engine has no error hooks")
        try:
            timeouts = {
                operation: parse_timeout(text)
                for operation in ("create", "update", "delete")
                if (text := getattr(request.customTimeouts, operation))
            }
        except ValueError as error:
            raise EngineError(str(error)) from error
        # What a child leaves open it has from its parent (the engine's inheritFromParent).
        parent = self._run.journal.new(request.parent)
        protect = parent.protect if parent else False
        retain = parent.retain_on_delete if parent else False
        resource = Resource(
            urn=urn,
            type=request.type,
            custom=request.custom,
            inputs=inputs,
            parent=request.parent,
            dependencies=tuple(sorted(request.dependencies)),
            property_dependencies={
                key: tuple(sorted(deps.urns))
                for key, deps in sorted(request.propertyDependencies.items())
            },
            provider=request.provider,
            protect=request.protect if request.HasField("protect") else protect,
            additional_secret_outputs=tuple(request.additionalSecretOutputs),
            custom_timeouts=timeouts,
            retain_on_delete=request.retainOnDelete
            if request.HasField("retainOnDelete")
            else retain,
            deleted_with=request.deletedWith or (parent.deleted_with if parent else ""),
            replacement_trigger=decode_value(request.replacement_trigger)
            if request.HasField("replacement_trigger")
            else None,
            ignore_changes=tuple(request.ignoreChanges),
            replace_on_changes=tuple(request.replaceOnChanges),
            resource_hooks={kind: names for kind, names in hooks.items() if names},
        )
        aliases = tuple(self._alias_urn(alias, request) for alias in request.aliases)
        return Goal(
            resource,
            aliases,
            request.deleteBeforeReplace if request.deleteBeforeReplaceDefined else None,
        )

    def _alias_urn(
        self, alias: alias_pb2.Alias, request: resource_pb2.RegisterResourceRequest
    ) -> str:
        """An alias names what differed; the rest is as it is now."""
        if alias.urn:
            return str(alias.urn)
        spec = alias.spec
        parent = "" if spec.noParent else spec.parentUrn or request.parent
        return make_urn(
            spec.stack or self._run.stack,
            spec.project or self._run.project,
            parent,
            spec.type or request.type,
            spec.name or request.name,
        )

    # --- hooks ---------------------------------------------------------------------------------

    def _call_hooks(
        self, kind: str, names: Sequence[str], old: Resource | None, new: Resource | None
    ) -> None:
        """Calls the program back, at the address that it serves. A before hook that raises stops
        the step (in a preview only with `on_dry_run`); an after hook that raises is a warning,
        because what was done is done."""
        for name in names:
            hook = self._hooks.get(name)
            if hook is None:
                raise EngineError(
                    f"hook {name!r} is in the state, but the program has no such hook"
                )
            if self._run.dry_run and not hook.on_dry_run:
                continue
            message = self._call_hook(hook, kind, old, new)
            if not message:
                continue
            message = f'{kind.split("-", maxsplit=1)[0]} hook "{name}" failed: {message}'
            if kind.startswith("before") and not hook.ignore_errors:
                raise EngineError(message)
            self._run.warn(message, (new or old).urn if new or old else "")  # type: ignore[union-attr]  # one of them is given

    def _call_hook(
        self,
        hook: resource_pb2.RegisterResourceHookRequest,
        kind: str,
        old: Resource | None,
        new: Resource | None,
    ) -> str:
        subject: Any = new or old
        request = resource_pb2.ResourceHookRequest(
            urn=subject.urn, id=subject.id, name=subject.name, type=subject.type
        )
        if new is not None:
            request.new_inputs.CopyFrom(encode(new.inputs))
            if kind.startswith("after"):
                request.new_outputs.CopyFrom(encode(new.outputs))
        if old is not None:
            request.old_inputs.CopyFrom(encode(old.inputs))
            request.old_outputs.CopyFrom(encode(old.outputs))
        with self._lock:
            target = hook.callback.target
            if target not in self._channels:
                self._channels[target] = grpc.insecure_channel(target)
            stub = callback_pb2_grpc.CallbacksStub(self._channels[target])
        try:
            answer = stub.Invoke(
                callback_pb2.CallbackInvokeRequest(
                    token=hook.callback.token, request=request.SerializeToString()
                )
            )
        except grpc.RpcError as error:
            return str(error.details())
        return str(resource_pb2.ResourceHookResponse.FromString(answer.response).error)
