"""A stand-in for the `trivy` command line, where the real one cannot be had. It is not Trivy.

It answers the calls that the scan gate makes, as Trivy's documentation has them, and refuses every
other command and flag. What it does is real: it pulls the image's layers from the registry with
the given credentials, finds the packages of apk and dpkg and the modules in the build information
of Go binaries, and writes CycloneDX. What it knows of vulnerabilities is not: advisories.json
beside this file, a few made-up ones, stands for the database that Trivy downloads.

    trivy version --format json
    trivy image --download-db-only
    trivy image --format cyclonedx --output FILE --image-src remote --cache-backend memory IMAGE
    trivy sbom --format json --output FILE --skip-db-update --ignorefile FILE --show-suppressed SBOM

Where it differs: TRIVY_DB_REPOSITORY is the path of such a JSON file, and is read each time, not
every six hours; the cache is the rehearsal's own, unless TRIVY_CACHE_DIR says where, so that a real
Trivy's is never touched; versions are compared as rows of numbers; `paths` of an ignore file are
shell patterns; a layer packed with zstd is refused.

Sources: Trivy's references/configuration/cli/*.md, configuration/filtering.md; the shape of its
JSON: pkg/types/report.go, finding.go; Go's build information: go/src/debug/buildinfo/buildinfo.go.
"""

from __future__ import annotations

import argparse
import fnmatch
import gzip
import io
import json
import os
import re
import sys
import tarfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import quote

from rehearsal.home import cache_folder

if TYPE_CHECKING:
    from rehearsal.registry.distribution import Reference, Registry

VERSION: Final = "0.58.0-rehearsal-standin"
ADVISORIES: Final = Path(__file__).with_name("advisories.json")
LARGEST_FILE: Final = 512 << 20  # bytes of one file in a layer


class Fatal(Exception):  # noqa: N818 - Trivy's own word for the line that it ends with
    """What stands behind FATAL in Trivy's last line."""


# --- packages ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Package:
    """One package; `kind` as in a package URL: golang, apk, deb."""

    kind: str
    name: str
    version: str

    def purl(self, distribution: str = "") -> str:
        """Its package URL; `distribution` ("alpine-3.22.1") for those of an operating system."""
        name = quote(self.name.lower() if self.kind != "golang" else self.name, safe="/")
        qualifier = (
            f"?distro={quote(distribution)}" if distribution and self.kind != "golang" else ""
        )
        space = f"{distribution.partition('-')[0]}/" if qualifier else ""
        at = f"@{quote(self.version, safe='')}" if self.version else ""
        return f"pkg:{self.kind}/{space}{name}{at}{qualifier}"


@dataclass
class Contents:
    """What matters of an image's files, after all layers."""

    system: dict[str, str] = field(default_factory=dict)  # os-release
    installed: dict[str, list[Package]] = field(default_factory=dict)  # path → packages
    binaries: dict[str, list[Package]] = field(default_factory=dict)

    def remove(self, path: str) -> None:
        for found in (self.installed, self.binaries):
            for known in [p for p in found if p == path or p.startswith(f"{path}/")]:
                del found[known]
        if path in {"etc", "etc/os-release"}:
            self.system.clear()

    def add(self, path: str, data: bytes) -> None:
        self.remove(path)
        if path in {"etc/os-release", "usr/lib/os-release"}:
            pairs = (line.partition("=") for line in data.decode(errors="replace").splitlines())
            self.system = self.system or {key: value.strip('"') for key, _, value in pairs}
        elif path == "lib/apk/db/installed":
            self.installed[path] = list(_stanzas(data, "apk", "P:", "V:"))
        elif path == "var/lib/dpkg/status" or path.startswith("var/lib/dpkg/status.d/"):
            self.installed[path] = list(_stanzas(data, "deb", "Package: ", "Version: "))
        elif data[:4] == b"\x7fELF" and (modules := go_modules(data)):
            self.binaries[path] = modules


def _stanzas(data: bytes, kind: str, name: str, version: str) -> Iterator[Package]:
    for stanza in data.decode(errors="replace").split("\n\n"):
        lines = stanza.splitlines()
        names = [line.removeprefix(name) for line in lines if line.startswith(name)]
        versions = [line.removeprefix(version) for line in lines if line.startswith(version)]
        if names and versions:
            yield Package(kind, names[0], versions[0])


_MAGIC: Final = b"\xff Go buildinf:"


def go_modules(binary: bytes) -> list[Package]:
    """The modules that a Go binary was linked from, and its standard library; [] if it is none.

    The header is 32 bytes: magic, pointer size, flags (2: Go 1.18 or later, the strings follow,
    each with its length as a varint): the Go version, then the modules, between 16-byte sentinels.
    """
    at = binary.find(_MAGIC)
    if at < 0 or len(binary) < at + 32 or not binary[at + 15] & 2:
        return []
    version, at = _string(binary, at + 32)
    text, _ = _string(binary, at)
    found = []
    if number := re.match(r"go(\d+(?:\.\d+)*)", version):
        found.append(Package("golang", "stdlib", f"v{number[1]}"))
    replaced: list[str] | None = None
    for line in text[16:-16].splitlines():
        words = line.split("\t")
        if words[0] == "dep" and len(words) >= 3:
            found.append(Package("golang", words[1], words[2]))
            replaced = words
        elif words[0] == "=>" and len(words) >= 3 and replaced is not None:
            found[-1] = Package("golang", words[1], words[2])
        elif words[0] == "mod" and len(words) >= 3:
            # The program itself has no version unless it was installed from its module.
            version = "" if words[2] == "(devel)" else words[2]
            found.append(Package("golang", words[1], version))
    return found


def _string(data: bytes, at: int) -> tuple[str, int]:
    size = shift = 0
    while at < len(data):
        byte = data[at]
        at, size, shift = at + 1, size | (byte & 0x7F) << shift, shift + 7
        if not byte & 0x80:
            break
    return data[at : at + size].decode("utf-8", "replace"), at + size


# --- the image ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Image:
    name: str
    digest: str
    config_digest: str
    architecture: str
    diff_ids: tuple[str, ...]
    contents: Contents


def pull(name: str, environment: Mapping[str, str]) -> Image:
    """Fetches an image and looks through its files. Fatal, also for what the registry refuses."""
    # Only one call of four needs it, and it takes longer to import than the others to run.
    from rehearsal.registry.distribution import Reference, RegistryError  # noqa: PLC0415

    try:
        return _pull(Reference.parse(name), name, environment)
    except RegistryError as error:
        raise Fatal(
            f"run error: image scan error: scan error: unable to find the specified image "
            f'"{name}" in ["remote"]: 1 error occurred:\n\t* remote error: {error}\n\n'
        ) from None


def _pull(reference: Reference, name: str, environment: Mapping[str, str]) -> Image:
    from rehearsal.registry.distribution import Registry, RegistryError  # noqa: PLC0415

    host = reference.server.rpartition(":")[0]
    if host.startswith("127.") and host != "127.0.0.1" and not _yes(environment, "TRIVY_INSECURE"):
        # go-containerregistry's rule, pkg/name/registry.go: of loopback only this one is http.
        raise RegistryError(
            f'Get "https://{reference.server}/v2/": http: server gave HTTP response to HTTPS client'
        )
    user, password = environment.get("TRIVY_USERNAME", ""), environment.get("TRIVY_PASSWORD", "")
    contents = Contents()
    with Registry(reference, user, password) as registry:
        found = registry.manifest(reference.digest or reference.tag or "latest")
        if reference.digest and found.digest != reference.digest:
            raise RegistryError(
                f"manifest digest: {found.digest!r} does not match requested digest"
            )
        manifest = json.loads(found.body)
        if "layers" not in manifest:
            raise RegistryError("it is an index; give the digest of one platform's image")
        config_digest = manifest["config"]["digest"]
        config = json.loads(_blob(registry, config_digest))
        for layer in manifest["layers"]:
            kind = str(layer.get("mediaType", ""))
            if kind.endswith("zstd"):
                raise Fatal(f"the stand-in cannot unpack {kind}")
            _read_layer(_blob(registry, layer["digest"]), kind, contents)
    return Image(
        name=name,
        digest=found.digest,
        config_digest=config_digest,
        architecture=str(config.get("architecture", "")),
        diff_ids=tuple(config.get("rootfs", {}).get("diff_ids", ())),
        contents=contents,
    )


def _blob(registry: Registry, digest: str) -> bytes:
    from rehearsal.registry.distribution import RegistryError, digest_of  # noqa: PLC0415

    data = b"".join(registry.blob(digest))
    if digest_of(data) != digest:
        raise RegistryError(f"error verifying sha256 checksum of {digest}")
    return data


def _read_layer(data: bytes, kind: str, contents: Contents) -> None:
    if kind.endswith("gzip"):
        data = gzip.decompress(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            path = os.path.normpath(member.name).lstrip("/")
            folder, base = os.path.split(path)
            if base == ".wh..wh..opq":
                contents.remove(folder)
            elif base.startswith(".wh."):
                contents.remove(os.path.join(folder, base.removeprefix(".wh.")))
            elif member.isfile() and member.size <= LARGEST_FILE:
                file = tar.extractfile(member)
                contents.add(path, file.read() if file else b"")
            elif not member.isdir():
                contents.remove(path)


# --- CycloneDX ---------------------------------------------------------------------------------


def bom(image: Image, now: datetime) -> dict[str, Any]:
    """The image's packages as Trivy writes them: system and programs are components of their own,
    and what belongs to them hangs on them in `dependencies`."""
    contents = image.contents
    family, release = contents.system.get("ID", ""), contents.system.get("VERSION_ID", "")
    repository, root = image.name.partition("@")[0], str(uuid.uuid4())
    components: list[dict[str, Any]] = []
    dependencies: dict[str, list[str]] = {root: []}

    def owner(kind: str, name: str, version: str, properties: dict[str, str]) -> str:
        ref = str(uuid.uuid4())
        component = {"bom-ref": ref, "type": kind, "name": name, "version": version}
        components.append({**component, "properties": _properties(properties)})
        dependencies[root].append(ref)
        dependencies[ref] = []
        return ref

    def library(package: Package, of: str, kind: str, distribution: str = "") -> None:
        purl = package.purl(distribution)
        if purl not in dependencies:
            dependencies[purl] = []
            components.append(
                {
                    "bom-ref": purl,
                    "type": "library",
                    "name": package.name,
                    **({"version": package.version} if package.version else {}),
                    "purl": purl,
                    "properties": _properties({"PkgType": kind}),
                }
            )
        dependencies[of].append(purl)

    if family:
        of = owner("operating-system", family, release, {"Class": "os-pkgs", "Type": family})
        for packages in contents.installed.values():
            for package in packages:
                library(package, of, family, f"{family}-{release}")
    for path, modules in sorted(contents.binaries.items()):
        of = owner("application", path, "", {"Class": "lang-pkgs", "Type": "gobinary"})
        for package in modules:
            library(package, of, "gobinary")
    short = repository.rpartition("/")[2]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": now.strftime("%Y-%m-%dT%H:%M:%S+00:00"),
            "tools": {
                "components": [
                    {
                        "type": "application",
                        "group": "honeydue-rehearsal",
                        "name": "trivy-standin",
                        "version": VERSION,
                    }
                ]
            },
            "component": {
                "bom-ref": root,
                "type": "container",
                "name": image.name,
                "purl": f"pkg:oci/{short}@{quote(image.digest, safe='')}"
                f"?arch={image.architecture}&repository_url={quote(repository, safe='')}",
                "properties": [
                    *_properties(
                        {
                            "SchemaVersion": "2",
                            "ImageID": image.config_digest,
                            "RepoDigest": f"{repository}@{image.digest}",
                        }
                    ),
                    *(p for diff in image.diff_ids for p in _properties({"DiffID": diff})),
                ],
            },
        },
        "components": components,
        "dependencies": [
            {"ref": ref, "dependsOn": sorted(set(on))} for ref, on in dependencies.items()
        ],
        "vulnerabilities": [],
    }


def _properties(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": f"aquasecurity:trivy:{k}", "value": v} for k, v in sorted(values.items())]


# --- vulnerabilities ---------------------------------------------------------------------------


class Database:
    """`<cache>/db/metadata.json`, as Trivy has it, and advisories.json instead of trivy.db."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        chosen = environment.get("TRIVY_CACHE_DIR")
        self._folder = (Path(chosen) if chosen else own_cache()) / "db"
        self._source = Path(environment.get("TRIVY_DB_REPOSITORY") or ADVISORIES)

    def metadata(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self._folder / "metadata.json").read_text())
            return found
        except (OSError, ValueError):
            return None

    def download(self) -> None:
        try:
            text = self._source.read_text()
            content = json.loads(text)
        except (OSError, ValueError):
            raise Fatal(
                "init error: DB error: failed to download vulnerability DB: OCI artifact error: "
                f"failed to download vulnerability DB from {self._source}"
            ) from None
        now = datetime.now(UTC)
        made = content.get("UpdatedAt") or _go_time(now)
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "advisories.json").write_text(text)
        metadata = {
            "Version": 2,
            "UpdatedAt": made,
            "NextUpdate": _go_time(datetime.fromisoformat(made) + timedelta(hours=6)),
            "DownloadedAt": _go_time(now),
        }
        (self._folder / "metadata.json").write_text(json.dumps(metadata))

    def read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self._folder / "advisories.json").read_text())
            return found
        except (OSError, ValueError):
            raise Fatal(
                "init error: DB error: database error: --skip-db-update cannot be specified on "
                "the first run"
            ) from None


def report(
    document: Mapping[str, Any],
    name: str,
    knowledge: Mapping[str, Any],
    ignored: Sequence[Mapping[str, Any]],
    now: datetime,
) -> dict[str, Any]:
    """Matches the packages of a CycloneDX document; Trivy's JSON with --show-suppressed."""
    components = {component["bom-ref"]: component for component in document["components"]}
    depends = {entry["ref"]: entry["dependsOn"] for entry in document["dependencies"]}
    results, system = [], {}
    for ref, owner in components.items():
        if owner["type"] == "library":
            continue
        said = {p["name"].rpartition(":")[2]: p["value"] for p in owner["properties"]}
        target = owner["name"]
        if owner["type"] == "operating-system":
            full = f"{owner['name']} {owner['version']}"
            system = {"OS": {"Family": owner["name"], "Name": owner["version"]}}
            if any(re.match(re.escape(end) + r"(\.|$)", full) for end in knowledge["end_of_life"]):
                system["OS"]["EOSL"] = True
            target = f"{name} ({full})"
        packages = [components[on] for on in depends.get(ref, ())]
        found = [v for package in packages for v in _known(package, knowledge["advisories"])]
        kept, modified = [], []
        for one in found:
            entry = _match(one, target, ignored)
            if entry is None:
                kept.append(one)
            else:
                modified.append(
                    {
                        "Type": "vulnerability",
                        "Status": "ignored",
                        "Statement": entry.get("statement", ""),
                        "Source": "ignore.yaml",
                        "Finding": one,
                    }
                )
        results.append(
            {
                "Target": target,
                "Class": said["Class"],
                "Type": said["Type"],
                **({"Vulnerabilities": kept} if kept else {}),
                **({"ExperimentalModifiedFindings": modified} if modified else {}),
            }
        )
    return {
        "SchemaVersion": 2,
        "CreatedAt": _go_time(now),
        "ArtifactName": name,
        "ArtifactType": "cyclonedx",
        "Metadata": system,
        "Results": results,
    }


def _known(
    package: Mapping[str, Any], advisories: Sequence[Mapping[str, str]]
) -> Iterator[dict[str, Any]]:
    version = package.get("version", "")
    for advisory in advisories:
        fixed = advisory["fixed"]
        if advisory["package"] != package["name"] or not version:
            continue
        if fixed and _numbers(version) >= _numbers(fixed):
            continue
        yield {
            "VulnerabilityID": advisory["id"],
            "PkgID": f"{package['name']}@{version}",
            "PkgName": package["name"],
            "PkgIdentifier": {"PURL": package["purl"], "BOMRef": package["bom-ref"]},
            "InstalledVersion": version,
            **({"FixedVersion": fixed} if fixed else {}),
            "Status": "fixed" if fixed else "affected",
            "Severity": advisory["severity"],
            "Title": advisory["title"],
        }


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _match(
    found: Mapping[str, Any], target: str, ignored: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    for entry in ignored:
        paths, purls = entry.get("paths") or (), entry.get("purls") or ()
        if entry["id"] != found["VulnerabilityID"]:
            continue
        if paths and not any(fnmatch.fnmatchcase(target, pattern) for pattern in paths):
            continue
        purl = found["PkgIdentifier"]["PURL"]
        if not purls or any(purl == p or purl.startswith(f"{p}@") for p in purls):
            return entry
    return None


def read_ignored(path: Path, now: datetime) -> list[dict[str, Any]]:
    """The entries of a .trivyignore.yaml that are not expired; no file, no entries."""
    if not path.exists():
        return []
    if path.suffix not in {".yaml", ".yml"}:
        raise Fatal(f"the stand-in reads ignore files in YAML only, not {path.name}")
    import yaml  # noqa: PLC0415 - as above

    entries = (yaml.safe_load(path.read_text()) or {}).get("vulnerabilities") or []
    return [entry for entry in entries if not _expired(entry.get("expired_at"), now)]


def _expired(at: date | None, now: datetime) -> bool:
    if at is None:
        return False
    moment = at if isinstance(at, datetime) else datetime(at.year, at.month, at.day, tzinfo=UTC)
    return moment < now


def _go_time(moment: datetime) -> str:
    """As Go writes a time: with nanoseconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


# --- the command line --------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Fatal(message.replace("unrecognized arguments:", "unknown flag:"))


def _parser() -> _Parser:
    parser = _Parser(prog="trivy", add_help=False, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    version = commands.add_parser("version", add_help=False, allow_abbrev=False)
    version.add_argument("--format", choices=["json"], required=True)
    image = commands.add_parser("image", add_help=False, allow_abbrev=False)
    image.add_argument("--download-db-only", action="store_true")
    image.add_argument("--format", choices=["cyclonedx"])
    image.add_argument("--output")
    image.add_argument("--image-src", choices=["remote"])
    image.add_argument("--cache-backend", choices=["memory"])
    image.add_argument("--no-progress", action="store_true")
    image.add_argument("name", nargs="?")
    sbom = commands.add_parser("sbom", add_help=False, allow_abbrev=False)
    sbom.add_argument("--format", choices=["json"], required=True)
    sbom.add_argument("--output", required=True)
    sbom.add_argument("--scanners", choices=["vuln"])
    sbom.add_argument("--skip-db-update", action="store_true")
    sbom.add_argument("--show-suppressed", action="store_true", required=True)
    sbom.add_argument("--ignorefile", default=".trivyignore")
    sbom.add_argument("path")
    return parser


def _yes(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").lower() in {"1", "t", "true"}


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """What one call prints. Fatal."""
    asked = _parser().parse_args(arguments)
    database, now = Database(environment), datetime.now(UTC)
    if asked.command == "version":
        return json.dumps({"Version": VERSION, "VulnerabilityDB": database.metadata()})
    if asked.command == "sbom":
        if not asked.skip_db_update:
            database.download()
        document = json.loads(Path(asked.path).read_text())
        ignored = read_ignored(Path(asked.ignorefile), now)
        made = report(document, asked.path, database.read(), ignored, now)
        Path(asked.output).write_text(json.dumps(made, indent=2))
    elif asked.download_db_only:
        database.download()
    else:
        if asked.name is None or asked.format is None or asked.output is None:
            raise Fatal("the stand-in needs --format cyclonedx, --output and an image")
        if asked.image_src is None:
            raise Fatal("the stand-in reads from registries only: --image-src remote")
        image = pull(asked.name, environment)
        Path(asked.output).write_text(json.dumps(bom(image, now), indent=2))
    return ""


def own_cache() -> Path:
    """Never that of a real Trivy."""
    return cache_folder() / "trivy-standin"


def launcher(folder: Path, cache: Path) -> Path:
    """Writes `<folder>/trivy`, which runs the stand-in; a PATH with `folder` in it finds it.

    `cache`: its cache directory unless TRIVY_CACHE_DIR is set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "trivy"
    repository = Path(__file__).resolve().parents[2]
    script.write_text(
        "#!/bin/sh\n"
        f'export TRIVY_CACHE_DIR="${{TRIVY_CACHE_DIR:-{cache}}}"\n'
        f'export PYTHONPATH="{repository}"\n'
        f'exec "{sys.executable}" -m rehearsal.registry.trivy_standin "$@"\n'
    )
    script.chmod(0o755)
    return script


def main() -> int:
    try:
        print(run(sys.argv[1:], os.environ), end="")
    except Exception as error:  # a damaged layer, a hand-written advisory: whatever it is, say so
        said = error if isinstance(error, Fatal) else f"{type(error).__name__}: {error}"
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        print(f"{now}\tFATAL\tFatal error\t{said}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
