"""A secret value may repeat a resource's name; an error must name the resource all the same."""

from __future__ import annotations

from rehearsal.engine.redaction import Redaction
from rehearsal.engine.values import Secret

SERVER = "urn:pulumi:rehearsal::honeydue::hcloud:index/server:Server::honeydue-2"


def test_a_name_stays_readable_and_the_secret_beside_it_does_not() -> None:
    redaction = Redaction()
    redaction.learn({"environment": Secret({"NODE": "honeydue-2", "TOKEN": "hunter2-hunter2"})})
    redaction.name(SERVER)
    said = redaction.text(f"creating Server honeydue-2 with hunter2-hunter2: {SERVER}")
    assert said == f"creating Server honeydue-2 with [secret]: {SERVER}"
