"""An image on a node: pulled from its registry with the pod's own secrets, verified, and unpacked.

Each node pulls for itself (a wrong secret is found on every node); the files are unpacked once for
all. Errors are in containerd's words, since kubelet passes them on and operators search for them
(containerd core/remotes/docker: resolver.go, authorizer.go, fetcher.go).
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, cast

from rehearsal.kubelet.container import PullFailed
from rehearsal.registry.distribution import Reference, Registry, RegistryError, is_loopback
from rehearsal.registry.pull import PLATFORM, PullError, credentials

Json = dict[str, Any]

_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_UNPACKING: Final = threading.Lock()  # three nodes that pull the same image unpack it once


class Images:
    """One node's. `folder`: what this node has, by digest; `unpacked`: the files, for all nodes."""

    def __init__(self, folder: Path, unpacked: Path) -> None:
        self._folder = folder
        self._unpacked = unpacked

    def present(self, image: str) -> bool:
        return self._note(image).is_file() and self.root(image).is_dir()

    def root(self, image: str) -> Path:
        return self._unpacked / image.rpartition(":")[2]

    def configuration(self, image: str) -> Json:
        """The image's `config`: Entrypoint, Cmd, Env, WorkingDir."""
        found: Json = json.loads(self._note(image).read_text())
        return found

    def pull(self, image: str, docker_config: Mapping[str, Any]) -> str:
        """Returns kubelet's word for it. Raises PullFailed."""
        began = time.monotonic()
        try:
            reference = Reference.parse(image)
            user, password = credentials(docker_config, reference)
        except ValueError:
            raise PullFailed(f"couldn't parse image name {image!r}: invalid reference") from None
        except PullError:
            user, password = "", ""  # as a kubelet: anonymously
        try:
            with Registry(reference, user, password) as registry:
                size = self._pull(registry, image, reference)
        except RegistryError as error:
            code, said = _in_containerds_words(error, reference, anonymous=not password)
            raise PullFailed(
                f'rpc error: code = {code} desc = failed to pull and unpack image "{image}": {said}'
            ) from None
        took = time.monotonic() - began
        took_said = f"{took:.3f}s" if took >= 1 else f"{took * 1000:.0f}ms"
        return (
            f'Successfully pulled image "{image}" in {took_said} ({took_said} including waiting). '
            f"Image size: {size} bytes."
        )

    def _note(self, image: str) -> Path:
        return self._folder / f"{image.rpartition(':')[2]}.json"

    def _pull(self, registry: Registry, image: str, reference: Reference) -> int:
        """The bytes that its layers have."""
        manifest = self._manifest(registry, reference.digest, image)
        if "manifests" in manifest:
            fits = (
                child["digest"]
                for child in manifest["manifests"]
                if (child["platform"].get("os"), child["platform"].get("architecture")) == PLATFORM
            )
            digest = next(fits, None)
            if digest is None:
                raise PullFailed(
                    f"rpc error: code = NotFound desc = failed to pull and unpack image "
                    f'"{image}": no match for platform in manifest: not found'
                )
            manifest = self._manifest(registry, digest, image)
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            blobs = Path(scratch)
            config = json.loads(_blob(registry, manifest["config"]["digest"], blobs).read_bytes())
            layers = [_blob(registry, layer["digest"], blobs) for layer in manifest["layers"]]
            with _UNPACKING:
                if not self.root(image).is_dir():
                    unpack(layers, self.root(image))
        self._note(image).write_text(json.dumps(config.get("config") or {}))
        return sum(int(layer["size"]) for layer in manifest["layers"])

    @staticmethod
    def _manifest(registry: Registry, digest: str, image: str) -> Json:
        answer = registry.manifest(digest)
        if answer.digest != digest:
            raise PullFailed(f"{image}: unexpected digest {answer.digest}, expected {digest}")
        found: Json = json.loads(answer.body)
        return found


def _blob(registry: Registry, digest: str, folder: Path) -> Path:
    """A file with its verified bytes. Raises PullFailed."""
    hash_ = hashlib.sha256()
    file = folder / digest.rpartition(":")[2]
    with file.open("wb") as out:
        for piece in registry.blob(digest):
            hash_.update(piece)
            out.write(piece)
    got = f"sha256:{hash_.hexdigest()}"
    if got != digest:
        raise PullFailed(
            "rpc error: code = FailedPrecondition desc = failed commit on ref "
            f'"layer-{digest}": unexpected commit digest {got}, expected {digest}: failed '
            "precondition"
        )
    return file


def _in_containerds_words(
    error: RegistryError, image: Reference, *, anonymous: bool
) -> tuple[str, str]:
    """gRPC's code, and what stands after `failed to pull and unpack image "…": `."""
    whole = f"{image.server}/{image.repository}@{image.digest}"
    scheme = "http" if is_loopback(image.server) else "https"
    url = f"{scheme}://{image.server}/v2/{image.repository}/manifests/{image.digest}"
    resolving = f'failed to resolve reference "{whole}": '
    if error.missing and "blobs/" in str(error):
        return "NotFound", f"failed to copy: httpReadSeeker: failed open: {error}: not found"
    if error.missing:
        return "NotFound", f"{resolving}{whole}: not found"
    if error.refused:
        whose = "anonymous" if anonymous else "oauth"
        status = f"{error.status} {HTTPStatus(error.status or 401).phrase}"
        return "Unknown", (
            f"{resolving}failed to authorize: failed to fetch {whose} token: unexpected status "
            f"from GET request to {scheme}://{image.server}/v2/token: {status}"
        )
    if error.status is not None:
        return "Unknown", f"{resolving}unexpected status from HEAD request to {url}: {error.status}"
    cause = str(error).rpartition(": ")[2]
    if "refused" in cause:
        cause = f"dial tcp {image.server}: connect: connection refused"
    elif "timed out" in cause:
        cause = f"dial tcp {image.server}: i/o timeout"
    return "Unknown", f'{resolving}failed to do request: Head "{url}": {cause}'


# --- unpacking ----------------------------------------------------------------------------------


def unpack(layers: list[Path], root: Path) -> None:
    """The layers one above the other, whole or not at all. Owners are ours; devices are left out;
    nothing is written outside of `root`, whatever a layer says."""
    root.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name[:12]}-"))
    try:
        for layer in layers:
            with _decompressed(layer) as data, tarfile.open(fileobj=data, mode="r|") as archive:
                for member in archive:
                    _extract(archive, member, fresh)
        fresh.chmod(0o755)
        fresh.rename(root)
    except (OSError, tarfile.TarError, ValueError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise PullFailed(
            f"rpc error: code = Unknown desc = failed to extract layer: {error}"
        ) from None


def _decompressed(layer: Path) -> IO[bytes]:
    with layer.open("rb") as file:
        magic = file.read(4)
    if magic[:2] == b"\x1f\x8b":
        return cast("IO[bytes]", gzip.open(layer, "rb"))
    if magic == b"\x28\xb5\x2f\xfd":
        raise ValueError("zstd: the rehearsal unpacks gzip and plain layers only")
    return layer.open("rb")


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    path = PurePosixPath("/", member.name)
    if path.name.startswith(_WHITEOUT):
        parent = _inside(root, path.parent)
        if path.name == _OPAQUE:
            for child in parent.iterdir() if parent.is_dir() else ():
                _remove(child)
        else:
            _remove(parent / path.name.removeprefix(_WHITEOUT))
        return
    if member.issym() and member.linkname.startswith("/"):
        # `/` is the image's: a relative link stays within it wherever it is unpacked.
        member.linkname = os.path.relpath(member.linkname, path.parent)
    with contextlib.suppress(tarfile.SpecialFileError):
        archive.extract(member, root, set_attrs=True, filter=_ours)


def _ours(member: tarfile.TarInfo, root: str) -> tarfile.TarInfo | None:
    if member.isdev():
        return None
    mode = member.mode | (0o700 if member.isdir() else 0o400)  # we are not root everywhere
    return tarfile.tar_filter(member, root).replace(
        uid=0, gid=0, uname="", gname="", mode=mode & 0o755, deep=False
    )


def _inside(root: Path, path: PurePosixPath) -> Path:
    found = (root / path.relative_to("/")).resolve()
    if not found.is_relative_to(root.resolve()):
        raise ValueError(f"{path} leads out of the image")
    return found


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
