"""Signatures that travel with an image, as cosign writes and reads them; here without cosign.

Beside an image `…@sha256:<hex>` stands the tag `sha256-<hex>.sig`: a manifest with one layer for
each signature. A layer is a small JSON text that names repository and digest ("simple signing"),
and the signature of exactly these bytes (ECDSA on P-256 over SHA-256) stands in its annotation.
`sha256-<hex>.att` is the same for attestations (honeydue/images/attestations.py). No transparency
log: whoever holds the operator's key vouches. Sources: cosign v2.6, specs/SIGNATURE_SPEC.md,
pkg/oci/static, pkg/cosign/verify.go.

A signature also names the tag (the commit) that the image was pushed under, in `optional.tag`, and
`verify` insists on it: otherwise an old image with its old, valid signature could be pushed again
under a new tag. cosign does the same with `-a tag=<tag>`.

The pair is made once, and the private half never stands on the disk in clear, on a screen or on a
command line:

    python -m honeydue.images.signing generate |
      pulumi config set -s prod --secret --path honeydue:signing.privateKey
    pulumi config get -s prod --path honeydue:signing.privateKey |
      python -m honeydue.images.signing public |
      pulumi config set -s prod --path honeydue:signing.publicKey

So the private key exists in the stack's encrypted configuration only, the public one is made from
what is really stored there, and the stack's passphrase protects both; a second password would add
nothing (`signing.password` is for a pair that `cosign generate-key-pair` made). A lost passphrase
costs a new pair and a new signature on the images in use, no more.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, TextIO

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from honeydue.images import keys
from honeydue.images.registry import DIGEST, OCI_MANIFEST, Registry, RegistryError, digest_of

PAYLOAD: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE: Final = "dev.cosignproject.cosign/signature"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_TYPE: Final = "cosign container image signature"

MOST_LAYERS: Final = 256  # one for each tag of the same bytes; thirty releases are kept
_LARGEST_PAYLOAD: Final = 64 << 10  # bytes; ours have about 300
_LONGEST_SIGNATURE: Final = 1024  # characters of base64; ours have 96
_ALGORITHM: Final = ec.ECDSA(hashes.SHA256())
_TRIES: Final = 5  # a tag has no compare-and-swap: two deploys may overwrite each other's list


Layer = dict[str, Any]
"""A descriptor in a list of signatures: mediaType, digest, size, annotations."""


class SignatureError(Exception):
    """An image that nobody vouches for; the message names it and says what was found."""


class Unsigned(SignatureError):  # noqa: N818 - reads as what it says
    """There is no signature at all."""


class WronglySigned(SignatureError):  # noqa: N818 - reads as what it says
    """There are signatures, and none of them is ours for this image under this tag."""


def beside(digest: str, suffix: str) -> str:
    """`sha256:ab…` → `sha256-ab….sig`: the tag at which what belongs to an image is kept."""
    return f"{digest.replace(':', '-')}.{suffix}"


_BESIDE: Final = re.compile(r"sha256-([0-9a-f]{64})\.sig")


def payload(name: str, digest: str, tag: str | None) -> bytes:
    """What is signed; `name` is `<server>/<repository>`. The same bytes for the same image."""
    text = {
        "critical": {
            "identity": {"docker-reference": name},
            "image": {"docker-manifest-digest": digest},
            "type": _TYPE,
        },
        "optional": {"tag": tag} if tag else None,
    }
    return compact(text)


# --- verifying ---------------------------------------------------------------------------------


def verify(
    registry: Registry, repository: str, digest: str, tag: str | None, key: keys.PublicKey
) -> None:
    """Returns when the holder of `key` vouches for exactly this image, under this tag.

    Without a tag (a release given by digest) a signature for any tag will do. Raises Unsigned or
    WronglySigned, RegistryError when the registry cannot be asked. Other people's signatures
    beside ours are of no interest.
    """
    shelf = Shelf(registry, repository, digest, "sig")
    which = f"{shelf.name}@{digest}" + (f" (tag {tag})" if tag else "")
    layers = shelf.layers()
    if not layers:
        raise Unsigned(
            f"{which} is not signed: the registry has no signature beside it (tag {shelf.at})"
        )
    ours: list[str] = []
    others: list[str] = []
    for layer in layers:
        try:
            text = _signed_text(shelf, layer, key)
        except _NotOursError as why:
            others.append(str(why))
            continue
        reason = _mismatch(text, shelf.name, digest, tag)
        if reason is None:
            return
        ours.append(reason)
    # What our own key signed says more than what anybody else left there.
    found = sorted(set(ours or others))
    more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
    raise WronglySigned(f"{which} is wrongly signed: {'; '.join(found[:3])}{more}")


def signed_as(registry: Registry, repository: str, tag: str, key: keys.PublicKey) -> list[str]:
    """The digests that the holder of `key` vouched for under this tag, by the signatures that are
    in the registry; asks for each of them. RegistryError."""
    found = []
    for name in registry.tags(repository):
        if not (match := _BESIDE.fullmatch(name)):
            continue
        digest = f"sha256:{match[1]}"
        try:
            verify(registry, repository, digest, tag, key)
        except SignatureError:
            continue
        found.append(digest)
    return found


class _NotOursError(Exception):
    """Why a layer holds nothing that the key signed."""


def _signed_text(shelf: Shelf, layer: Layer, key: keys.PublicKey) -> bytes:
    """The bytes that `key` signed; _NotOursError."""
    written = layer["annotations"].get(SIGNATURE, "")
    if layer.get("mediaType") != PAYLOAD or not 0 < len(written) <= _LONGEST_SIGNATURE:
        raise _NotOursError("what lies there is no signature of cosign's")
    try:
        signature = base64.b64decode(written, validate=True)
    except ValueError:
        raise _NotOursError("its signature is damaged") from None
    text = shelf.content(layer, _LARGEST_PAYLOAD)
    if text is None:
        raise _NotOursError("what was signed is not in the registry any more")
    if not signs(key, signature, text):
        raise _NotOursError(
            "it is signed by another key than signing.publicKey, or was changed afterwards"
        )
    return text


def _mismatch(text: bytes, name: str, digest: str, tag: str | None) -> str | None:
    """How what our key signed differs from what was asked for; None: it does not."""
    try:
        claim: Any = json.loads(text)
        critical = claim["critical"]
        if critical["type"] != _TYPE:
            raise ValueError
        signed_digest = critical["image"]["docker-manifest-digest"]
        signed_name = critical["identity"]["docker-reference"]
        signed_tag = (claim.get("optional") or {}).get("tag")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "what our key signed there is not an image's signature"
    if signed_digest != digest:
        return f"our key's signature is for another image, {_short(signed_digest)}"
    if signed_name != name:
        return f"our key's signature is for the same bytes in {_short(signed_name)}"
    if tag is None or signed_tag == tag:
        return None
    if signed_tag is None:
        return "our key's signature names no tag"
    return f"our key signed these bytes as tag {_short(signed_tag)}, never as {tag}"


def signs(key: keys.PublicKey, signature: bytes, data: bytes) -> bool:
    try:
        key.verify(signature, data, _ALGORITHM)
    except InvalidSignature:
        return False
    return True


def make_signature(key: keys.PrivateKey, data: bytes) -> bytes:
    return key.sign(data, _ALGORITHM)


def _short(value: object) -> str:
    """What somebody signed, fit for a terminal."""
    return "".join(c if c.isprintable() else "?" for c in str(value)[:120])


# --- signing -----------------------------------------------------------------------------------


def sign(
    registry: Registry, repository: str, digest: str, tag: str | None, key: keys.PrivateKey
) -> bool:
    """Adds our signature to those that are there, unless it is; True: it was added.

    ECDSA signatures differ each time, so "is there" means that one verifies. SignatureError when
    what is there is no list of signatures; RegistryError.
    """
    shelf = Shelf(registry, repository, digest, "sig")
    text = payload(shelf.name, digest, tag)
    for attempt in range(_TRIES):
        try:
            # After a push too: another deploy may have written its own list in between.
            verify(registry, repository, digest, tag, key.public_key())
            return attempt > 0
        except SignatureError:
            layers = shelf.layers()
        if len(layers) >= MOST_LAYERS:
            raise SignatureError(
                f"{shelf} is full with {len(layers)} signatures. Delete that tag in the registry "
                "and run this again"
            )
        signature = base64.b64encode(make_signature(key, text)).decode()
        shelf.write([*layers, shelf.add(text, PAYLOAD, {SIGNATURE: signature})])
    raise SignatureError(
        f"{shelf.name}@{digest} could not be signed: something keeps overwriting the tag "
        f"{shelf.at}. Wait for the other deploy, then run this one again"
    )


# --- where signatures and attestations are kept ------------------------------------------------


class Shelf:
    """The tag beside an image whose layers are its signatures ("sig") or attestations ("att")."""

    def __init__(self, registry: Registry, repository: str, digest: str, suffix: str) -> None:
        self._registry, self._repository = registry, repository
        self.name = f"{registry.server}/{repository}"
        self.at = beside(digest, suffix)

    def __str__(self) -> str:
        return f"{self.name}:{self.at}"

    def layers(self) -> list[Layer]:
        """What lies there; [] when there is no such tag.

        Each has a digest, a size and annotations of text; else WronglySigned: of a list that is
        none, nothing is believed and nothing is overwritten.
        """
        manifest = self._registry.manifest(self._repository, self.at)
        if manifest is None:
            return []
        try:
            layers: Any = json.loads(manifest.body)["layers"]
            if not isinstance(layers, list):
                raise TypeError
            for layer in layers:
                layer["annotations"] = annotations = layer.get("annotations") or {}
                if (
                    not isinstance(layer["digest"], str)
                    or not isinstance(layer["size"], int)
                    or not all(isinstance(value, str) for value in annotations.values())
                ):
                    raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise WronglySigned(
                f"{self} is no list of signatures. Delete that tag in the registry, then sign the "
                "image anew"
            ) from None
        if len(layers) > MOST_LAYERS:
            raise WronglySigned(
                f"{self} lists {len(layers)} entries; of more than {MOST_LAYERS} none is looked "
                "at. Delete that tag in the registry, then sign the image anew"
            )
        return layers

    def content(self, layer: Layer, most: int) -> bytes | None:
        """A layer's bytes, hashed here; None: more than `most`, or not what the list says."""
        if not 0 <= layer["size"] <= most or not DIGEST.fullmatch(layer["digest"]):
            return None
        try:
            data = self._registry.blob(self._repository, layer["digest"])
        except RegistryError as error:
            if error.kind != "broken":  # "broken": lost, or other bytes; else nobody knows
                raise
            return None
        return data if digest_of(data) == layer["digest"] and len(data) <= most else None

    def add(self, data: bytes, media_type: str, annotations: Mapping[str, str]) -> Layer:
        """Pushes the bytes of one more layer; `write` puts it on the list."""
        blob = self._registry.push_blob(self._repository, data, media_type)
        return {
            "mediaType": media_type,
            "size": blob.size,
            "digest": blob.digest,
            "annotations": dict(annotations),
        }

    def write(self, layers: Sequence[Layer]) -> None:
        """Like cosign's own: an image without a platform, whose layers are not compressed."""
        epoch = "0001-01-01T00:00:00Z"
        config = {
            "architecture": "",
            "created": epoch,
            "history": [{"created": epoch} for _ in layers],
            "os": "",
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
            "config": {},
        }
        blob = self._registry.push_blob(self._repository, compact(config), _CONFIG)
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": _CONFIG, "size": blob.size, "digest": blob.digest},
            "layers": list(layers),
        }
        self._registry.push_manifest(self._repository, self.at, compact(manifest), OCI_MANIFEST)


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# --- called by the operator --------------------------------------------------------------------

_USAGE: Final = """\
usage: python -m honeydue.images.signing generate | pulumi config set -s <stack> --secret \
--path honeydue:signing.privateKey
       pulumi config get -s <stack> --path honeydue:signing.privateKey | python -m \
honeydue.images.signing public | pulumi config set -s <stack> --path honeydue:signing.publicKey
"""


def main(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    stdin: TextIO,
    stdout: TextIO,
    stderr: TextIO,
) -> int:
    """`generate`: a new private key on stdout. `public`: the public half of the one on stdin,
    opened with COSIGN_PASSWORD (cosign's own variable) when cosign encrypted it."""
    if list(arguments) not in (["generate"], ["public"]):
        print(_USAGE, end="", file=stderr)
        return 2
    if arguments[0] == "public":
        try:
            key = keys.private_key(stdin.read(), environment.get("COSIGN_PASSWORD") or "")
        except keys.KeyRefusedError as error:
            print(f"error: what came on stdin {error}", file=stderr)
            return 1
        stdout.write(keys.public_pem(key))
        return 0
    if stdout.isatty():
        print(
            "error: a private key is not for the screen; put it straight into the stack:\n"
            f"{_USAGE}",
            end="",
            file=stderr,
        )
        return 1
    stdout.write(keys.private_pem(keys.generate()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ, sys.stdin, sys.stdout, sys.stderr))
