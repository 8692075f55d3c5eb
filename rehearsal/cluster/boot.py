"""What a machine's user_data means: cloud-config → files → K3s's configuration → checked.

Pure but for `write_disk` and the reads of `Disk`. The rehearsal runs no script of the cloud-config
(no node is a real Linux here): it writes the files, and `node.py` does what K3s and the boot
script would do with them. What it cannot vouch for it refuses: an unknown key of the cloud-config,
of `write_files` or of K3s is a node that never comes up, with the cause on its console.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import ipaddress
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any, Final

import yaml
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from rehearsal.cluster import k3s_flags

CONFIG: Final = "/etc/rancher/k3s/config.yaml"
DROP_INS: Final = "/etc/rancher/k3s/config.yaml.d"
JOIN_DROP_IN: Final = f"{DROP_INS}/20-join.yaml"
NODE_PASSWORD: Final = "/etc/rancher/node/password"
TLS: Final = "/var/lib/rancher/k3s/server/tls"
CERTIFICATE_AUTHORITIES: Final = (
    "server-ca",
    "client-ca",
    "request-header-ca",
    "etcd/peer-ca",
    "etcd/server-ca",
)


class BootError(Exception):
    """Why this node can never come up as it is; fit for its console, holds no secret."""


# --- cloud-config ----------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """One entry of write_files, decoded."""

    path: str
    content: bytes
    mode: int
    owner: str
    append: bool = False


@dataclass(frozen=True)
class CloudConfig:
    files: tuple[File, ...]
    commands: tuple[str, ...]
    """bootcmd and runcmd as text: not run, only looked at (does anything start K3s?)."""


def parse_user_data(user_data: str) -> CloudConfig:
    """Raises BootError where cloud-init would fail, ignore, or only warn."""
    first = user_data.split("\n", 1)[0].strip()
    if first != "#cloud-config":
        raise BootError(
            f"user_data: its first line is {first[:40]!r}, cloud-init wants '#cloud-config'"
            " (it ignores anything else in silence)"
        )
    try:
        document = yaml.safe_load(user_data)
    except yaml.YAMLError as error:
        raise BootError(f"user_data is not YAML: {_yaml_place(error)}") from None
    if document is None:
        return CloudConfig((), ())
    if not isinstance(document, dict):
        raise BootError("user_data: a cloud-config is a mapping")
    for key in document:
        if key not in k3s_flags.CLOUD_CONFIG_KEYS:
            raise BootError(
                f"user_data: cloud-config has no key {str(key)!r}"
                + _did_you_mean(str(key), k3s_flags.CLOUD_CONFIG_KEYS)
            )
    entries = document.get("write_files") or []
    if not isinstance(entries, list):
        raise BootError("user_data: write_files is a list")
    files = tuple(_file(entry, f"write_files[{index}]") for index, entry in enumerate(entries))
    return CloudConfig(files, _commands(document))


def _yaml_place(error: yaml.YAMLError) -> str:
    """The place and the problem, never the text: the line may hold a secret."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "cannot be read"
    return f"line {mark.line + 1}: {problem}" if mark else str(problem)


def _did_you_mean(word: str, known: Sequence[str] | frozenset[str]) -> str:
    near = get_close_matches(word, sorted(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _file(entry: object, place: str) -> File:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise BootError(f"user_data: {place} needs a path")
    path = entry["path"]
    place = f"{place} ({path})"
    for key in entry:
        if key not in k3s_flags.WRITE_FILES_KEYS:
            raise BootError(
                f"user_data: {place} has no key {str(key)!r}"
                + _did_you_mean(str(key), k3s_flags.WRITE_FILES_KEYS)
            )
    if not path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise BootError(f"user_data: {place}: the path must be absolute and plain")
    if entry.get("source"):
        raise BootError(f"user_data: {place}: `source` fetches from elsewhere; give `content`")
    content = entry.get("content", "")
    if not isinstance(content, str | bytes):
        raise BootError(f"user_data: {place}: content must be text (a number needs quotes)")
    raw = content.encode() if isinstance(content, str) else content
    return File(
        path,
        _decode(raw, str(entry.get("encoding") or "text/plain").lower().strip(), place),
        _mode(entry.get("permissions", "0644"), place),
        str(entry.get("owner") or "root:root"),
        bool(entry.get("append", False)),
    )


def _decode(raw: bytes, encoding: str, place: str) -> bytes:
    """cloud-init's encodings: text/plain, b64/base64, gz/gzip, gz+b64 and its other spellings."""
    known = {"text/plain": "", "b64": "b", "base64": "b", "gz": "g", "gzip": "g"} | {
        f"{gz}+{b64}": "bg" for gz in ("gz", "gzip") for b64 in ("b64", "base64")
    }
    if encoding not in known:
        raise BootError(f"user_data: {place}: unknown encoding {encoding!r}")
    try:
        if "b" in known[encoding]:
            raw = base64.b64decode(raw, validate=False)
        return gzip.decompress(raw) if "g" in known[encoding] else raw
    except (binascii.Error, OSError, EOFError, zlib.error):
        raise BootError(f"user_data: {place}: its content is not {encoding}") from None


def _mode(value: object, place: str) -> int:
    """As cloud-init: a string is octal; a number is taken as it is (YAML reads 0600 as 384)."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise BootError(f"user_data: {place}: permissions must be like '0600'")
    try:
        mode = value if isinstance(value, int) else int(value, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise BootError(f"user_data: {place}: permissions {value!r} are not an octal mode")
    return mode


def _commands(document: Mapping[str, Any]) -> tuple[str, ...]:
    commands: list[str] = []
    for key in ("bootcmd", "runcmd"):
        entries = document.get(key) or []
        if not isinstance(entries, list):
            raise BootError(f"user_data: {key} is a list")
        for index, entry in enumerate(entries):
            if isinstance(entry, list) and all(isinstance(word, str | int) for word in entry):
                commands.append(" ".join(str(word) for word in entry))
            elif isinstance(entry, str):
                commands.append(entry)
            else:
                # Unquoted `- echo a: b` is a mapping in YAML; cloud-init then runs none of them.
                raise BootError(f"user_data: {key}[{index}] is neither text nor a list of words")
    return tuple(commands)


# --- the disk --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disk:
    """A node's file system: paths as the node sees them, under a folder of this machine."""

    root: Path

    def path(self, inside: str) -> Path:
        return self.root / inside.lstrip("/")

    def exists(self, inside: str) -> bool:
        return self.path(inside).is_file()

    def read(self, inside: str) -> bytes:
        """Raises BootError naming the missing file."""
        try:
            return self.path(inside).read_bytes()
        except OSError as error:
            raise BootError(f"{inside}: {error.strerror or error}") from None

    def write(self, inside: str, content: bytes, mode: int = 0o644, append: bool = False) -> None:
        target = self.path(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(mode=0o600)
        with target.open("ab" if append else "wb") as out:
            out.write(content)
        target.chmod(mode | 0o400)  # we are not root: what we cannot read we cannot run


def write_disk(disk: Disk, config: CloudConfig) -> None:
    for file in config.files:
        disk.write(file.path, file.content, file.mode, file.append)


# --- K3s's configuration ---------------------------------------------------------------------


def merge_config(documents: Sequence[tuple[str, object]]) -> dict[str, Any]:
    """K3s's rule for config.yaml and then config.yaml.d/*.yaml in alphabetical order: a later
    value replaces an earlier one, `key+` appends to it. Raises BootError on an unknown key.

    `documents`: (file name, parsed YAML). Source: docs.k3s.io/installation/configuration.
    """
    merged: dict[str, Any] = {}
    for name, document in documents:
        if document is None:
            continue
        if not isinstance(document, dict):
            raise BootError(f"{name}: K3s wants a mapping of its flags")
        for written, value in document.items():
            appended = isinstance(written, str) and written.endswith("+")
            key = str(written).removesuffix("+").lstrip("-")
            key = k3s_flags.SHORT.get(key, key)
            if key not in k3s_flags.KNOWN:
                raise BootError(
                    f"{name}: K3s v1.34 has no flag {key!r}" + _did_you_mean(key, k3s_flags.KNOWN)
                )
            if appended:
                merged[key] = [*_listed(merged.get(key)), *_listed(value)]
            else:
                merged[key] = value
    for key, value in merged.items():
        _check_kind(key, value)
    return merged


def _check_kind(key: str, value: object) -> None:
    if key in k3s_flags.SWITCHES and not (
        isinstance(value, bool) or str(value).lower() in ("true", "false")
    ):
        raise BootError(f"{CONFIG}: {key} is true or false")
    if key in k3s_flags.VALUES and isinstance(value, list | dict):
        raise BootError(f"{CONFIG}: {key} takes one value")
    if isinstance(value, dict):
        raise BootError(f"{CONFIG}: {key} is not a mapping")


def _listed(value: object) -> list[str]:
    if value is None:
        return []
    if isinstance(value, list):
        return [str(item) for item in value]
    return [str(value)]


def _split(value: object) -> list[str]:
    """List flags of addresses and names may also be one string with commas."""
    return [part.strip() for item in _listed(value) for part in item.split(",") if part.strip()]


def read_config(disk: Disk) -> dict[str, Any]:
    """config.yaml and its drop-ins from a node's disk."""
    names = [CONFIG] if disk.exists(CONFIG) else []
    folder = disk.path(DROP_INS)
    if folder.is_dir():
        names += [f"{DROP_INS}/{f.name}" for f in sorted(folder.glob("*.yaml")) if f.is_file()]
    documents: list[tuple[str, object]] = []
    for name in names:
        try:
            documents.append((name, yaml.safe_load(disk.read(name))))
        except yaml.YAMLError as error:
            raise BootError(f"{name} is not YAML: {_yaml_place(error)}") from None
    return merge_config(documents)


@dataclass(frozen=True)
class Token:
    """`K10<ca hash>::<user>:<password>`, or the short form that is only a password."""

    password: str = field(repr=False)
    ca_hash: str | None = None


def parse_token(text: str) -> Token:
    """Source of the format: k3s-io/k3s pkg/clientaccess/token.go."""
    text = text.strip()
    if not text:
        raise BootError(f"{CONFIG}: token is empty")
    if not text.startswith("K10"):
        return Token(text)
    match = re.fullmatch(r"K10([0-9a-f]{64})::([^:]+):(.+)", text, re.DOTALL)
    if match is None:
        raise BootError(f"{CONFIG}: token is not of the form K10<64 hex digits>::server:<password>")
    if match[2] != "server":
        raise BootError(f"{CONFIG}: token is for {match[2]!r}, a server needs ::server:")
    return Token(match[3], match[1])


@dataclass(frozen=True)
class ServerConfig:
    """K3s's configuration, as far as the rehearsal plays it."""

    node_name: str
    node_ip: str
    external_ip: str | None
    tls_sans: tuple[str, ...]
    token: Token
    cluster_init: bool
    cluster_cidr: str
    service_cidr: str
    cluster_domain: str
    node_ports: str
    secrets_encryption: bool
    encryption_provider: str
    disable: frozenset[str]
    node_labels: tuple[str, ...]
    node_taints: tuple[str, ...]
    protect_kernel_defaults: bool
    kubelet: Mapping[str, str]
    """kubelet-args, flag → value."""
    arguments: Mapping[str, tuple[str, ...]]
    """`kube-apiserver`, `etcd`, … → extra `flag=value` arguments."""
    critical: Mapping[str, str]
    """What must be equal on all servers (docs.k3s.io/cli/server, critical configuration)."""

    def service_ip(self) -> str:
        """The `kubernetes` service: the first address of the service network."""
        return str(ipaddress.ip_network(self.service_cidr)[1])


_CRITICAL: Final = (
    "cluster-cidr",
    "service-cidr",
    "cluster-dns",
    "cluster-domain",
    "disable-cloud-controller",
    "disable-helm-controller",
    "disable-network-policy",
    "egress-selector-mode",
    "embedded-registry",
    "flannel-backend",
    "flannel-external-ip",
    "flannel-ipv6-masq",
    "secrets-encryption",
    "secrets-encryption-provider",
)


def server_config(merged: Mapping[str, Any], disk: Disk, hostname: str) -> ServerConfig:
    """Types and cross-checks that K3s makes at its start. Raises BootError."""

    def on(key: str) -> bool:
        return str(merged.get(key, False)).lower() == "true"

    def network(key: str, default: str) -> str:
        given = (_split(merged.get(key)) or [default])[0]
        try:
            return str(ipaddress.ip_network(given))
        except ValueError as error:
            raise BootError(f"{CONFIG}: {key}: {error}") from None

    def one_address(key: str) -> str | None:
        for given in _split(merged.get(key)):
            try:
                if ipaddress.ip_address(given).version == 4:
                    return given
            except ValueError as error:
                raise BootError(f"{CONFIG}: {key}: {error}") from None
        return None

    token_text = merged.get("token")
    if token_text is None and merged.get("token-file"):
        token_text = disk.read(str(merged["token-file"])).decode(errors="replace")
    if token_text is None:
        raise BootError(f"{CONFIG}: no token: servers could not join each other")
    disabled = frozenset(_split(merged.get("disable")))
    for item in sorted(disabled - k3s_flags.DISABLE_ITEMS):
        raise BootError(
            f"{CONFIG}: disable: K3s has no component {item!r}"
            + _did_you_mean(item, k3s_flags.DISABLE_ITEMS)
        )
    for unsupported in ("datastore-endpoint", "cluster-reset", "disable-etcd", "disable-apiserver"):
        if merged.get(unsupported):
            raise BootError(f"{CONFIG}: {unsupported}: the rehearsal knows embedded etcd only")
    node_ip = one_address("node-ip")
    if node_ip is None:
        raise BootError(f"{CONFIG}: no node-ip: K3s would take the public address")
    kubelet = dict(
        argument.lstrip("-").split("=", 1)
        for argument in _listed(merged.get("kubelet-arg"))
        if "=" in argument
    )
    return ServerConfig(
        node_name=str(merged.get("node-name") or hostname),
        node_ip=node_ip,
        external_ip=one_address("node-external-ip"),
        tls_sans=tuple(_split(merged.get("tls-san"))),
        token=parse_token(str(token_text)),
        cluster_init=on("cluster-init"),
        cluster_cidr=network("cluster-cidr", "10.42.0.0/16"),
        service_cidr=network("service-cidr", "10.43.0.0/16"),
        cluster_domain=str(merged.get("cluster-domain") or "cluster.local"),
        node_ports=str(merged.get("service-node-port-range") or "30000-32767"),
        secrets_encryption=on("secrets-encryption"),
        encryption_provider=str(merged.get("secrets-encryption-provider") or "aescbc"),
        disable=disabled,
        node_labels=tuple(_listed(merged.get("node-label"))),
        node_taints=tuple(_listed(merged.get("node-taint"))),
        protect_kernel_defaults=on("protect-kernel-defaults"),
        kubelet=kubelet,
        arguments={
            name: tuple(argument.lstrip("-") for argument in _listed(merged.get(f"{name}-arg")))
            for name in ("kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler")
        },
        critical={
            key: "" if merged.get(key) is None else str(merged[key]).lower() for key in _CRITICAL
        },
    )


# --- checks ----------------------------------------------------------------------------------


def check_pki(disk: Disk, token: Token) -> None:
    """The CAs that K3s must find before its first start, complete and each with its own key."""
    for name in CERTIFICATE_AUTHORITIES:
        crt, key = f"{TLS}/{name}.crt", f"{TLS}/{name}.key"
        chain = _certificates(disk.read(crt), crt)
        ca = chain[0]
        private = _private_key(disk.read(key), key)
        if _public(private) != _public(ca):
            raise BootError(f"{key} is not the key of {name}.crt")
        try:
            constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
        except x509.ExtensionNotFound:
            constraints = None
        if constraints is None or not constraints.ca:
            raise BootError(f"{crt} is not a certificate authority (basicConstraints CA:TRUE)")
        for child, parent in zip(chain, [*chain[1:], chain[-1]], strict=True):
            try:
                child.verify_directly_issued_by(parent)
            except (ValueError, TypeError, InvalidSignature):
                raise BootError(f"{crt} does not chain up to a self-signed root") from None
    _private_key(disk.read(f"{TLS}/service.key"), f"{TLS}/service.key")
    content = disk.read(f"{TLS}/server-ca.crt")
    if token.ca_hash and len(_certificates(content, f"{TLS}/server-ca.crt")) > 1:
        raise BootError(f"{TLS}/server-ca.crt: the rehearsal knows a single self-signed CA only")
    if token.ca_hash and token.ca_hash != hashlib.sha256(content).hexdigest():
        raise BootError(
            f"{CONFIG}: the token's CA hash is not the sha256 of {TLS}/server-ca.crt:"
            " every joining node would refuse this cluster's certificate"
        )


def _certificates(pem: bytes, name: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise BootError(f"{name} holds no certificate") from None


def _private_key(pem: bytes, name: str) -> Any:
    try:
        return load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        raise BootError(f"{name} holds no private key") from None


def _public(holder: Any) -> bytes:
    key = holder.public_key()
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def check_addresses(config: ServerConfig, private: str, public: str | None) -> None:
    """The configuration was written before the machine was: do its addresses fit?"""
    if config.node_ip != private:
        raise BootError(
            f"{CONFIG}: node-ip is {config.node_ip}, this machine's private address is {private}"
        )
    if public is not None and config.external_ip not in (None, public):
        raise BootError(
            f"{CONFIG}: node-external-ip is {config.external_ip},"
            f" this machine's public address is {public}"
        )
    for wanted in filter(None, (private, public)):
        if wanted not in config.tls_sans:
            raise BootError(
                f"{CONFIG}: tls-san lacks {wanted}: clients on that address would refuse the"
                " API server's certificate"
            )


_FILE_ARGUMENTS: Final = (
    "audit-policy-file",
    "admission-control-config-file",
    "audit-webhook-config-file",
    "authentication-config",
    "authorization-config",
)


def check_argument_files(config: ServerConfig, disk: Disk) -> None:
    """Files that an API server argument names must be there when it starts."""
    for argument in config.arguments["kube-apiserver"]:
        flag, _, value = argument.partition("=")
        if flag in _FILE_ARGUMENTS and not disk.exists(value):
            raise BootError(f"{CONFIG}: kube-apiserver-arg {flag}={value}: no such file")


KERNEL_DEFAULTS: Final = {
    "vm.overcommit_memory": "1",
    "vm.panic_on_oom": "0",
    "kernel.panic": "10",
    "kernel.panic_on_oops": "1",
    "kernel.keys.root_maxkeys": "1000000",
    "kernel.keys.root_maxbytes": "25000000",
}
"""What a kubelet with protect-kernel-defaults insists on (kubernetes pkg/util/sysctl)."""


def check_kernel(config: ServerConfig, disk: Disk) -> None:
    """With protect-kernel-defaults the kubelet stops where a sysctl is not as it wants it."""
    if not config.protect_kernel_defaults:
        return
    given: dict[str, str] = {}
    for file in sorted(disk.path("/etc/sysctl.d").glob("*.conf")):
        for line in file.read_text(errors="replace").splitlines():
            key, assigned, value = line.partition("=")
            if assigned and not line.lstrip().startswith(("#", ";")):
                given[key.strip().lstrip("-").replace("/", ".")] = value.strip()
    for key, wanted in KERNEL_DEFAULTS.items():
        # Ubuntu's own value is right for panic_on_oom only.
        if given.get(key, "0") != wanted:
            raise BootError(
                f"{CONFIG}: protect-kernel-defaults: invalid kernel flag: {key}, expected value:"
                f" {wanted}, actual value: {given.get(key, 'not set')}; set it in"
                " /etc/sysctl.d/90-kubelet.conf before K3s starts"
            )


def starts_k3s(config: CloudConfig) -> bool:
    """Whether any command (or a script or unit that it wrote) has to do with starting K3s."""
    texts = [command.encode() for command in config.commands]
    texts += [f.content for f in config.files if not f.path.startswith("/etc/rancher/")]
    return bool(config.commands) and any(b"k3s" in text for text in texts)
