"""The past of the stack `prod`: what each run of the engine left in the state's folder."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from honeydue import application
from honeydue.images.references import SERVICES
from honeydue.kubernetes.catalogue import WORKLOADS, deployment
from honeydue.kubernetes.hashing import content_hash
from ops.engine import Run
from tests.ops.registries import digest
from tests.settings import sample

Json = dict[str, Any]

REPOSITORY: Final = "gitea.treytartt.com/admin/honeydue-"
BEGAN: Final = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)  # the first run; then one an hour
ENVIRONMENT: Final[dict[str, str]] = {k: str(v) for k, v in sample.ENVIRONMENT.items()}


def config_map(service: str, environment: Mapping[str, str] = ENVIRONMENT) -> str:
    """Its name."""
    data = application.environment_of(service, environment)
    return f"honeydue-config-{service}-{content_hash(data)}"


def secret(content: str) -> str:
    """A Secret's name."""
    return f"honeydue-secrets-{content_hash({'content': content})}"


def resources(
    tags: Mapping[str, str],
    *,
    environment: Mapping[str, str] = ENVIRONMENT,
    secrets: str = "first",
    faulty: Collection[str] = (),
    digests: Mapping[str, str] | None = None,
) -> list[Json]:
    """Of a checkpoint, as the program makes them: service → tag of what it runs. `faulty`: not
    ready when the engine stopped to wait. `digests`: where they are not those of the tags."""
    found: list[Json] = [{"urn": "urn:pulumi:prod::honeydue::pulumi:pulumi:Stack::honeydue-prod"}]
    for workload in WORKLOADS:
        service = workload.name
        if service not in tags:
            continue
        data = application.environment_of(service, environment)
        found.append(
            {
                "type": "kubernetes:core/v1:ConfigMap",
                "inputs": {
                    "metadata": {"name": config_map(service, environment)},
                    "data": data,
                },
            }
        )
        made = deployment(
            workload,
            namespace="honeydue",
            image=f"{REPOSITORY}{service}@{(digests or {}).get(service) or image(service, tags)}",
            tag=tags[service],
            config=config_map(service, environment),
            secrets=secret(secrets),
        )
        found.append(
            {
                "type": "kubernetes:apps/v1:Deployment",
                "inputs": {"apiVersion": "apps/v1", "kind": "Deployment", **made},
                **({"initErrors": ["not ready"]} if service in faulty else {}),
            }
        )
    return found


def image(service: str, tags: Mapping[str, str]) -> str:
    return digest(f"{service} {tags[service]}")


def all_of(tag: str, **others: str) -> dict[str, str]:
    """Service → tag."""
    return {service: others.get(service, tag) for service in SERVICES}


def record(number: int, message: str = "", **more: Any) -> Json:
    """As the CLI writes it."""
    began = int((BEGAN + timedelta(hours=number - 1)).timestamp())
    return {
        "kind": "update",
        "startTime": began,
        "message": message,
        "environment": {"exec.kind": "cli"},
        "config": {"honeydue:secrets": {"SECRET_KEY": {"secure": "v1:canary"}}},
        "result": "succeeded",
        "endTime": began + 95,
        "resourceChanges": {"same": 170, "update": 3},
        **more,
    }


def run(number: int, left: list[Json] | Exception, message: str = "", **more: Any) -> Run:
    """One, without a backend. `left`: what it left, or why that cannot be read."""
    told = record(number, message, **more)

    def checkpoint() -> Any:
        if isinstance(left, Exception):
            raise left
        return {"deployment": {"resources": left}}

    return Run(
        number=number,
        kind=told["kind"],
        result=told["result"],
        started=datetime.fromtimestamp(told["startTime"], UTC),
        ended=datetime.fromtimestamp(told["endTime"], UTC),
        message=told["message"],
        changes=told["resourceChanges"],
        environment=told["environment"],
        config=told["config"],
        checkpoint=checkpoint,
    )


@dataclass
class Past:
    """The history in a DIY backend's folder."""

    state: Path
    count: int = 0

    def add(self, left: list[Json], message: str = "", **more: Any) -> int:
        """One more run; its number."""
        self.count += 1
        folder = self.state / ".pulumi/history/honeydue/prod"
        folder.mkdir(parents=True, exist_ok=True)
        entry = folder / f"prod-{self.count:019d}"
        told = record(self.count, message, **more)
        checkpoint = {"version": 3, "checkpoint": {"latest": {"resources": left}}}
        Path(f"{entry}.history.json").write_text(json.dumps(told))
        Path(f"{entry}.checkpoint.json").write_text(json.dumps(checkpoint))
        return self.count


def deploy(tag: str, **trailers: str) -> str:
    """The message of `ops deploy`."""
    lines = {"By": "trey@laptop", **{k.replace("_", "-"): v for k, v in trailers.items()}}
    return f"deploy {tag}\n\n" + "\n".join(f"{key}: {value}" for key, value in lines.items())


def rollback(to: int, tag: str, *, back: int, because: str) -> str:
    """The message of `ops rollback`."""
    trailers = f"By: trey@laptop\nRolls-back: {back}\nBecause: {because}"
    return f"rollback to {to} ({tag})\n\n{trailers}"
