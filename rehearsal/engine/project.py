"""`Pulumi.yaml` and `Pulumi.<stack>.yaml`: the project and the configuration of one stack."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from rehearsal.engine.errors import EngineError
from rehearsal.engine.secrets import Crypter


class _Loader(yaml.SafeLoader):
    """YAML 1.2, as the CLI reads it: `yes` and `2026-01-01` are words, only true/false bools, and a
    key that stands twice is an error (PyYAML would take the last in silence)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in seen:
                    raise EngineError(
                        f"{key.value!r} stands twice, in lines {seen[key.value]} and {line}; "
                        "keep one of them"
                    )
                seen[key.value] = line
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


# A configuration has hundreds of values; one that anchors blow up to more is no configuration.
_MOST_VALUES: Final = 100_000
_MOST_BYTES: Final = 2**20


def _read(path: Path) -> dict[str, Any]:
    try:
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise EngineError(
                f"{path}: it has {size / 2**20:.1f} MB; a configuration has 1 MB at most"
            )
        loader = _Loader(path.read_text())
        node = loader.get_single_node()
        if node is not None and _expanded(node, {}) > _MOST_VALUES:
            raise EngineError(f"{path}: its anchors expand to more than {_MOST_VALUES:,} values")
        loaded = None if node is None else _constructed(path, loader, node)
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EngineError(f"{path}: no valid YAML: {error}") from error
    except RecursionError as error:
        raise EngineError(f"{path}: nested too deep, or an anchor contains itself") from error
    loaded = {} if loaded is None else loaded
    if not isinstance(loaded, dict) or not isinstance(loaded.get("config") or {}, dict):
        raise EngineError(f"{path}: it and its `config:` must be mappings of keys to values")
    return loaded


def _constructed(path: Path, loader: _Loader, node: yaml.Node) -> Any:
    try:
        return loader.construct_document(node)
    except EngineError as error:
        raise EngineError(f"{path}: {error}") from None


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node comes to when its aliases are written out."""
    if id(node) not in known:
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        known[id(node)] = 1 + sum(_expanded(part, known) for part in parts)
    return known[id(node)]


@dataclass(frozen=True)
class Project:
    """`Pulumi.yaml`: the project's name, its folder, and its own `config:` values."""

    name: str
    root: Path
    config: dict[str, Any]  # fully qualified key -> value
    config_file: Path | None = None  # the CLI's --config-file: instead of Pulumi.<stack>.yaml

    @staticmethod
    def load(folder: Path, config_file: Path | None = None) -> Project:
        """Reads `folder`/Pulumi.yaml; `EngineError` when it is missing or no Python project."""
        path = folder / "Pulumi.yaml"
        if not path.exists():
            raise EngineError(f"no Pulumi.yaml in {folder}: run from the repository's root")
        raw = _read(path)
        runtime = raw.get("runtime")
        language = runtime.get("name") if isinstance(runtime, dict) else runtime
        if not raw.get("name") or language != "python":
            raise EngineError(f"{path}: needs `name:` and `runtime: python`")
        config = {}
        for key, value in (raw.get("config") or {}).items():
            if isinstance(value, dict) and (given := {"value", "default"} & value.keys()):
                value = value[given.pop()]  # noqa: PLW2901 - unwrapped in place
            elif isinstance(value, dict) and "type" in value:
                continue  # declared without a default: a stack must set it, the program checks
            config[_qualified(key, raw["name"])] = value
        return Project(raw["name"], folder.resolve(), config, config_file)

    def stack_file(self, stack: str) -> Path:
        return self.config_file or self.root / f"Pulumi.{stack}.yaml"


def _qualified(key: str, project: str) -> str:
    return key if ":" in key else f"{project}:{key}"


@dataclass(frozen=True)
class StackFile:
    """`Pulumi.<stack>.yaml` as it stands, secrets still encrypted."""

    config: dict[str, Any]
    salt: str | None

    @staticmethod
    def load(project: Project, stack: str) -> StackFile:
        path = project.stack_file(stack)
        if not path.exists():
            there = sorted(p.name.split(".")[1] for p in project.root.glob("Pulumi.*.yaml"))
            raise EngineError(
                f"no stack named {stack!r}: {path.name} does not exist in {project.root}. "
                f"Stacks with a file: {', '.join(there) or 'none'}"
            )
        raw = _read(path)
        config = {_qualified(k, project.name): v for k, v in (raw.get("config") or {}).items()}
        return StackFile(config, raw.get("encryptionsalt"))


@dataclass(frozen=True)
class Configuration:
    """What a program sees: every key as a string (objects as JSON), and which keys are secret."""

    values: dict[str, str]
    secret_keys: frozenset[str]
    secrets: tuple[str, ...] = field(repr=False)  # each that was encrypted, in clear

    @staticmethod
    def of(project: Project, file: StackFile, crypter: Crypter) -> Configuration:
        values, secret_keys, secrets = {}, set(), list[str]()
        for key, raw in {**project.config, **file.config}.items():
            known = len(secrets)
            values[key] = _as_string(_decrypted(raw, key, crypter, secrets))
            if len(secrets) > known:
                secret_keys.add(key)
        return Configuration(values, frozenset(secret_keys), tuple(secrets))

    @property
    def masked(self) -> dict[str, str]:
        return {k: "[secret]" if k in self.secret_keys else v for k, v in self.values.items()}

    @property
    def objects(self) -> list[Any]:
        """Every value, secrets in clear, objects as such."""
        return [_as_object(value) for value in self.values.values()]

    def default_provider_disabled(self, package: str) -> bool:
        try:
            disabled = json.loads(self.values.get("pulumi:disable-default-providers", "[]"))
        except ValueError as error:
            raise EngineError(
                'pulumi:disable-default-providers: must be a list of packages, such as ["*"]'
            ) from error
        return "*" in disabled or package in disabled


def _decrypted(value: Any, place: str, crypter: Crypter, found: list[str]) -> Any:
    """A secret may stand for a whole value or deep inside an object: `{secure: v1:…}`. Each is
    added to `found`."""
    match value:
        case {"secure": str(ciphertext)} if len(value) == 1:
            found.append(crypter.decrypt(ciphertext, place))
            return found[-1]
        case dict():
            return {k: _decrypted(v, f"{place}.{k}", crypter, found) for k, v in value.items()}
        case list():
            return [_decrypted(v, f"{place}[{i}]", crypter, found) for i, v in enumerate(value)]
    return value


def _as_object(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _as_string(value: Any) -> str:
    match value:
        case str():
            return value
        case None:
            return ""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
