"""The rehearsal's `docker-build` provider: `docker-build:index:Image` of pulumi-docker-build 0.0.

The plugin embeds buildx; here the `buildx` program does the work (`rehearsal.providers.buildx`),
with the credentials of `registries` in its environment only.

As the plugin, and not as one would guess:
- Every change is an update, never a replacement, and the id stays the first digest. A password in
  `registries` is no change. What is in the context is compared by its hash, its place as a text.
- Deleting it deletes the digest from the registry and says nothing when that fails, so a program
  wants `retain_on_delete`. A refresh drops it from the state when the registry does not have the
  digest (404); one that refuses or does not answer leaves it as it is (since 0.0.22; before, that
  dropped it too).
- Every change of the provider's own configuration replaces it, and with it all its images. `host`
  follows DOCKER_HOST, so a program wants `ignore_changes`.
- A preview with `build_on_preview` false builds nothing. Of a new image all outputs are unknown
  then. Of an existing one they are unknown if an input changed; if only files did, `digest` is the
  *known* empty text: a program that makes a reference of it must not take it for a digest.

Where ours differs, on purpose:
- The operator's own Docker logins are not used: what a rehearsal opens stands in the program.
- A registry on loopback is read by plain http; the plugin's registry client would try https.
- `push` or `load` beside `exports` is refused. The plugin does so too until it has met a BuildKit
  that can do both, which is after its first build.
- Rare ways to export and to cache, and `ssh`, are refused; `raw` takes whatever buildx takes.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from rehearsal.engine.provider import (
    UNKNOWN,
    CheckFailure,
    Context,
    Diff,
    Properties,
    ProviderError,
    Unknown,
)
from rehearsal.providers import build_flags, buildx, schema
from rehearsal.providers.build_context import ContextError, context_hash, dockerfile_problem
from rehearsal.providers.buildx import Build, Login
from rehearsal.providers.compare import changed_paths
from rehearsal.registry.distribution import Reference, Registry, RegistryError

PROVIDER: Final = "pulumi:providers:docker-build"
IMAGE: Final = "docker-build:index:Image"
COMPUTED: Final = ("digest", "contextHash", "ref")

_EXPORTS: Final = frozenset({"registry", "image", "cacheonly", "raw"})
_CACHES: Final = frozenset({"registry", "local", "inline", "raw"})


class DockerBuildProvider:
    """One configured provider. Raises ProviderError when the configuration cannot be."""

    def __init__(self, inputs: Properties) -> None:
        # The SDK sends a provider's lists as JSON.
        given = dict(inputs)
        if isinstance(given.get("registries"), str):
            with suppress(ValueError):
                given["registries"] = json.loads(given["registries"])
        if failures := schema.check(PROVIDER, given):
            told = "; ".join(f"{failure.property}: {failure.reason}" for failure in failures)
            raise ProviderError(f"the docker-build provider's configuration is wrong: {told}")
        host = given.get("host") or os.environ.get("DOCKER_HOST") or ""
        self._host = "" if isinstance(host, Unknown) else host
        self._logins = _logins(given.get("registries"))

    def check(
        self, type_: str, olds: Properties | None, news: Properties
    ) -> tuple[Properties, list[CheckFailure]]:
        del olds
        _require(type_)
        inputs = {name: value for name, value in news.items() if value is not None}
        failures = schema.check(type_, inputs)
        if failures:
            return inputs, failures
        inputs = _with_defaults(inputs)
        return inputs, [
            *_check_sources(inputs),
            *_check_destinations(inputs),
            *(
                [CheckFailure("ssh", "is not rehearsed; hand the build a secret instead")]
                if inputs.get("ssh")
                else []
            ),
        ]

    def diff(
        self,
        type_: str,
        id: str,
        old_inputs: Properties,
        old_outputs: Properties,
        new_inputs: Properties,
    ) -> Diff:
        del id
        if type_ == PROVIDER:  # pulumi-go-provider, infer/configuration.go: diffConfig
            changes = changed_paths(old_inputs, new_inputs)
            return Diff(changes, changes)
        _require(type_)
        olds, news = old_inputs | old_outputs, dict(new_inputs)
        for name in _list(news.get("ignoreSecretsInDiffCalculation")):
            if name in _map(olds.get("secrets")) and name in _map(news.get("secrets")):
                olds["secrets"] = _without(olds["secrets"], name)
                news["secrets"] = _without(news["secrets"], name)
        changed = [
            path
            for name in schema.properties(IMAGE)
            if name not in {"registries", "exec", "ignoreSecretsInDiffCalculation"}
            for path in changed_paths(olds.get(name), news.get(name), name)
        ]
        changed += _changed_registries(olds.get("registries"), news.get("registries"))
        pulled = news.get("pull") and (news.get("exports") or news.get("push") or news.get("load"))
        if pulled or _hash(news) != olds.get("contextHash"):
            changed.append("contextHash")
        return Diff(tuple(changed))

    def create(self, type_: str, inputs: Properties, ctx: Context) -> tuple[str, Properties]:
        _require(type_)
        outputs = self._build(inputs, ctx)
        if ctx.dry_run:
            return "", outputs | dict.fromkeys(COMPUTED, UNKNOWN)
        return outputs["digest"] or ctx.urn.rpartition("::")[2], outputs

    def find(self, type_: str, inputs: Properties, ctx: Context) -> None:
        """A build that was cut off runs again: what it had done is in the cache, and what it had
        pushed has the same digest."""

    def read(
        self, type_: str, id: str, inputs: Properties, outputs: Properties, ctx: Context
    ) -> tuple[Properties, Properties] | None:
        del id
        _require(type_)
        if not _is_exported(outputs):
            return inputs, outputs
        kept = []
        for tag in outputs.get("tags") or ():
            try:
                image = Reference.parse(tag)
            except ValueError:
                kept.append(tag)  # was never pushed
                break
            try:
                with self._registry(image, inputs) as registry:
                    registry.manifest(outputs["digest"])
            except RegistryError as error:
                ctx.progress(f"{tag}: {error}")
                if not error.missing:
                    return inputs, outputs
            else:
                kept.append(tag)
        if inputs.get("tags") and not kept:
            return None
        return inputs, outputs | {"tags": kept}

    def update(  # noqa: PLR0917 - the engine's protocol
        self,
        type_: str,
        id: str,
        old_inputs: Properties,
        old_outputs: Properties,
        new_inputs: Properties,
        ctx: Context,
    ) -> Properties:
        del id
        _require(type_)
        outputs = self._build(new_inputs, ctx)
        olds = old_inputs | old_outputs
        # An input that was not there before does not count, in the plugin's framework.
        if ctx.dry_run and any(
            changed_paths(olds[name], new_inputs.get(name)) if name in olds else _unknown(value)
            for name, value in (dict.fromkeys(schema.properties(IMAGE)) | new_inputs).items()
        ):
            return outputs | dict.fromkeys(COMPUTED, UNKNOWN)
        return outputs

    def delete(
        self, type_: str, id: str, inputs: Properties, outputs: Properties, ctx: Context
    ) -> None:
        del id
        _require(type_)
        if ctx.dry_run or not outputs.get("digest"):
            return
        for tag in outputs.get("tags") or ():
            # Many registries cannot delete, and this one's answer changes nothing.
            with (
                suppress(ValueError, RegistryError),
                self._registry(Reference.parse(tag), inputs) as registry,
            ):
                registry.delete_manifest(outputs["digest"])

    def invoke(self, token: str, args: Mapping[str, Any]) -> Properties:
        del args
        raise ProviderError(f"the package docker-build has no function {token!r}")

    # --- building ----------------------------------------------------------------------------

    def _build(self, inputs: Properties, ctx: Context) -> Properties:
        """Builds, unless this is a preview that is not to, and returns all outputs."""
        hash_ = _hash(inputs)
        tags = [tag for tag in _list(inputs.get("tags")) if isinstance(tag, str) and tag]
        outputs = inputs | {"digest": "", "contextHash": hash_, "ref": tags[0] if tags else ""}
        if ctx.dry_run:
            if inputs.get("buildOnPreview") is False:
                return outputs
            if _unknown(inputs):
                ctx.progress("not built in this preview: some inputs are unknown")
                return outputs
        digest = buildx.run(self._request(inputs, preview=ctx.dry_run), ctx)
        if digest:
            outputs |= {"digest": digest, "ref": _pinned(tags, digest) or outputs["ref"]}
        return outputs

    def _request(self, inputs: Properties, *, preview: bool) -> Build:
        dockerfile = inputs.get("dockerfile") or {}
        return Build(
            flags=build_flags.flags(inputs, preview=preview),
            builder=(inputs.get("builder") or {}).get("name") or "",
            target=inputs.get("target") or "",
            dockerfile=dockerfile.get("location") or "",
            inline=dockerfile.get("inline") or "",
            host=self._host,
            logins=(*self._logins, *_logins(inputs.get("registries"))),
            secrets=inputs.get("secrets") or {},
        )

    def _registry(self, image: Reference, inputs: Properties) -> Registry:
        for login in reversed((*self._logins, *_logins(inputs.get("registries")))):
            if login.server == image.server:
                return Registry(image, login.username, login.password)
        return Registry(image)


def _require(type_: str) -> None:
    if type_ != IMAGE:
        raise ProviderError(
            f"the rehearsal's provider 'docker-build' has no type {type_!r}; it has {IMAGE}. "
            "Add it in rehearsal/providers/docker_build.py, or remove the resource."
        )


# --- what the inputs mean ------------------------------------------------------------------------


def _with_defaults(inputs: Properties) -> Properties:
    context = inputs.get("context") or {"location": "."}
    dockerfile = inputs.get("dockerfile") or {}
    location = _map(context).get("location")
    given = isinstance(dockerfile, Unknown) or any(dockerfile.values())
    if not given and isinstance(location, str) and not _is_remote(location):
        dockerfile = {"location": posixpath.normpath(posixpath.join(location, "Dockerfile"))}
    defaults: Properties = {"buildOnPreview": True, "network": "default"}
    return defaults | inputs | {"context": context, "dockerfile": dockerfile}


def _check_sources(inputs: Properties) -> Iterator[CheckFailure]:
    location = _map(inputs["context"]).get("location")
    if not isinstance(location, str):
        return
    if not _is_remote(location) and not Path(location).is_dir():
        yield CheckFailure("context.location", f"{location!r}: not a valid directory or URL")
    dockerfile = _map(inputs["dockerfile"])
    file, inline = dockerfile.get("location"), dockerfile.get("inline")
    if file and inline:
        yield CheckFailure("dockerfile", 'only specify "location" or "inline", not both')
    elif isinstance(file, str) and file and not _is_remote(file):
        try:
            text = Path(file).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            reason = f"open {Path(file).absolute()}: {(error.strerror or '').lower()}"
            yield CheckFailure("dockerfile.location", reason)
        else:
            if problem := dockerfile_problem(text):
                yield CheckFailure("dockerfile.location", problem)
    elif isinstance(inline, str) and inline and (problem := dockerfile_problem(inline)):
        yield CheckFailure("dockerfile.inline", problem)


def _check_destinations(inputs: Properties) -> Iterator[CheckFailure]:
    exports = _list(inputs.get("exports"))
    if exports and (inputs.get("push") or inputs.get("load")):
        yield CheckFailure(
            "exports",
            "give exports, or push and load, not both (the plugin takes both only after it has met "
            "a BuildKit of 0.13 or newer)",
        )
    yield from _check_entries("exports", exports, _EXPORTS)
    yield from _check_entries("cacheFrom", _list(inputs.get("cacheFrom")), _CACHES)
    yield from _check_entries("cacheTo", _list(inputs.get("cacheTo")), _CACHES)
    tags = inputs.get("tags")
    for place, tag in enumerate(_list(tags)):
        if isinstance(tag, str) and not _is_reference(tag):
            yield CheckFailure(f"tags[{place}]", "invalid reference format")
    for place, export in enumerate(exports):
        if (
            not tags
            and not _unknown(export)
            and build_flags.pushes(export)
            and not build_flags.words_of(export).get("name")
        ):
            yield CheckFailure(
                f"exports[{place}]",
                "at least one tag or export name is needed when pushing to a registry",
            )


def _check_entries(
    name: str, entries: Sequence[Any], known: frozenset[str]
) -> Iterator[CheckFailure]:
    for place, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            continue
        kinds = [kind for kind, value in entry.items() if kind != "disabled" and value is not None]
        at = f"{name}[{place}]"
        if len(kinds) > 1:
            yield CheckFailure(at, f"give one of {', '.join(sorted(kinds))}, not several")
        for kind in sorted(set(kinds) - known):
            yield CheckFailure(f"{at}.{kind}", "is not rehearsed; write it as `raw` instead")
        raw = entry.get("raw")
        if isinstance(raw, str) and "type" not in build_flags.parse(raw):
            yield CheckFailure(f"{at}.raw", "needs a type: `type=registry,…`")


def _is_exported(state: Properties) -> bool:
    return bool(state.get("push")) or any(map(build_flags.pushes, state.get("exports") or ()))


def _hash(inputs: Properties) -> str:
    context, dockerfile = _map(inputs.get("context")), _map(inputs.get("dockerfile"))
    places = [place.get("location") for place in (context, dockerfile)]
    folder, file = [place if isinstance(place, str) else "" for place in places]
    try:
        return context_hash(folder, file, build_flags.places(context.get("named")))
    except ContextError as error:
        raise ProviderError(
            f"the build context cannot be read: {error}\n"
            "  mend: make it readable, or leave it out by .dockerignore"
        ) from None


def _changed_registries(olds: Any, news: Any) -> list[str]:
    olds, news = olds or [], news or []
    if isinstance(news, Unknown) or len(olds) != len(news):
        return ["registries"]
    names = ("address", "username")
    for place, (old, new) in enumerate(zip(olds, news, strict=True)):
        if not isinstance(new, Mapping) or any(old.get(n) != new.get(n) for n in names):
            return [f"registries[{place}]"]
    return []


def _logins(registries: Any) -> tuple[Login, ...]:
    """Those that are known and have a password; the others open nothing."""
    found = []
    for given in _list(registries):
        if not isinstance(given, Mapping) or _unknown(given) or not given.get("password"):
            continue
        server = given["address"].partition("://")[2] or given["address"]
        found.append(
            Login(server.partition("/")[0], given.get("username") or "", given["password"])
        )
    return tuple(found)


def _pinned(tags: Sequence[str], digest: str) -> str:
    """The first tag that names its registry, with the digest."""
    for tag in tags:
        with suppress(ValueError):
            image = Reference.parse(tag)
            return f"{image.server}/{image.repository}:{image.tag or 'latest'}@{digest}"
    return ""


def _is_reference(tag: str) -> bool:
    # A short name is fine here, though it is of no use for a push.
    for text in (tag, f"docker.io/{tag}"):
        with suppress(ValueError):
            Reference.parse(text)
            return True
    return False


def _is_remote(location: str) -> bool:
    schemes = ("http://", "https://", "git://", "git@", "ssh://", "github.com/")
    return location == "-" or location.startswith(schemes)


def _unknown(value: Any) -> bool:
    match value:
        case Mapping():
            return any(map(_unknown, value.values()))
        case list():
            return any(map(_unknown, value))
    return value is UNKNOWN


def _list(value: Any) -> list[Any]:
    """Itself, or an empty one where it is not given or not known."""
    return value if isinstance(value, list) else []


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}
