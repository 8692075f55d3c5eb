"""The gate between the registry and the rollout: `python -m honeydue.images.gate vouch|verify`.

`vouch`, after a build: scans the image, attaches SBOM and report to it, and signs its digest.
`verify`, before any Deployment refers to it: somebody has vouched for exactly this digest under
this tag. Pulumi runs both as `command.local.Command`. stdout is the digest and nothing else, and
only when all is well; the Deployment takes it from there. What there is to say goes to stderr.
Everything comes by environment variables; no secret is printed, none touches the disk.

    HONEYDUE_IMAGE        <server>/<namespace>/honeydue-<service>, without a tag
    HONEYDUE_DIGEST       sha256:…, what the build pushed or the preview resolved
    HONEYDUE_TAG          the tag it goes by; empty for `verify` when the release is a digest
    HONEYDUE_STACK        whose settings to mend
    REGISTRY_USERNAME, REGISTRY_TOKEN
    COSIGN_PUBLIC_KEY     PEM

and for `vouch` also

    COSIGN_PRIVATE_KEY, COSIGN_PASSWORD    PEM, and the password when cosign encrypted it
    HONEYDUE_SCAN_SEVERITY                 CRITICAL, HIGH, …: this and above stops
    HONEYDUE_SCAN_IGNORE                   path of the ignore file, which need not exist

Exit code: 0 go on, 1 do not (stderr says why and what to do), 2 called wrongly.
"""

from __future__ import annotations

import sys

try:
    from honeydue.images import attestations, keys, scan, signing
    from honeydue.images.ignores import FILE as IGNORES_FILE
    from honeydue.images.registry import DIGEST, Login, Registry, RegistryError
except ModuleNotFoundError as missing:
    sys.exit(
        f"error: the gate's Python ({sys.executable}) has no package {missing.name}: make the "
        "program's virtualenv with 'make setup'"
    )

import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

_SECRETS: Final = ("REGISTRY_TOKEN", "COSIGN_PRIVATE_KEY", "COSIGN_PASSWORD")
_GENERATE: Final = "honeydue/images/signing.py says how to make the pair"


class GateError(Exception):
    """Stop here; the message is fit for the operator."""


@dataclass(frozen=True)
class Image:
    """One image of the release."""

    server: str
    repository: str
    digest: str
    tag: str | None
    stack: str

    @property
    def service(self) -> str:
        return self.repository.rpartition("/honeydue-")[2]

    def __str__(self) -> str:
        return f"{self.server}/{self.repository}@{self.digest}"


Say = Callable[[str], None]


def vouch(
    image: Image,
    registry: Registry,
    key: keys.PrivateKey,
    run_scan: Callable[[], scan.Outcome],
    say: Say,
) -> None:
    """Scans, attests, signs; GateError, ScanError, SignatureError, RegistryError."""
    require_served(image, registry)
    with _timed("scan", say):
        outcome = run_scan()
    for line in outcome.summary().splitlines():
        say(line)
    if outcome.stops:
        raise GateError(_stopped(image, outcome))
    # Scanning takes its time; another deploy may have pushed the same tag meanwhile.
    require_served(image, registry)
    with _timed("attest", say):
        predicates = {attestations.SBOM: outcome.sbom, attestations.SCAN: outcome.predicate()}
        attestations.attest(registry, image.repository, image.digest, predicates, key)
    # Last: whoever finds the signature finds SBOM and report as well.
    with _timed("sign", say):
        _pin(image, registry)
        new = signing.sign(registry, image.repository, image.digest, image.tag, key)
    say(f"{'signed' if new else 'was signed already'}: {image} as {image.tag}")


def _pin(image: Image, registry: Registry) -> None:
    """A second name for these bytes, which no later push takes from them.

    Gitea forgets a digest as soon as the last tag that carries it is overwritten (seen at 1.26): a
    build of the same commit that comes out different, and is then stopped by its scan, would leave
    what runs without an image to pull. Named after its digest, it goes when `ops images prune` lets
    the digest go.
    """
    name = f"{image.digest.replace(':', '-')}.pin"
    if registry.digest(image.repository, name) != image.digest:
        found = registry.manifest(image.repository, image.digest)
        if found is None:
            raise GateError(_not_there(image))
        registry.push_manifest(image.repository, name, found.body, found.media_type)


def verify(image: Image, registry: Registry, key: keys.PublicKey, say: Say) -> None:
    """Returns when the holder of `key` vouched for it; GateError, RegistryError."""
    with _timed("verify", say):
        if registry.manifest(image.repository, image.digest) is None:
            raise GateError(_not_there(image))
        try:
            signing.verify(registry, image.repository, image.digest, image.tag, key)
        except signing.SignatureError as error:
            if before := _signed_before(image, registry, key):
                raise GateError(
                    f"{error}. Our key signed {image.tag} as {' and as '.join(before)}: somebody "
                    "has overwritten the tag since. Nothing was rolled out\n"
                    "    mend   see who pushes; what was signed runs by its digest: pulumi config "
                    f"set -s {image.stack} --path honeydue:images.{image.service} "
                    f"{image.tag}@{before[0]}"
                ) from None
            raise GateError(
                f"{error}. Nothing was rolled out{_another(image)}\n"
                "    or     if you trust it, check out its commit in honeydue:app.path and set "
                "honeydue:image.build true: `up` builds it, scans it and signs it"
            ) from None
    say(f"verified: {image}" + (f" as {image.tag}" if image.tag else ""))


def _signed_before(image: Image, registry: Registry, key: keys.PublicKey) -> list[str]:
    """What our key signed under the image's tag, other than the image itself."""
    if not image.tag:
        return []
    try:
        return signing.signed_as(registry, image.repository, image.tag, key)
    except RegistryError:  # the refusal stands without it
        return []


def require_served(image: Image, registry: Registry) -> None:
    """GateError unless the registry has these bytes, and the tag still points at them."""
    if registry.manifest(image.repository, image.digest) is None:
        raise GateError(_not_there(image))
    now = registry.digest(image.repository, image.tag) if image.tag else image.digest
    if now != image.digest:
        name = f"{image.server}/{image.repository}:{image.tag}"
        points = f"points at {now} now" if now else "is gone now"
        raise GateError(
            f"{name} {points}, not at {image.digest}, which this run pushed: another deploy "
            "pushed the same tag, or somebody moved it. It was not signed, nothing was rolled "
            f"out\n    mend   see who else deploys, then: pulumi up -s {image.stack}"
        )


def _not_there(image: Image) -> str:
    return f"{image} is not in the registry (any more). Nothing was rolled out{_another(image)}"


def _another(image: Image) -> str:
    return (
        "\n    mend   take a release that is signed (python -m ops images list): pulumi config "
        f"set -s {image.stack} --path honeydue:images.{image.service} <tag>"
    )


def _stopped(image: Image, outcome: scan.Outcome) -> str:
    ids = list(dict.fromkeys(finding.id for finding in outcome.stops))
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    mends = []
    if fixable := next((f for f in outcome.stops if f.mended_by), None):
        to = f"{fixable.package} to {fixable.fixed}" if fixable.fixed else "it to a newer one"
        place = "the application or its base image" if fixable.fixed else "the base image"
        mends.append(f"in {place}, raise {to}; commit, and `up` again")
    accepted = next((f for f in outcome.stops if not f.mended_by), outcome.stops[0])
    mends.append(
        "accept it until a day, and say why, in deploy/trivyignore.yaml:\n"
        f'           - {{id: {accepted.id}, expired_at: <YYYY-MM-DD>, statement: "<why>"}}'
    )
    return (
        f"{image} (tag {image.tag}) has vulnerabilities of severity {outcome.severity} or above: "
        f"{', '.join(ids[:3])}{more}. It was not signed, nothing was rolled out\n    mend   "
    ) + "\n    or     ".join(mends)


@contextmanager
def _timed(phase: str, say: Say) -> Iterator[None]:
    """`scan 3.1 s`, also when it failed."""
    began = time.monotonic()
    try:
        yield
    finally:
        say(f"{phase} {time.monotonic() - began:.1f} s")


# --- called by Pulumi --------------------------------------------------------------------------


def main(
    arguments: Sequence[str], environment: Mapping[str, str], stdout: TextIO, stderr: TextIO
) -> int:
    """Exit code; see the module."""
    secrets = [
        (line, name)
        for name in _SECRETS
        for line in (environment.get(name) or "").splitlines()
        if len(line) >= 8 and "-----" not in line
    ]

    def say(text: str) -> None:
        # Nobody here puts a secret into a text; should a library ever do, it ends here.
        for value, name in secrets:
            text = text.replace(value, f"[{name}]")
        print(text, file=stderr, flush=True)

    if list(arguments) not in (["vouch"], ["verify"]):
        say("usage: python -m honeydue.images.gate vouch|verify")
        return 2
    try:
        digest = _run(arguments[0], environment, say)
    except (GateError, scan.ScanError, signing.SignatureError, RegistryError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("error: interrupted; nothing was rolled out")
        return 1
    except Exception as error:
        # Its text may hold anything; its place in our code does not.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        say(f"error: the gate broke ({type(error).__name__} at {place}). Nothing was rolled out")
        return 1
    stdout.write(digest)
    stdout.flush()
    return 0


def _run(verb: str, environment: Mapping[str, str], say: Say) -> str:
    def need(name: str) -> str:
        value = environment.get(name)
        if not value:
            raise GateError(f"{name} is not set; the gate is run by Pulumi, see honeydue/images")
        return value

    server, _, repository = need("HONEYDUE_IMAGE").partition("/")
    digest, stack = need("HONEYDUE_DIGEST"), need("HONEYDUE_STACK")
    if not DIGEST.fullmatch(digest):
        raise GateError(f"HONEYDUE_DIGEST is no sha256 digest, but has {len(digest)} characters")
    image = Image(server, repository, digest, environment.get("HONEYDUE_TAG") or None, stack)
    login = Login(need("REGISTRY_USERNAME"), need("REGISTRY_TOKEN"))
    public = _public(need("COSIGN_PUBLIC_KEY"), stack)
    if verb == "verify":
        with Registry(server, login) as registry:
            verify(image, registry, public, say)
        return digest
    need("HONEYDUE_TAG")
    key = _private(
        need("COSIGN_PRIVATE_KEY"), environment.get("COSIGN_PASSWORD") or "", public, stack
    )
    severity = need("HONEYDUE_SCAN_SEVERITY")
    if severity not in scan.SEVERITIES:
        raise GateError(
            f"HONEYDUE_SCAN_SEVERITY is none of {', '.join(scan.SEVERITIES)}\n"
            f"    mend   pulumi config set -s {stack} --path honeydue:image.scan.severity CRITICAL"
        )
    try:
        ignores = scan.load_ignores(
            Path(environment.get("HONEYDUE_SCAN_IGNORE") or IGNORES_FILE),
            datetime.now(UTC).date(),
        )
    except scan.IgnoresError as error:
        raise GateError(f"nothing was scanned, the ignore file is wrong:\n{error}") from None

    def run_scan() -> scan.Outcome:
        return scan.scan(
            str(image),
            severity=severity,
            ignores=ignores,
            login=login,
            environment=environment,
            say=say,
        )

    with Registry(server, login) as registry:
        vouch(image, registry, key, run_scan, say)
    return digest


def _public(pem: str, stack: str) -> keys.PublicKey:
    try:
        return keys.public_key(pem)
    except keys.KeyRefusedError as error:
        raise GateError(
            f"honeydue:signing.publicKey {error}\n    mend   {_set_public(stack)}"
        ) from None


def _private(pem: str, password: str, public: keys.PublicKey, stack: str) -> keys.PrivateKey:
    try:
        key = keys.private_key(pem, password)
    except keys.KeyRefusedError as error:
        raise GateError(f"honeydue:signing.privateKey {error}\n    mend   {_GENERATE}") from None
    if keys.public_pem(key) != keys.public_pem(public):
        raise GateError(
            "honeydue:signing.publicKey is not the public half of honeydue:signing.privateKey\n"
            f"    mend   {_set_public(stack)}"
        )
    return key


def _set_public(stack: str) -> str:
    return (
        f"pulumi config get -s {stack} --path honeydue:signing.privateKey | python -m "
        f"honeydue.images.signing public | pulumi config set -s {stack} --path "
        "honeydue:signing.publicKey"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ, sys.stdout, sys.stderr))
