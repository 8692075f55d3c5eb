"""Real images in a rehearsal: `make rehearse IMAGES=1`.

A home that was asked for images keeps them until `reset`: its serving process runs a Gitea and a
BuildKit (`rehearsal/registry/`), and every verb reads the stack's settings from

    <home>/Pulumi.rehearsal.yaml   the repository's file, with the registry that runs here, the
                                   example application's checkout, and a key pair to sign with

which the Pulumi CLI takes as `--config-file`. It is written anew for each verb, so that an edit of
the repository's file is seen.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from rehearsal import serve
from rehearsal.engine.secrets import Crypter, open_crypter
from rehearsal.home import REPOSITORY, Home
from rehearsal.registry import service
from rehearsal.registry.gitea import USER, ForgeError

EXAMPLE: Final = REPOSITORY / "examples" / "app"
STACK_FILE: Final = "Pulumi.rehearsal.yaml"
BUILDER: Final = "honeydue-builder"
WAIT_SECONDS: Final = 3600.0
"""A cold machine builds Gitea and BuildKit from their modules: ten minutes, or more when busy."""


def why_not() -> str:
    """Why this machine cannot rehearse images, and what mends it; empty when it can."""
    return service.why_not()


def turn_on(home: Home, say: Callable[[str], None]) -> str:
    """Starts registry and builder, and waits until they work; returns the registry's server.

    What is there already stays as it is. Raises ForgeError, ServeError."""
    serve.ensure_registry(home)
    status = serve.wait_for_registry(home, WAIT_SECONDS, say)
    overrides = _overrides_file(home)
    if not overrides.is_file():
        _write_privately(overrides, yaml.safe_dump(_overrides(home, status)))
    _checkout(home)
    from rehearsal.registry import trivy_standin  # noqa: PLC0415 - for homes with images alone

    # `trivy` on the PATH: the stand-in, since no registry here serves the real one.
    trivy_standin.launcher(_programs(home), trivy_standin.own_cache())
    return str(status["server"])


def is_on(home: Home) -> bool:
    return _overrides_file(home).is_file()


def stack_file(home: Home) -> Path:
    """Writes the home's stack file anew and returns it."""
    loaded = yaml.safe_load((REPOSITORY / STACK_FILE).read_text())
    overrides = yaml.safe_load(_overrides_file(home).read_text())
    loaded["config"].pop("honeydue:images", None)  # made up, for homes without a registry
    loaded["config"] = _merged(loaded["config"], overrides["config"])
    path = home.root / STACK_FILE
    _write_privately(path, yaml.safe_dump(loaded, sort_keys=False))
    return path


def own_settings(home: Home) -> Path:
    """Where `config set` writes: what differs from the repository's file, in the same form."""
    return _overrides_file(home)


def _merged(below: Any, above: Any) -> Any:
    """Objects key by key; a secret, a list or a plain value as a whole."""
    if not isinstance(below, dict) or not isinstance(above, dict) or "secure" in below | above:
        return above
    return below | {key: _merged(below.get(key), value) for key, value in above.items()}


def environment(home: Home) -> dict[str, str]:
    """What leads to the builder and to the stand-in of trivy."""
    found = service.environment(home)
    programs = str(_programs(home))
    path = os.environ.get("PATH", os.defpath)
    found["PATH"] = path if programs in path.split(os.pathsep) else programs + os.pathsep + path
    return found


# --- the settings ---


def _overrides(home: Home, status: Mapping[str, Any]) -> dict[str, Any]:
    if "PULUMI_CONFIG_PASSPHRASE_FILE" not in os.environ:
        os.environ.setdefault("PULUMI_CONFIG_PASSPHRASE", serve.PASSPHRASE)
    crypter = open_crypter(_salt())
    private, public = _key_pair()
    settings = {
        "registry": {
            "server": status["server"],
            "namespace": USER,
            "username": USER,
            "token": _sealed(crypter, _tokens(home)["write"]),
        },
        "app": {"path": str(app_folder(home))},
        "image": {
            "build": True,
            "builder": BUILDER,
            "driver": "remote",
            "buildArgs": dict(status["build_args"]),
        },
        "signing": {"publicKey": public, "privateKey": _sealed(crypter, private)},
    }
    return {"config": {f"honeydue:{key}": value for key, value in settings.items()}}


def _salt() -> str:
    return str(yaml.safe_load((REPOSITORY / STACK_FILE).read_text())["encryptionsalt"])


def _sealed(crypter: Crypter, value: str) -> dict[str, str]:
    return {"secure": crypter.encrypt(value)}


def _tokens(home: Home) -> dict[str, str]:
    said = json.loads((service.folder_of(home) / "gitea" / "secrets.json").read_text())
    return dict(said["tokens"])


def _key_pair() -> tuple[str, str]:
    """(private, public) as PEM; as `cosign generate-key-pair` makes them, without a password."""
    from cryptography.hazmat.primitives import serialization as form  # noqa: PLC0415 - once a home
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
    ).decode()
    public = (
        key.public_key()
        .public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )
    return private, public


# --- the application ---


def app_folder(home: Home) -> Path:
    return home.root / "app"


def _checkout(home: Home) -> None:
    """The example application in a git repository of its own; what was changed there stays."""
    folder = app_folder(home)
    if (folder / ".git").is_dir():
        return
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(EXAMPLE, folder)
    author = {"NAME": "honeyDue", "EMAIL": "rehearsal@honeydue.test"}
    who = {f"GIT_{role}_{k}": v for role in ("AUTHOR", "COMMITTER") for k, v in author.items()}
    # A fixed date: the first rehearsal of every machine builds the same commit.
    dates = dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), "2026-11-01T00:00:00+00:00")
    for words in (
        ("init", "--quiet", "--initial-branch=main"),
        ("add", "--all"),
        ("commit", "--quiet", "--no-gpg-sign", "--message", "The example application"),
    ):
        done = subprocess.run(
            ["git", *words], cwd=folder, env=os.environ | who | dates,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ForgeError(
                f"`git {words[0]}` failed in {folder}: {done.stderr.strip().splitlines()[-1:]}\n"
                f"  mend: delete {folder} and run again"
            )


def _programs(home: Home) -> Path:
    return service.folder_of(home) / "bin"


def _overrides_file(home: Home) -> Path:
    return home.root / "images.yaml"


def _write_privately(file: Path, text: str) -> None:
    """Whole or not at all, and for nobody else's eyes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(f".{os.getpid()}.tmp")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
    fresh.replace(file)
