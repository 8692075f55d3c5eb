"""The state of a stack: the CLI's checkpoint (version 3) in its DIY backend's folders.

    .pulumi/meta.yaml                                            version: 1
    .pulumi/stacks/<project>/<stack>.json (+ .bak)               the checkpoint, the save before it
    .pulumi/stacks/<project>/<stack>.json.wal                    while a run is at work: see `wal`
    .pulumi/locks/organization/<project>/<stack>/<uuid>.json     who is at work
    .pulumi/history/<project>/<stack>/<stack>-<ns>.history.json  one per run, with .checkpoint.json
        and .steps.json, which is ours
    .pulumi/backups/<project>/<stack>/<stack>.<ns>.json          the checkpoint after each run

So `pulumi login file://…` opens what this engine wrote, and this engine what the CLI wrote.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from rehearsal.engine import values, wal
from rehearsal.engine.errors import EngineError
from rehearsal.engine.provider import UNKNOWN, Properties, Unknown
from rehearsal.engine.secrets import Crypter
from rehearsal.engine.values import Secret

# The format is that of this CLI; the build metadata says honestly who wrote the file.
VERSION: Final = "v3.259.0+rehearsal"


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True)
class Resource:
    """One entry of the checkpoint (`apitype.ResourceV3`).

    `delete`: the old half of a create-first replacement, still to be deleted.
    `pending_replacement`: the old half of a delete-first one, deleted already, its successor still
    to be made.
    """

    urn: str
    type: str
    custom: bool
    id: str = ""
    inputs: Properties = field(default_factory=dict)
    outputs: Properties = field(default_factory=dict)
    parent: str = ""
    dependencies: tuple[str, ...] = ()
    property_dependencies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    provider: str = ""
    protect: bool = False
    external: bool = False
    delete: bool = False
    pending_replacement: bool = False
    init_errors: tuple[str, ...] = ()
    additional_secret_outputs: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    custom_timeouts: Mapping[str, float] = field(default_factory=dict)  # seconds
    retain_on_delete: bool = False
    deleted_with: str = ""
    replacement_trigger: Any = None
    ignore_changes: tuple[str, ...] = ()
    replace_on_changes: tuple[str, ...] = ()
    resource_hooks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    created: str = ""
    modified: str = ""
    other: Mapping[str, Any] = field(default_factory=dict)  # what only the CLI knows; kept

    @property
    def name(self) -> str:
        return self.urn.split("::", 3)[3]

    @property
    def provider_urn(self) -> str:
        return self.provider.rpartition("::")[0]

    @cached_property
    def references(self) -> frozenset[str]:
        """URNs that must be made before this one and outlive it."""
        by_property = (urn for urns in self.property_dependencies.values() for urn in urns)
        single = (self.parent, self.provider_urn, self.deleted_with)
        return frozenset((*self.dependencies, *by_property, *single)) - {"", self.urn}


# Field of `Resource` -> its name in the file, in the file's order. Empty ones are left out.
_NAMES: Final = {
    "urn": "urn",
    "custom": "custom",
    "delete": "delete",
    "id": "id",
    "type": "type",
    "inputs": "inputs",
    "outputs": "outputs",
    "parent": "parent",
    "protect": "protect",
    "external": "external",
    "dependencies": "dependencies",
    "init_errors": "initErrors",
    "provider": "provider",
    "property_dependencies": "propertyDependencies",
    "pending_replacement": "pendingReplacement",
    "additional_secret_outputs": "additionalSecretOutputs",
    "aliases": "aliases",
    "custom_timeouts": "customTimeouts",
    "retain_on_delete": "retainOnDelete",
    "deleted_with": "deletedWith",
    "created": "created",
    "modified": "modified",
    "ignore_changes": "ignoreChanges",
    "replace_on_changes": "replaceOnChanges",
    "replacement_trigger": "replacementTrigger",
    "resource_hooks": "resourceHooks",
}
_FIELDS: Final = {name: field_ for field_, name in _NAMES.items()}
_VALUES: Final = ("inputs", "outputs", "replacement_trigger")


def resource_to_json(resource: Resource, crypter: Crypter) -> dict[str, Any]:
    raw: dict[str, Any] = dict(resource.other)
    for attribute, name in _NAMES.items():
        value = getattr(resource, attribute)
        if attribute in _VALUES:
            value = seal(value, crypter, f"{resource.urn}.{name}")
        if value not in ("", None, False, (), {}) or attribute in ("urn", "custom", "type"):
            raw[name] = value
    return raw


def resource_from_json(raw: Mapping[str, Any], crypter: Crypter) -> Resource:
    known: dict[str, Any] = {}
    for name in raw.keys() & _FIELDS.keys():
        attribute, value = _FIELDS[name], raw[name]
        if attribute in _VALUES:
            value = unseal(value, crypter, f"{raw['urn']}.{name}")
        elif isinstance(value, list):
            value = tuple(value)
        elif isinstance(value, dict):
            value = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        known[attribute] = value
    other = {name: value for name, value in raw.items() if name not in _FIELDS}
    return Resource(**known, other=other)


def seal(value: Any, crypter: Crypter, place: str) -> Any:
    """A value as the state holds it: secrets are ciphertexts of their JSON."""
    match value:
        case Secret():
            plaintext = json.dumps(seal_plain(value.value), separators=(",", ":"))
            return {
                values.SIGNATURE: values.SECRET,
                "ciphertext": crypter.encrypt(plaintext, place),
            }
        case dict():
            return {k: seal(v, crypter, f"{place}.{k}") for k, v in value.items()}
        case list() | tuple():
            return [seal(v, crypter, f"{place}[{i}]") for i, v in enumerate(value)]
    return seal_plain(value)


def seal_plain(value: Any) -> Any:
    """What is inside a ciphertext is sealed as a whole: inner marks have no meaning there."""
    return values.rewrite(
        values.plain(value),
        lambda leaf: values.UNKNOWN_SENTINEL if isinstance(leaf, Unknown) else leaf,
    )


def unseal(value: Any, crypter: Crypter, place: str) -> Any:
    match value:
        case {values.SIGNATURE: values.SECRET, "ciphertext": str(ciphertext)}:
            return Secret(unseal(json.loads(crypter.decrypt(ciphertext, place)), crypter, place))
        case {values.SIGNATURE: values.SECRET, "plaintext": str(plaintext)}:
            return Secret(unseal(json.loads(plaintext), crypter, place))  # export --show-secrets
        case dict():
            return {k: unseal(v, crypter, f"{place}.{k}") for k, v in value.items()}
        case list():
            return [unseal(v, crypter, f"{place}[{i}]") for i, v in enumerate(value)]
        case values.UNKNOWN_SENTINEL:
            return UNKNOWN
    return value


@dataclass(frozen=True)
class Pending:
    """An operation that had begun when this was saved: `creating`, `updating`, `deleting`, …"""

    resource: Resource
    type: str


@dataclass(frozen=True)
class Checkpoint:
    resources: tuple[Resource, ...] = ()
    pending: tuple[Pending, ...] = ()


def deployment_to_json(
    resources: Sequence[dict[str, Any]], pending: Sequence[dict[str, Any]], salt: str
) -> dict[str, Any]:
    """The untyped deployment of `stack export`, around resources that are JSON already."""
    magic = hashlib.sha256(VERSION.encode()).hexdigest()
    deployment: dict[str, Any] = {
        "manifest": {"time": now(), "magic": magic, "version": VERSION},
        "secrets_providers": {"type": "passphrase", "state": {"salt": salt}},
        "resources": list(resources),
        "metadata": {},
    }
    if pending:
        deployment["pending_operations"] = list(pending)
    return deployment


def deployment_from_json(raw: Mapping[str, Any], crypter: Crypter) -> Checkpoint:
    """Raises ValueError, LookupError, TypeError or AttributeError for what is no deployment, and
    EngineError for a secret that does not open."""
    resources = tuple(resource_from_json(r, crypter) for r in raw.get("resources") or ())
    seen: set[str] = set()
    for resource in resources:
        missing = resource.references - seen
        if missing and not resource.delete:  # what is left of a replacement may outlive the rest
            raise ValueError(
                f"snapshot integrity failure: {resource.urn} refers to {min(missing)}, which does "
                "not stand before it"
            )
        seen.add(resource.urn)
    pending = tuple(
        Pending(resource_from_json(p["resource"], crypter), p["type"])
        for p in raw.get("pending_operations") or ()
    )
    return Checkpoint(resources, pending)


class Unsaved(EngineError):  # noqa: N818 - what it is, to whoever stops because of it
    """Nothing could be written: the old content stands, and the run must not go on."""


def write_atomically(path: Path, content: str, *, keep: Path | None = None) -> None:
    """After a crash at any moment `path` holds the old content or the new one, whole.

    `keep` is given the old content; it is linked first, so that `path` is never missing. Raises
    Unsaved.
    """
    fresh, link = (path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp") for _ in range(2))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("w") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.link(path, link)
            os.replace(link, keep)
            link.unlink(missing_ok=True)  # a rename of one file to itself leaves both names
        os.replace(fresh, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself must survive a power cut
        finally:
            os.close(folder)
    except OSError as error:
        for left in (fresh, link):
            with suppress(OSError):
                left.unlink()
        raise _unsaved(path, error) from error


def _unsaved(path: Path, error: OSError) -> Unsaved:
    return Unsaved(
        f"cannot write {path}: {error.strerror}. What was saved before is whole. Free some "
        f"space on the disk of {path.parent}, or mend the rights of that folder, and run the "
        "same again: it goes on where this run stopped"
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


# What a file that is no checkpoint raises when it is read as one.
DAMAGED: Final = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


def _deployment_in(path: Path) -> dict[str, Any]:
    raw = json.loads(path.read_text())
    if not isinstance(raw, dict) or not isinstance(raw.get("checkpoint"), dict):
        raise ValueError("no checkpoint of a stack")
    if raw.get("version") != 3:
        raise ValueError(f"checkpoint version {raw.get('version')!r}, and this engine knows 3")
    latest = raw["checkpoint"].get("latest") or {}
    if not isinstance(latest, dict) or not isinstance(latest.get("resources") or [], list):
        raise ValueError("`latest` is no deployment")
    return latest


@dataclass(frozen=True)
class Backend:
    """The folder that holds `.pulumi`."""

    root: Path

    def path(self, project: str, stack: str) -> Path:
        return self.root / ".pulumi" / "stacks" / project / f"{stack}.json"

    def load(self, project: str, stack: str) -> dict[str, Any] | None:
        """The deployment as JSON, None for a stack that never ran. Raises EngineError."""
        path = self.path(project, stack)
        try:
            return self._folded(path, _deployment_in(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise EngineError(f"cannot read the state {path}: {error.strerror}") from error
        except DAMAGED as error:
            raise self.damaged(project, stack, error) from error

    def damaged(self, project: str, stack: str, cause: Exception) -> EngineError:
        """The refusal of a state that cannot be read, with the way back to the newest that can."""
        path = self.path(project, stack)
        backups = sorted(self._backups(project, stack).glob("*.json"), reverse=True)
        for backup in (path.with_name(path.name + ".bak"), *backups):
            with suppress(OSError, *DAMAGED):
                _deployment_in(backup)
                when = datetime.fromtimestamp(backup.stat().st_mtime, UTC)
                mend = (
                    f"The newest save that is whole is of {when:%Y-%m-%d %H:%M:%S} UTC; to go back "
                    f"to it:\n  cp {backup} {path}\nthen `refresh`, then `up`"
                )
                break
        else:
            mend = "There is no backup that is whole: bring one back from elsewhere"
        said = f"{type(cause).__name__}: {cause}" if isinstance(cause, LookupError) else str(cause)
        return EngineError(f"the state file {path} is damaged ({said}). {mend}")

    def save(self, project: str, stack: str, deployment: dict[str, Any]) -> None:
        meta = self.root / ".pulumi" / "meta.yaml"
        if not meta.exists():
            write_atomically(meta, "version: 1\n")
        checkpoint = {"stack": f"organization/{project}/{stack}", "latest": deployment}
        path = self.path(project, stack)
        content = json.dumps({"version": 3, "checkpoint": checkpoint}, separators=(",", ":"))
        write_atomically(path, content, keep=path.with_name(path.name + ".bak"))
        self._wal(path).unlink(missing_ok=True)

    def note(self, project: str, stack: str, entry: wal.Entry) -> None:
        """Adds to what was saved: the state is that and every entry since. Durable on return."""
        path = self.path(project, stack)
        log = self._wal(path)
        try:
            if not log.exists():
                write_atomically(log, wal.header(_digest(path)))
            with log.open("r+") as file:
                end = file.seek(0, os.SEEK_END)
                try:
                    file.write(wal.line(entry))
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as error:
            raise _unsaved(log, error) from error

    def unfolded(self, project: str, stack: str) -> dict[str, Any] | None:
        """The state with the log in it, when there is one; None: the checkpoint is all."""
        there = self._wal(self.path(project, stack)).exists()
        return self.load(project, stack) if there else None

    @staticmethod
    def _wal(checkpoint: Path) -> Path:
        return checkpoint.with_name(checkpoint.name + wal.SUFFIX)

    def _folded(self, path: Path, deployment: dict[str, Any]) -> dict[str, Any]:
        """With what a run that was killed had noted. It may have been killed just after it saved
        everything: then the log is that of the save before."""
        log = self._wal(path)
        if not log.exists():
            return deployment
        try:
            digest, entries = wal.read(log.read_text())
        except wal.DamagedError as error:
            raise EngineError(
                f"the log of a killed run, {log}, is damaged ({error}). Without it the state is as "
                f"it was when that run began: mv {log} {log}.damaged, then `refresh`"
            ) from error
        if not entries:
            return deployment
        # Asked first: between its two renames a save leaves the old checkpoint as its own backup.
        if digest == _digest(path):
            return wal.fold(deployment, entries)
        if digest != _digest(path.with_name(path.name + ".bak")):
            raise EngineError(
                f"{path} is not the state that the log of a killed run, {log}, belongs to. If it "
                f"is the right one: mv {log} {log}.old, then `refresh`"
            )
        return deployment

    # --- history -------------------------------------------------------------------------------

    def _history(self, project: str, stack: str) -> Path:
        return self.root / ".pulumi" / "history" / project / stack

    def _backups(self, project: str, stack: str) -> Path:
        return self.root / ".pulumi" / "backups" / project / stack

    def record(
        self,
        project: str,
        stack: str,
        update: Mapping[str, Any],
        steps: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """One finished run: its record, and the checkpoint that it left, twice as the CLI does.
        `steps`, when each one began and ended, are ours: a file beside, which the CLI passes by."""
        stamp, content = time.time_ns(), self.path(project, stack).read_text()
        entry = self._history(project, stack) / f"{stack}-{stamp}"
        write_atomically(Path(f"{entry}.history.json"), json.dumps(update, indent=4))
        write_atomically(Path(f"{entry}.checkpoint.json"), content)
        write_atomically(Path(f"{entry}.steps.json"), json.dumps({"version": 1, "steps": steps}))
        write_atomically(self._backups(project, stack) / f"{stack}.{stamp}.json", content)

    def history(self, project: str, stack: str) -> list[dict[str, Any]]:
        """Newest first."""
        files = sorted(self._history(project, stack).glob("*.history.json"), reverse=True)
        return [json.loads(file.read_text()) for file in files]

    def last_up(self, project: str, stack: str) -> list[dict[str, Any]]:
        """The steps of the newest `up` that changed something: urn, op, begin, end (seconds)."""
        for file in sorted(self._history(project, stack).glob("*.history.json"), reverse=True):
            said = json.loads(file.read_text())
            steps = Path(str(file).removesuffix(".history.json") + ".steps.json")
            changed = said.get("resourceChanges", {}).keys() - {"same"}
            if said.get("kind") == "update" and changed and steps.exists():
                return list(json.loads(steps.read_text())["steps"])
        return []

    # --- locks ---------------------------------------------------------------------------------

    def _locks(self, project: str, stack: str) -> Path:
        return self.root / ".pulumi" / "locks" / "organization" / project / stack

    @contextmanager
    def lock(self, project: str, stack: str) -> Iterator[None]:
        """Refused while anyone else holds one. Ours is written before the others are looked for:
        of two that start together both may be refused, but never neither."""
        mine = self._locks(project, stack) / f"{uuid.uuid4()}.json"
        holder = {
            "pid": os.getpid(),
            "username": getpass.getuser(),
            "hostname": socket.gethostname(),
            "timestamp": now(),
        }
        try:
            write_atomically(mine, json.dumps(holder))
            others = [p for p in mine.parent.glob("*.json") if p != mine]
            if others:
                raise EngineError(_locked(others, stack))
            state = self.path(project, stack)
            for half in state.parent.glob(f"{state.name}.*.tmp"):  # what a killed run was writing
                half.unlink(missing_ok=True)
            yield
        finally:
            with suppress(OSError):
                mine.unlink()

    def cancel(self, project: str, stack: str) -> int:
        """Removes every lock of the stack, and says how many there were."""
        locks = list(self._locks(project, stack).glob("*.json"))
        for lock in locks:
            lock.unlink(missing_ok=True)
        return len(locks)


def _locked(locks: Sequence[Path], stack: str) -> str:
    lines = [
        f"the stack is currently locked by {len(locks)} lock(s). Wait for the other run to end; "
        f"or, if there is none, remove its lock: python -m rehearsal cancel --stack {stack}"
    ]
    for lock in locks:
        try:
            held = json.loads(lock.read_text())
            who = "{username}@{hostname} (pid {pid}) at {timestamp}".format(**held)
            gone = held["hostname"] == socket.gethostname() and not _alive(int(held["pid"]))
        except (OSError, ValueError, LookupError, TypeError):
            lines.append(f"  {lock}: unreadable")
            continue
        lines.append(f"  {lock}: created by {who}")
        if gone:
            lines.append(
                "  That process is gone (killed?): `cancel` is safe, and the next `up` goes on "
                "from what it had saved."
            )
    return "\n".join(lines)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
