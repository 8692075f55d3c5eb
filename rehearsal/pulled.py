"""What runs, pulled back: the last proof of a rehearsal with images.

Nothing here is taken from the program. Which images run is asked of the cluster's Deployments; the
credentials are those of the cluster's own pull secret, as a kubelet reads them; and the signature
beside each image is held against the public key alone. So it judges the program's own gate too:
the two have nothing in common but cosign's format.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rehearsal.providers.kubernetes.client import ApiError, Client
from rehearsal.registry.distribution import Reference, Registry, RegistryError, digest_of
from rehearsal.registry.pull import SECRET, PullError, credentials, pull

NAMESPACE: Final = "honeydue"
TAG: Final = "honeydue.com/image-tag"
_SIGNATURE: Final = "dev.cosignproject.cosign/signature"


@dataclass(frozen=True)
class PulledBack:
    """One Deployment's image. `size`: bytes that a node fetches; `key`: who signed it, as the
    first twelve digits of the sha256 of the public key (DER); `problem`: why it cannot be run."""

    name: str
    tag: str
    digest: str
    size: int = 0
    key: str = ""
    problem: str = ""


def pull_back(client: Client, public_key: str) -> Iterator[PulledBack]:
    """Every Deployment's image; `public_key` is the stack's, as PEM. Raises nothing of its own."""
    secrets: dict[str, Mapping[str, Any]] = {}
    deployments = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
    for deployment in client.request("GET", deployments)["items"]:
        pod = deployment["spec"]["template"]["spec"]
        reference = pod["containers"][0]["image"]
        tag = deployment["metadata"].get("annotations", {}).get(TAG, "")
        name, _, digest = reference.rpartition("/")[2].partition("@")
        try:
            secret = _only(pod.get("imagePullSecrets") or [], name)
            if secret not in secrets:
                secrets[secret] = _docker_config(client, secret)
            size = pull(secrets[secret], reference).size
            key = _signer(secrets[secret], reference, tag, public_key)
        except PullError as error:
            yield PulledBack(name, tag, digest, problem=str(error))
        else:
            yield PulledBack(name, tag, digest, size, key)


def _only(secrets: list[Mapping[str, Any]], name: str) -> str:
    """A pod that names no pull secret would be pulled anonymously."""
    if [secret.get("name") for secret in secrets] != [SECRET]:
        raise PullError(f"{name}'s pods do not name the pull secret {SECRET}\n  mend: pulumi up")
    return SECRET


def _docker_config(client: Client, name: str) -> Mapping[str, Any]:
    try:
        secret = client.request("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}")
    except ApiError as error:
        raise PullError(
            f"the Secret {name} cannot be read: {error}\n  mend: pulumi up writes it"
        ) from None
    try:
        found = json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))
    except (LookupError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise PullError(
            f"the Secret {name} holds no .dockerconfigjson\n  mend: pulumi refresh, then pulumi up"
        )
    return found


def _signer(docker_config: Mapping[str, Any], reference: str, tag: str, public_key: str) -> str:
    """The key's fingerprint, when its holder signed this digest under this tag (any tag, if there
    is none). Raises PullError."""
    image = Reference.parse(reference)
    key = serialization.load_pem_public_key(public_key.encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)  # the program's settings see to it
    at = image.digest.replace(":", "-") + ".sig"
    try:
        with Registry(image, *credentials(docker_config, image)) as registry:
            layers = json.loads(registry.manifest(at).body)["layers"]
            texts = [(b"".join(registry.blob(layer["digest"])), layer) for layer in layers]
    except RegistryError as error:
        raise PullError(
            f"{reference} is not signed: {error}\n  mend: pulumi up signs what it builds"
        ) from None
    for text, layer in texts:
        if digest_of(text) == layer["digest"] and _signed(key, text, layer, image.digest, tag):
            return hashlib.sha256(_der(key)).hexdigest()[:12]
    raise PullError(
        f"{reference} is not signed{f' as {tag}' if tag else ''} by the holder of "
        f"honeydue:signing.publicKey (signatures beside it: {len(texts)})\n"
        "  mend: see who pushed it, and build it from its commit"
    )


def _signed(
    key: ec.EllipticCurvePublicKey, text: bytes, layer: Mapping[str, Any], digest: str, tag: str
) -> bool:
    try:
        signature = base64.b64decode(layer["annotations"][_SIGNATURE])
        key.verify(signature, text, ec.ECDSA(hashes.SHA256()))
        said = json.loads(text)
        signed = said["critical"]["image"]["docker-manifest-digest"]
        under = (said.get("optional") or {}).get("tag")
    except (InvalidSignature, LookupError, ValueError):
        return False
    return signed == digest and tag in ("", under)


def _der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
