"""What `up` would do, said as an operator thinks of it: which services roll, and why.

`read` is pure: from the document of `pulumi preview --json` (pkg/display/json.go: PreviewDigest and
PreviewStep; its states are checkpoints' resources). What is only known during `up` stands in it as
a fixed string; a secret as "[secret]". No value is shown: of configuration the keys, of images
tags and digests, of everything else the path.
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from honeydue.images import dockerfile
from honeydue.images.references import SERVICES, TAG_ANNOTATION
from honeydue.kubernetes.catalogue import PULL_SECRET
from ops.diagnosis import Json, dig, items, text
from ops.problems import Problem

UNKNOWN: Final = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"  # sdk/go/common/resource/plugin/rpc.go
_DEPLOYMENT: Final = "kubernetes:apps/v1:Deployment"
_CONFIG_MAP: Final = "kubernetes:core/v1:ConfigMap"
_SECRET: Final = "kubernetes:core/v1:Secret"
_SHOWN: Final = 3  # files, keys or paths that are named before "and n more"
_DIRTY: Final = "-dirty"  # honeydue.images.checkout: <sha>-dirty-<content>

Rolls = Literal["yes", "no", "if its image differs"]


@dataclass(frozen=True)
class Image:
    """`tag`: "" when it is run by digest alone. `digest`: "" while it is not built."""

    tag: str
    digest: str

    def __str__(self) -> str:
        shown = self.digest.removeprefix("sha256:")[:12] if self.digest else "(built by up)"
        return " ".join(filter(None, (self.tag, shown)))


@dataclass(frozen=True, kw_only=True)
class Service:
    """`now`: None when it is not there yet, or not known because nothing of it changes; `then`
    likewise. `why`: a line for each reason."""

    name: str
    rolls: Rolls
    now: Image | None = None
    then: Image | None = None
    why: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Summary:
    """`others`: (operation, kind) → how many, of what is neither a danger, nor a service or what it
    reads."""

    services: tuple[Service, ...]
    dangers: tuple[Problem, ...]
    others: Mapping[tuple[str, str], int]
    warnings: tuple[str, ...]

    @property
    def rolling(self) -> tuple[str, ...]:
        """Those that roll, or may."""
        return tuple(each.name for each in self.services if each.rolls != "no")

    @property
    def empty(self) -> bool:
        """Whether `up` would change nothing at all."""
        told = (self.dangers, self.rolling, self.others)
        return not (any(told) or any(each.why for each in self.services))


# --- reading ------------------------------------------------------------------------------------


def read(
    plan: Any,
    *,
    changed: Mapping[str, Sequence[str]] | None,
    pins: Mapping[str, Image] | None = None,
) -> Summary:
    """`changed`: service → files that differ since what runs, as `changes` finds them; None: that
    cannot be told. `pins`: what the settings name. A plan does not know its digest, since it is
    what a verification will have printed: that one, or `up` fails."""
    steps = _steps(plan)
    configs = {_service_of_config(each): each for each in steps if _type(each) == _CONFIG_MAP}
    by_name = {_name(each): each for each in steps if _type(each) == _DEPLOYMENT}
    services = tuple(
        _service(name, by_name.get(name), configs.get(name), changed, (pins or {}).get(name))
        for name in SERVICES
    )
    dangers = [(each, danger) for each in steps if (danger := _danger(each)) is not None]
    dangerous = [each for each, _ in dangers]
    return Summary(
        services=services,
        dangers=tuple(danger for _, danger in dangers),
        others=Counter(
            (_verb(each), _kind(_type(each)))
            for each in steps
            if each not in dangerous and not _told_elsewhere(each)
        ),
        warnings=tuple(
            dict.fromkeys(
                text(dig(each, "message")).strip().split("\n", 1)[0]
                for each in items(dig(plan, "diagnostics"))
                if dig(each, "severity") == "warning" and text(dig(each, "message")).strip()
            )
        ),
    )


def _steps(plan: Any) -> list[Json]:
    """One step for each resource that changes. A replacement may be told as up to three: its two
    halves, and `replace` for both."""
    found: dict[str, Json] = {}
    for step in items(dig(plan, "steps")):
        urn = text(dig(step, "urn"))
        state = dig(step, "newState") or dig(step, "oldState")
        if _verb(step) and dig(state, "custom") is True:
            known = found.get(urn)
            if known is None or (_verb(step) == "replace" and dig(step, "op") == "replace"):
                found[urn] = step
    return list(found.values())


_VERBS: Final = {
    "create": "create",
    "update": "update",
    "delete": "delete",
    "replace": "replace",
    "create-replacement": "replace",
    "delete-replaced": "replace",
    "import": "import",
    "import-replacement": "replace",
}


def _verb(step: Json) -> str:
    """ "" for what changes nothing (same, read, refresh …)."""
    return _VERBS.get(text(dig(step, "op")), "")


def _type(step: Json) -> str:
    return text(dig(dig(step, "newState") or dig(step, "oldState"), "type"))


def _inputs(step: Json, state: Literal["oldState", "newState"]) -> Json:
    return dig(step, state, "inputs") or {}


def _name(step: Json) -> str:
    """In Kubernetes; elsewhere, or where it is not known yet, the program's own."""
    for state in ("newState", "oldState"):
        inputs = dig(step, state, "inputs")
        name = text(dig(inputs, "metadata", "name")) or text(dig(inputs, "name"))
        if name and UNKNOWN not in name and name != "[secret]":
            return name
    return text(dig(step, "urn")).rsplit("::", 1)[-1]


def _service_of_config(step: Json) -> str:
    """ "" for a ConfigMap that is none of the application's."""
    found = re.match(rf"honeydue-config-({'|'.join(SERVICES)})-", _name(step))
    return found[1] if found else ""


def _told_elsewhere(step: Json) -> bool:
    """With the service that it belongs to."""
    kind, name = _type(step), _name(step)
    return (
        (kind == _DEPLOYMENT and name in SERVICES)
        or (kind == _CONFIG_MAP and _service_of_config(step) != "")
        or (kind == _SECRET and name.startswith("honeydue-secrets-"))
    )


# --- one service --------------------------------------------------------------------------------


def _service(
    name: str,
    step: Json,
    config: Json,
    changed: Mapping[str, Sequence[str]] | None,
    pin: Image | None,
) -> Service:
    if step is None:
        return Service(name=name, rolls="no")
    old, new = _inputs(step, "oldState"), _inputs(step, "newState")
    if pin is not None and pin.digest:
        new = _pinned(new, pin.digest, old)
    now, then = _image(old), _image(new)
    verb = _verb(step)
    if verb == "delete":
        return Service(name=name, rolls="yes", now=now, why=("it is deleted: see above",))
    if verb in ("create", "import"):
        return Service(name=name, rolls="yes", then=then, why=("it is new",))
    paths = list(_differences(dig(old, "spec", "template"), dig(new, "spec", "template"), ""))
    # Two secrets look the same; the provider still says where they differ. What it does not know of
    # an image the settings may: then the same digest is no difference.
    same = now is not None and then is not None and now.digest == then.digest != ""
    paths = paths or [
        path.removeprefix("spec.template.")
        for path in sorted(dig(step, "detailedDiff") or {})
        if path.startswith("spec.template.") and not (same and path.endswith(".image"))
    ]
    why: list[str] = []
    maybe = False
    if any(path.endswith(".image") for path in paths):
        maybe = then is None or not then.digest
        files = None if changed is None else changed.get(name)
        why.append(_image_line(files, now, built=maybe))
    if any(path.endswith("configMapRef.name") for path in paths):
        why.append(f"configuration: {_keys(config)}")
    if any(path.endswith("secretRef.name") for path in paths):
        why.append("secrets changed")
    known = (".image", "configMapRef.name", "secretRef.name")
    if others := [_short(path) for path in paths if not path.endswith(known)]:
        why.append(f"template: {_some(others)}")
    rolls: Rolls = "no"
    if why:
        rolls = "if its image differs" if maybe and len(why) == 1 else "yes"
    if verb == "replace":
        rolls = "yes"
        why.append("it is deleted and made anew: see above")
    if not why and dig(step, "oldState", "initErrors"):
        # An earlier run ended before it was ready: `up` applies the same again, and waits.
        rolls = "yes"
        why.append("did not become ready before: waited for again")
    if not why:
        why.append(_without_a_roll(old, new))
    return Service(name=name, rolls=rolls, now=now, then=then, why=tuple(why))


def _image(inputs: Json) -> Image | None:
    """What a Deployment's inputs say that it runs."""
    containers = items(dig(inputs, "spec", "template", "spec", "containers"))
    reference = text(dig(containers[0], "image")) if containers else ""
    if not reference:
        return None
    tag = text(dig(inputs, "metadata", "annotations", TAG_ANNOTATION))
    _, _, digest = reference.partition("@")
    return Image("" if UNKNOWN in tag else tag, "" if UNKNOWN in reference else digest)


def _pinned(new: Json, digest: str, old: Json) -> Json:
    """The inputs with the image that is not known yet: the one that runs, by another digest."""
    containers = items(dig(new, "spec", "template", "spec", "containers"))
    before = items(dig(old, "spec", "template", "spec", "containers"))
    if not containers or UNKNOWN not in text(dig(containers[0], "image")):
        return new
    where = text(dig(before[0], "image")).partition("@")[0] if before else ""
    changed = copy.deepcopy(new)
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = f"{where}@{digest}"
    return changed


def _image_line(files: Sequence[str] | None, now: Image | None, *, built: bool) -> str:
    since = f" since {now.tag}" if now and now.tag else ""
    if files:
        many = "1 file changed" if len(files) == 1 else f"{len(files)} files changed"
        return f"image: {many}{since} ({_some(files)})"
    if files is not None and built:
        return f"image: no file of it changed{since}; the build should give the same"
    return "image: built anew" if built else "image: another one"


def _keys(config: Json) -> str:
    """The names of the keys that differ, never their values."""
    old, new = (dig(_inputs(config, s), "data") for s in ("oldState", "newState"))
    if not isinstance(old, dict) or not isinstance(new, dict):
        return "another ConfigMap"
    found = [
        key if key in old and key in new else f"{key} ({'new' if key in new else 'removed'})"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    return ", ".join(found) or "another ConfigMap"


def _without_a_roll(old: Json, new: Json) -> str:
    spec = [path for path in _differences(dig(old, "spec"), dig(new, "spec"), "")]
    if "replicas" in spec:
        scaled = f"replicas {dig(old, 'spec', 'replicas')} → {dig(new, 'spec', 'replicas')}"
        return f"{scaled}: the pods that stay do not roll"
    if spec:
        return f"spec: {_some(spec)}: nothing rolls"
    return "annotations only: nothing rolls"


def _differences(old: Json, new: Json, path: str) -> Iterator[str]:
    """The paths of leaves that differ: `spec.containers[0].image`. A list whose length differs is
    one leaf."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _differences(one, other, f"{path}[{index}]")
    elif old != new:
        yield path


def _short(path: str) -> str:
    """`spec.containers[0].resources.limits.memory` → `resources.limits.memory`."""
    return re.sub(r"^spec\.(?:containers\[\d+\]\.)?", "", path)


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:_SHOWN], *(["…"] if len(names) > _SHOWN else [])])


# --- what must not pass unnoticed ---------------------------------------------------------------

_STOP: Final = "answer no unless this is what you want, and read docs/rebuild.md first"
# (type, what its loss means, what to do); the first that fits.
_DANGEROUS: Final = (
    (
        r"hcloud:index/server:Server",
        "the server {name}: its disk, its etcd member and every pod on it are lost",
        "answer no, unless you replace this node on purpose, and only one at a time: "
        "docs/rebuild.md, One node",
    ),
    (
        r"hcloud:index/(?:volume|volumeAttachment):",
        "the volume {name}: what is on it is lost",
        _STOP,
    ),
    (
        r"hcloud:index/(?:primaryIp|floatingIp|floatingIpAssignment):",
        "the address {name}: DNS, firewalls and the kubeconfig name it",
        _STOP,
    ),
    (
        r"hcloud:index/(?:network|networkSubnet|serverNetwork):",
        "the private network {name}: the nodes lose each other, and etcd its quorum",
        _STOP,
    ),
    (
        r"hcloud:index/loadBalancer\w*:",
        "the load balancer {name}: nobody gets in until there is another",
        _STOP,
    ),
    (
        r"hcloud:index/(?:firewall|firewallAttachment):",
        "the firewall {name}: until there is another, the nodes are open to everybody",
        _STOP,
    ),
    (
        r"hcloud:index/placementGroup:",
        "the placement group {name}: its servers would have to be made anew",
        _STOP,
    ),
    (
        r"PKI tls:index/(?:privateKey|selfSignedCert):",
        "{name}, of the cluster's PKI: all that it vouches for (nodes, kubeconfig) is refused",
        _STOP,
    ),
    (
        r"PKI random:",
        "{name}, which nodes join with: the cluster's own also opens its snapshots",
        _STOP,
    ),
    (
        r"pulumi:providers:",
        "the provider {name}: everything that was made with it would be made anew",
        "answer no: settings of a provider are not to change like this",
    ),
    (
        r"kubernetes:apps/v1:StatefulSet|kubernetes:core/v1:PersistentVolume\w*:?",
        "{kind} {name}: its data may be lost",
        _STOP,
    ),
    (
        r"kubernetes:core/v1:Namespace",
        "the namespace {name} and everything in it",
        _STOP,
    ),
    (
        r"cloudflare:index/(?:dnsRecord|record):",
        "the DNS record {name}: it leads nobody to that node; without any, production is off the "
        "net",
        _STOP,
    ),
    (
        r"kubernetes:helm\.cattle\.io/v1:HelmChartConfig$",
        "Traefik's settings ({name}): K3s puts it back to its own, and nobody gets in",
        _STOP,
    ),
    (
        r"kubernetes:networking\.k8s\.io/v1:NetworkPolicy$",
        "the NetworkPolicy {name}: until there is another, pods reach what they must not, or not "
        "what they need",
        "answer no, unless you take it away on purpose",
    ),
    (
        rf"kubernetes:core/v1:Secret {PULL_SECRET}$",
        "{name}, the registry's login: until there is another, no node can pull an image",
        "answer no: a new token comes by python -m ops secret rotate REGISTRY_TOKEN",
    ),
    (
        r"kubernetes:apps/v1:(?:Deployment|DaemonSet)|kubernetes:core/v1:Service$|"
        r"kubernetes:networking\.k8s\.io/v1:Ingress$",
        "{kind} {name}: it is away until there is another, so users see errors",
        "answer no, unless the downtime is wanted",
    ),
)


def _danger(step: Json) -> Problem | None:
    kind, verb, name = _type(step), _verb(step), _name(step)
    if verb == "delete" and kind.startswith("pulumi:providers:docker"):
        return None  # a rollback builds nothing: the builder's provider goes, its images stay
    if verb in ("replace", "delete"):
        # Other keys and passwords (the origin's, Redis') are made anew without harm.
        ours = "PKI " if "honeydue:k3s:Pki$" in text(dig(step, "urn")) else ""
        # Of Secrets one has a fixed name; the others have their content's, and a new one comes
        # before the old one goes.
        of = f" {name}" if kind == _SECRET else ""
        for pattern, what, mend in _DANGEROUS:
            if re.match(pattern, ours + kind + of):
                reasons = [str(each) for each in items(dig(step, "replaceReasons"))]
                because = f" (because of {_some(reasons)})" if reasons else ""
                said = what.format(name=name, kind=_kind(kind))
                return Problem(f"{verb}s {said}{because}", mend)
    if verb == "update" and kind == "hcloud:index/server:Server":
        differ = {str(each) for each in items(dig(step, "diffReasons"))}
        if off := sorted(differ & {"serverType", "publicNets"}):
            return Problem(
                f"switches the server {name} off for minutes, to change {', '.join(off)}",
                "answer no, unless the other nodes are healthy: python -m ops status",
            )
    return None


_KINDS: Final = {
    "DnsRecord": "DNS record",
    "PrimaryIp": "primary IP",
    "ConfigMap": "ConfigMap",
    "StatefulSet": "StatefulSet",
    "DaemonSet": "DaemonSet",
    "BuildxBuilder": "builder",
    "Image": "image build",  # no longer built is not gone: what was pushed stays (retain_on_delete)
    "HelmChartConfig": "HelmChartConfig",
}


def _kind(kind: str) -> str:
    """`cloudflare:index/dnsRecord:DnsRecord` → `DNS record`, `core/v1:Service` → `Service`."""
    if kind.startswith("pulumi:providers:"):
        return f"provider {kind.rsplit(':', 1)[-1]}"
    last = kind.rsplit(":", 1)[-1]
    if last in _KINDS or kind.startswith("kubernetes:"):
        return _KINDS.get(last, last)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", last).lower()


# --- which files --------------------------------------------------------------------------------


def changes(plan: Any, app: Path) -> Mapping[str, Sequence[str]] | None:
    """For `read`: service → files of the checkout `app` that differ between the tag that runs and
    the one that the plan names. Services whose old commit is not in the checkout are left out;
    None when nothing can be told of any."""
    found: dict[str, Sequence[str]] = {}
    asked: dict[tuple[str, str], Mapping[str, Sequence[str]] | None] = {}
    for step in _steps(plan):
        if _type(step) == _DEPLOYMENT and (name := _name(step)) in SERVICES:
            now, then = (_image(_inputs(step, s)) for s in ("oldState", "newState"))
            if now and then and now.tag and then.tag:
                pair = now.tag, then.tag
                if pair not in asked:
                    asked[pair] = changed_files(app, *pair)
                files = (asked[pair] or {}).get(name)
                if files is not None:
                    found[name] = files
    return found or None


def changed_files(app: Path, old: str, new: str) -> Mapping[str, list[str]] | None:
    """Service → files that its image is made from and that differ between the commits `old` and
    `new` (image tags: git's short SHA, of a dirty checkout with more behind it). None when one of
    the two is not in the checkout, or when it was dirty then."""
    dirty = _DIRTY in new
    if _DIRTY in old or not _commit(app, old) or not (dirty or _commit(app, new)):
        return None
    between = [old] if dirty else [old, new]
    listed = _git(app, "diff", "--name-only", "-z", "--no-renames", "--relative", *between, "--")
    if listed is None:
        return None
    files = listed.split("\0")
    if dirty:
        files += (_git(app, "ls-files", "-z", "--others", "--exclude-standard") or "").split("\0")
    files = sorted({each for each in files if each})
    made_by = _content(app, "Dockerfile", "" if dirty else new)
    ignored = _content(app, ".dockerignore", "" if dirty else new)
    in_context = list(dockerfile.not_ignored(ignored, files))
    return {
        # What a changed Dockerfile changes is not looked for: it may be everything.
        service: [
            *(["Dockerfile"] if "Dockerfile" in files else []),
            *(
                file
                for file in dockerfile.matching(dockerfile.sources(made_by, service), in_context)
                if file != "Dockerfile"
            ),
        ]
        for service in SERVICES
    }


def _commit(app: Path, name: str) -> bool:
    # Nothing that is not a SHA reaches git: a tag of an image may be any word.
    known = re.fullmatch(r"[0-9a-f]{4,40}", name) is not None
    return known and _git(app, "cat-file", "-e", f"{name}^{{commit}}") is not None


def _content(app: Path, file: str, commit: str) -> str:
    if commit:
        return _git(app, "show", f"{commit}:./{file}") or ""
    return (app / file).read_text() if (app / file).is_file() else ""


def _git(app: Path, *arguments: str) -> str | None:
    """None when git fails, whatever the reason: the plan is then told without the files."""
    command = ["git", "-C", str(app), "-c", "core.quotePath=false", *arguments]
    environment = os.environ | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, timeout=20, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout.decode(errors="replace")


# --- showing ------------------------------------------------------------------------------------

_STYLES: Final = {"yes": "yellow", "if its image differs": "yellow", "no": ""}
_WORDS: Final = {
    "yes": "rolls",
    "no": "does not roll",
    "if its image differs": "rolls if its image differs",
}


def show(summary: Summary, console: Console) -> None:
    if summary.dangers:
        grid = Table.grid(padding=(0, 1, 0, 0))
        for danger in summary.dangers:
            grid.add_row(Text("DANGER", "bold red"), Text(danger.what, "red"))
            grid.add_row("", danger.mend)
        console.print(grid)
        console.print()
    if summary.empty:
        console.print("Nothing to do: what runs is what the settings say.")
    else:
        width = max(len(name) for name in SERVICES)
        for each in summary.services:
            line = Text(f"{each.name:<{width}}  ") + Text(_WORDS[each.rolls], _STYLES[each.rolls])
            console.print(line + Text(_versions(each)))
            for reason in each.why:
                console.print(Padding(Text(reason), (0, 0, 0, width + 2)))
        if counted := _counted(summary.others):
            console.print(Text(counted, "dim"))
    for warning in summary.warnings:
        console.print(Text("warning: ", "yellow") + Text(warning))


def _versions(service: Service) -> str:
    if service.now == service.then:
        return f"  {service.now}" if service.now else ""
    return "  " + " → ".join(str(each) for each in (service.now, service.then) if each)


def _counted(others: Mapping[tuple[str, str], int]) -> str:
    """`and 3 others: 1 update DNS record, 2 create NetworkPolicy`."""
    total = sum(others.values())
    if not total:
        return ""
    each = ", ".join(f"{n} {verb} {kind}" for (verb, kind), n in sorted(others.items()))
    return f"and {total} other{'s' if total > 1 else ''}: {each}"


def document(summary: Summary) -> dict[str, Any]:
    """For `--json`."""
    return {
        "services": [
            {
                "name": each.name,
                "rolls": each.rolls,
                "now": _document(each.now),
                "then": _document(each.then),
                "why": list(each.why),
            }
            for each in summary.services
        ],
        "dangers": [{"what": each.what, "do": each.mend} for each in summary.dangers],
        "others": [
            {"operation": verb, "kind": kind, "count": count}
            for (verb, kind), count in sorted(summary.others.items())
        ],
        "warnings": list(summary.warnings),
    }


def _document(image: Image | None) -> dict[str, str | None] | None:
    return {"tag": image.tag or None, "digest": image.digest or None} if image else None
