"""An Image's inputs in buildx's own words: the flags of `buildx build`.

Defaults are not filled in: the SDK's classes do that (`CacheToRegistryArgs(mode="min", …)`).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rehearsal.engine.provider import Properties

_COMPRESSION: Final = frozenset({"compression", "compressionLevel", "forceCompression"})
_LISTED: Final = frozenset({"names", "annotations"})


def flags(inputs: Properties, *, preview: bool) -> list[str]:
    """buildx's command line. A preview pushes no image; caches it does export, as the plugin."""
    context, dockerfile = inputs["context"], inputs.get("dockerfile") or {}
    told: list[str] = []
    for flag, values in (
        ("--add-host", inputs.get("addHosts")),
        ("--build-arg", _pairs(inputs.get("buildArgs"))),
        ("--build-context", _pairs(places(context.get("named")))),
        ("--cache-from", _entries(inputs.get("cacheFrom"))),
        ("--cache-to", _entries(inputs.get("cacheTo"))),
        ("--label", _pairs(inputs.get("labels"))),
        ("--output", _outputs(inputs, preview=preview)),
        ("--platform", inputs.get("platforms")),
        ("--tag", inputs.get("tags")),
    ):
        for value in values or ():
            told += [flag, value]
    for flag, given in (("--no-cache", inputs.get("noCache")), ("--pull", inputs.get("pull"))):
        told += [flag] * bool(given)
    if inputs.get("network"):
        told += ["--network", inputs["network"]]
    if inputs.get("target"):
        told += ["--target", inputs["target"]]
    file = "-" if dockerfile.get("inline") else dockerfile.get("location")
    if file:
        told += ["--file", file]
    return [*told, context["location"]]


def _outputs(inputs: Properties, *, preview: bool) -> Iterator[str]:
    exports = [*(inputs.get("exports") or ())]
    exports += [{"raw": "type=registry"}] * bool(inputs.get("push"))
    exports += [{"raw": "type=docker"}] * bool(inputs.get("load"))
    for words in filter(None, map(words_of, exports)):
        if preview and words["type"] == "image":
            words["push"] = "false"
        yield _join(words)


def _entries(caches: Sequence[Properties] | None) -> Iterator[str]:
    return map(_join, filter(None, map(words_of, caches or ())))


def words_of(entry: Properties) -> dict[str, str]:
    """An export or a cache in buildx's words; none when it is disabled or says no type.

    `registry`, as an export, is an `image` that is pushed.
    """
    if entry.get("disabled"):
        return {}
    for kind, value in entry.items():
        if kind == "disabled" or value is None:
            continue
        words = parse(value) if kind == "raw" else {"type": kind} | dict(_words(value))
        if words.get("type") == "registry" and "ref" not in words:
            words = {"push": "true"} | words | {"type": "image"}
        return {"type": words.pop("type")} | words if "type" in words else {}
    return {}


def _words(value: Properties) -> Iterator[tuple[str, str]]:
    for name, given in sorted(value.items()):  # they come in any order
        # The plugin leaves the compression out unless a level is chosen.
        if given is None or (name in _COMPRESSION and not value.get("compressionLevel")):
            continue
        if name not in _LISTED:
            yield _word(name), str(given).lower() if isinstance(given, bool) else str(given)
    if value.get("names"):
        yield "name", ",".join(value["names"])
    for name, text in sorted((value.get("annotations") or {}).items()):
        yield f"annotation.{name}", text


def _word(name: str) -> str:
    """`pushByDigest` → `push-by-digest`."""
    if name == "ociMediaTypes":
        return "oci-mediatypes"
    return re.sub("[A-Z]", lambda capital: "-" + capital[0].lower(), name)


def parse(raw: str) -> dict[str, str]:
    """`type=registry,"name=a,b"` → {"type": "registry", "name": "a,b"}."""
    fields = next(csv.reader([raw]), [])
    pairs = (field.partition("=") for field in fields)
    return {name.strip().lower(): value for name, found, value in pairs if found}


def _join(words: Mapping[str, str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(f"{k}={v}" for k, v in words.items())
    return line.getvalue()


def pushes(export: Properties) -> bool:
    words = words_of(export)
    return words.get("type") == "image" and words.get("push") == "true"


def _pairs(values: Mapping[str, str] | None) -> Iterator[str]:
    return (f"{name}={value}" for name, value in sorted((values or {}).items()))


def places(named: Mapping[str, Any] | None) -> dict[str, str]:
    return {
        name: place["location"]
        for name, place in (named or {}).items()
        if isinstance(place, Mapping) and isinstance(place.get("location"), str)
    }
