"""From what the operator wrote to checked values, collecting every problem on the way.

pydantic checks each field; the walk through the sections is done here, so that one wrong field
hides neither its neighbours nor the rules between fields. Paths are those of the stack file:
`("operator", "apiCidrs", 0)`; those of the env file begin with `environment`.
"""

from __future__ import annotations

import difflib
import json
import re
import types
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from honeydue import application, env_file, rules
from honeydue.problems import Looks, Path, Problem, Wrong

_ENVIRONMENT: Final = {key.name: key for key in application.ENVIRONMENT}
_SECRETS: Final = {key.name: key for key in application.SECRETS}
_ELSEWHERE: Final = ("stack", "environment", "secrets")  # fields of Settings with readers below
_UNQUOTED: Final = "must be text; YAML reads it as {}, so write it in quotes"


class NotRead(Exception):  # noqa: N818 - a signal for the caller, not an error of the operator's
    """A rule asked for a value that was refused or is missing."""


class Draft:
    """Settings as far as they could be read, under the names of the models' fields."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self._parts = parts

    def __getattr__(self, name: str) -> Any:
        if name not in self._parts:
            raise NotRead(name)
        value = self._parts[name]
        if name in _ELSEWHERE:
            return value
        if isinstance(value, dict):
            return Draft(value)
        if isinstance(value, list):
            return tuple(Draft(part) for part in value)
        return value


class Reading:
    """One stack's configuration and env file on their way into Settings."""

    def __init__(self, stack: str, env_name: str) -> None:
        self.stack = stack
        self.stack_file = f"Pulumi.{stack}.yaml"
        self.env_name = env_name
        self.problems: list[Problem] = []
        self._looks: dict[Path, str] = {}
        self._secret: set[Path] = set()

    # Telling

    def refuse(self, path: Path, wrong: Wrong) -> None:
        """Notes a problem, with the mending line that fits the place of the value."""
        if path[0] == "environment":
            key = str(path[1])
            known = _ENVIRONMENT.get(key)
            to = wrong.to or (known.like or known.example if known else "<value>")
            mend = wrong.mend or f"{self.env_name}: {key}={to}"
            self._note(f"{self.env_name}: {key}", wrong.why, mend)
            return
        self._note(f"honeydue:{_dotted(path)}", wrong.why, wrong.mend or self._set(path, wrong.to))

    def _note(self, key: str, wrong: str, mend: str) -> None:
        self.problems.append(Problem(key, wrong, mend))

    def _set(self, path: Path, to: str | None) -> str:
        """The command that sets one value; a secret's value never stands on the command line."""
        key = f"honeydue:{_dotted(path)}"
        key = f"'{key}'" if "[" in key else key
        command = f"pulumi config set -s {self.stack}"
        if path[0] == "secrets" and len(path) == 2:
            known = _SECRETS.get(str(path[1]))
            before = f"{known.pipe} | " if known and known.pipe else ""
            after = f" < {known.file}" if known and known.file else ""
            return f"{before}{command} --secret --path {key}{after}"
        flags = " --path" if len(path) > 1 else ""
        if path in self._secret:
            return f"{command} --secret{flags} {key}"
        return f"{command}{flags} {key} {to or self._looks.get(path, '<value>')}"

    def _unknown(self, path: Path, candidates: Iterable[str]) -> None:
        """An unknown key of the stack file. Its name is printed only if it looks like a name."""
        key, parent = str(path[-1]), path[:-1]
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.:-]{0,63}", key):
            where = f"honeydue:{_dotted(parent)}" if parent else self.stack_file
            self._note(
                where,
                "holds a key that is no name, and is not shown here",
                f"{self.stack_file}: take it out",
            )
        elif close := _closest(key, candidates):
            mend = f"{self.stack_file}: write {close} instead of {key}"
            self._note(f"honeydue:{_dotted(path)}", f"is unknown; did you mean {close}?", mend)
        else:
            flag = "--path " if parent else ""
            mend = f"pulumi config rm -s {self.stack} {flag}honeydue:{_dotted(path)}"
            self._note(f"honeydue:{_dotted(path)}", "is unknown", mend)

    # The stack's configuration

    def configuration(self, config: Mapping[str, object], model: type[BaseModel]) -> dict[str, Any]:
        """The valid parts of every section, under the names of the model's fields."""
        ours = {}
        for key, value in config.items():
            if key.startswith("pulumi:"):
                continue  # the engine's own, such as pulumi:disable-default-providers
            if ":" in key:
                wrong = "configures a default provider, and this program has none"
                self._note(key, wrong, f"pulumi config rm -s {self.stack} {key}")
            elif key != "secrets":
                ours[key] = value
        return self._section(model, ours, ())

    def _section(self, model: type[BaseModel], raw: object, path: Path) -> dict[str, Any]:
        if not isinstance(raw, Mapping):
            needed = [to_camel(n) for n, field in model.model_fields.items() if field.is_required()]
            start = _dotted(path).rpartition(".")[2]
            like = ", ".join(f"{name}: …" for name in needed)
            mend = f"{self.stack_file}: {start}: {{{like}}}"
            self.refuse(path, Wrong(f"must be an object with {', '.join(needed)}", mend=mend))
            return {}
        skipped = () if path else _ELSEWHERE
        fields = {to_camel(name): name for name in model.model_fields if name not in skipped}
        known = [*fields] if path else [*fields, "secrets", "envFile"]
        for key in raw:
            if key not in fields:
                self._unknown((*path, str(key)), known)
        parts: dict[str, Any] = {}
        for alias, name in fields.items():
            try:
                parts[name] = self._field(model, name, raw.get(alias), (*path, alias), alias in raw)
            except NotRead:
                continue
        return parts

    def _field(
        self, model: type[BaseModel], name: str, raw: object, path: Path, given: bool
    ) -> Any:
        """The checked value, a dict for a section, a list of dicts for several; or NotRead."""
        field = model.model_fields[name]
        kind = _kind(field)
        section = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        if section and len(path) == 1:
            raw = self._from_json(raw)
        if raw is None and section and field.is_required():
            raw = {}  # so that each of its required keys is listed
        if raw is None and not field.is_required():
            return field.get_default(call_default_factory=True)
        if section:
            return self._section(section, raw, path)
        if kind is tuple and (items := _model_of_items(field)):
            if not isinstance(raw, list) or not raw:
                mend = f"{self.stack_file}: {path[-1]}: [{{name: honeydue-1}}, …]"
                self.refuse(path, Wrong("must be a list with at least one entry", mend=mend))
                raise NotRead
            return [self._section(items, part, (*path, i)) for i, part in enumerate(raw)]
        self._learn(field, path)
        if raw is None:
            mend = self._set((*path, 0) if kind is tuple else path, self._looks.get(path))
            self.refuse(path, Wrong("is null" if given else "is missing", mend=mend))
            raise NotRead
        try:
            return _adapter(model, name).validate_python(raw)
        except ValidationError as error:
            for detail in error.errors(include_input=False, include_url=False):
                where = (*path, *(part for part in detail["loc"] if isinstance(part, int)))
                self._learn(field, where)
                self._translate(where, detail, raw)
        raise NotRead

    def _from_json(self, raw: object) -> object:
        """Pulumi hands objects over as JSON text, and a key with nothing behind it as no text."""
        if not isinstance(raw, str):
            return raw
        if not raw:
            return None
        try:
            return json.loads(raw)
        except ValueError:
            return raw  # _section says that it must be an object

    def _learn(self, field: FieldInfo, path: Path) -> None:
        if looks := _looks(field):
            self._looks[path] = looks
        if SecretStr in _types(field.annotation):
            self._secret.add(path)

    def _translate(self, path: Path, detail: Any, raw: object) -> None:
        """pydantic's word for what is wrong, in ours."""
        if isinstance(path[-1], int) and isinstance(raw, list):
            raw = raw[path[-1]]
        context = detail.get("ctx", {})
        wrong = context.get("error")
        if isinstance(wrong, Wrong):
            self.refuse(path, wrong)
            return
        match detail["type"]:
            case "string_type" if isinstance(raw, bool | int | float):
                reads = "true or false" if isinstance(raw, bool) else "a number"
                looks = self._looks.get(path, "<value>").strip('"')
                mend = f'{self.stack_file}: {path[-1]}: "{looks}"'
                self.refuse(path, Wrong(_UNQUOTED.format(reads), mend=mend))
                return
            case "string_type":
                why = "must be text"
            case "int_type":
                why = "must be a whole number, without quotes"
            case "greater_than_equal":
                why = f"must be at least {context['ge']}"
            case "less_than_equal":
                why = f"must be at most {context['le']}"
            case "tuple_type":
                why, list_like = "must be a list", self._looks.get(path, "<value>")
                mend = f"{self.stack_file}: {path[-1]}: [{list_like}]"
                self.refuse(path, Wrong(why, mend=mend))
                return
            case "too_short" if raw:
                return  # its entries are wrong, which is told already
            case "too_short":
                why = "is empty; the program itself must reach the API server"
                mend = self._set((*path, 0), self._looks.get(path))
                self.refuse(path, Wrong(why, mend=mend))
                return
            case other:
                why = f"is not valid ({other})"
        self.refuse(path, Wrong(why))

    # Secrets and the env file

    def find_clear_secrets(self, config: Mapping[str, object], encrypted: Collection[str]) -> None:
        """Secrets that stand unencrypted in the stack file, where git keeps them for ever."""
        told = {problem.key for problem in self.problems}
        for path in sorted(self._secret, key=str):
            value: object = self._from_json(config.get(str(path[0])))
            for part in path[1:]:
                value = value.get(part) if isinstance(value, Mapping) else None
            key = f"honeydue:{_dotted(path)}"
            if value is not None and str(path[0]) not in encrypted and key not in told:
                why = f"is not encrypted in {self.stack_file}; if it was ever committed, revoke it"
                self.refuse(path, Wrong(why))
        if config.get("secrets") is not None and "secrets" not in encrypted:
            why = f"are not encrypted in {self.stack_file}; if ever committed, change them"
            mend = f"pulumi config set -s {self.stack} --secret --path honeydue:secrets.<KEY>"
            self._note("honeydue:secrets", why, mend)

    def secrets(self, raw: object) -> dict[str, SecretStr | None] | None:
        """The application's secrets, None when they are no object.

        A key maps to None when its value was refused.
        """
        given = self._from_json(raw)
        if given is None:
            given = {}
        if not isinstance(given, Mapping):
            mend = f"pulumi config set -s {self.stack} --secret --path honeydue:secrets.SECRET_KEY"
            self.refuse(("secrets",), Wrong("must be an object of KEY: value", mend=mend))
            return None
        found: dict[str, SecretStr | None] = {}
        for key, value in given.items():
            path: Path = ("secrets", key)
            rm = f"pulumi config rm -s {self.stack} --path honeydue:secrets.{key}"
            if key in application.MADE_ELSEWHERE:
                self.refuse(path, Wrong(application.MADE_ELSEWHERE[key], mend=rm))
            elif key in _ENVIRONMENT:
                self.refuse(path, Wrong(f"is no secret; it belongs in {self.env_name}", mend=rm))
            elif key not in _SECRETS:
                self._unknown(path, _SECRETS)
            else:
                found[key] = None
                if isinstance(value, str):
                    if self._holds(path, _SECRETS[key].rule, value):
                        found[key] = SecretStr(value)
                else:
                    why = "is null" if value is None else _UNQUOTED.format("a number")
                    self.refuse(path, Wrong(why))
        for known in application.SECRETS:
            if known.required and known.name not in found:
                self.refuse(("secrets", known.name), Wrong("is missing"))
        return found

    def environment(self, content: str | bytes | None) -> dict[str, str | None] | None:
        """The env file's values, None when there is nothing to be read.

        A key maps to None when its value was refused.
        """
        if content is None:
            own = [key.name for key in application.ENVIRONMENT if key.like and key.required]
            wrong = f"does not exist; what only you know: {', '.join(own)}"
            self._note(self.env_name, wrong, f"cp deploy/prod.env.example {self.env_name}")
            return None
        raw = content.encode() if isinstance(content, str) else content
        values, problems = env_file.read(raw, self.env_name)
        self.problems += problems
        if values is None:
            return None
        for key, value in list(values.items()):
            path: Path = ("environment", key)
            gone = f"{self.env_name}: take {key} out"
            if key in application.MADE_ELSEWHERE:
                self.refuse(path, Wrong(application.MADE_ELSEWHERE[key], mend=gone))
            elif key in _SECRETS:
                why = "is a secret; everything in this file can be read in the cluster"
                self.refuse(path, Wrong(why, mend=f"{gone}; {self._set(('secrets', key), None)}"))
            elif key not in _ENVIRONMENT:
                close = _closest(key, _ENVIRONMENT)
                why = f"is unknown; did you mean {close}?" if close else "is unknown"
                mend = f"{self.env_name}: write {close} instead of {key}" if close else gone
                self.refuse(path, Wrong(why, mend=mend))
            elif value is not None and not self._holds(path, _ENVIRONMENT[key].rule, value):
                values[key] = None
        for known in application.ENVIRONMENT:
            if known.required and known.name not in values:
                self.refuse(("environment", known.name), Wrong("is missing"))
        size = sum(len(key) + len((value or "").encode()) for key, value in values.items())
        if size > rules.LONGEST_FILE:
            why = f"holds {size} bytes; more than {rules.LONGEST_FILE} are no configuration"
            self._note(self.env_name, why, f"{self.env_name}: take out what is not a setting")
        return values

    def _holds(self, path: Path, rule: rules.Rule, value: str) -> bool:
        try:
            rule(value)
        except Wrong as wrong:
            self.refuse(path, wrong)
            return False
        return True


def _dotted(path: Path) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _closest(key: str, candidates: Iterable[str]) -> str | None:
    """`hcloud_token` and `HcloudTokn` are both close to `hcloudToken`."""
    plain = {re.sub("[_-]", "", name).lower(): name for name in candidates}
    close = difflib.get_close_matches(re.sub("[_-]", "", key).lower(), plain, n=1, cutoff=0.7)
    return plain[close[0]] if close else None


def _types(annotation: Any) -> list[Any]:
    """The alternatives of a union, without None and without Annotated's wrapping."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [t for part in get_args(annotation) for t in _types(part) if t is not type(None)]
    if hasattr(annotation, "__metadata__"):
        return _types(annotation.__origin__)
    return [get_origin(annotation) or annotation]


@cache
def _adapter(model: type[BaseModel], name: str) -> TypeAdapter[Any]:
    return TypeAdapter(model.model_fields[name].rebuild_annotation())


def _kind(field: FieldInfo) -> Any:
    return _types(field.annotation)[0]


def _model_of_items(field: FieldInfo) -> type[BaseModel] | None:
    item = get_args(field.annotation)[0]
    return item if isinstance(item, type) and issubclass(item, BaseModel) else None


def _looks(field: FieldInfo) -> str | None:
    """What `Annotated` says about the field's type or its items'; else the field's default."""
    found = [*field.metadata]
    for part in (field.annotation, *get_args(field.annotation)):
        found += getattr(part, "__metadata__", ())
    default = None if field.is_required() or field.default is None else str(field.default)
    return next((item.like for item in found if isinstance(item, Looks)), default)
