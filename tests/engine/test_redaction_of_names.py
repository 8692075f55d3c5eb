"""A secret value may repeat a resource's name; an error must name the resource all the same."""

from __future__ import annotations

import json

from rehearsal.engine.redaction import Redaction
from rehearsal.engine.values import Secret
from tests.engine.conftest import Lab

SERVER = "urn:pulumi:rehearsal::honeydue::hcloud:index/server:Server::honeydue-2"


def test_a_name_stays_readable_and_the_secret_beside_it_does_not() -> None:
    redaction = Redaction()
    redaction.learn({"environment": Secret({"NODE": "honeydue-2", "TOKEN": "hunter2-hunter2"})})
    redaction.name(SERVER)
    said = redaction.text(f"creating Server honeydue-2 with hunter2-hunter2: {SERVER}")
    assert said == f"creating Server honeydue-2 with [secret]: {SERVER}"


def test_what_the_program_says_in_the_open_stays_readable() -> None:
    """A command's environment is secret as a whole in its outputs; in its inputs only the token."""
    redaction = Redaction()
    environment = {"IMAGE": "registry/honeydue-api", "TOKEN": Secret("hunter2-hunter2")}
    redaction.declared({"environment": environment})
    redaction.learn({"environment": Secret({**environment, "TOKEN": "hunter2-hunter2"})})
    said = redaction.text("registry/honeydue-api refuses hunter2-hunter2")
    assert said == "registry/honeydue-api refuses [secret]"


def test_a_secret_of_the_stack_is_one_even_when_the_program_says_it_in_the_open() -> None:
    redaction = Redaction()
    redaction.configured(["hunter2-hunter2"])
    redaction.declared({"label": "hunter2-hunter2"})
    assert redaction.text("it was hunter2-hunter2") == "it was [secret]"


SECRETIVE = """
Thing("a", secretive={"image": "registry/honeydue-api", "token": Output.secret("hunter2-hunter2")},
      opts=opts(additional_secret_outputs=["secretive"]))
"""


def test_what_the_last_run_said_in_the_open_stays_readable_before_this_one_says_it_again(
    lab: Lab,
) -> None:
    """What comes first fails, so the other is not declared again."""
    lab.up(SECRETIVE)
    refusal = 'Thing("b", boom="registry/honeydue-api refuses hunter2-hunter2", opts=opts())'
    lab.run("up", refusal)
    assert lab.failures["b"] == "registry/honeydue-api refuses [secret]"


def test_what_the_stack_file_says_in_the_open_stays_readable_and_its_secrets_do_not(
    lab: Lab,
) -> None:
    lab.up(SECRETIVE)
    sealed = lab.deployment()._opened()[0].encrypt("hunter2-hunter2")
    lab.config = json.dumps(
        {"shop:registry": {"server": "registry.honeydue.test", "token": {"secure": sealed}}}
    )
    secretive = 'Output.secret({"server": "registry.honeydue.test"})'
    refusal = "registry.honeydue.test refuses hunter2-hunter2"
    lab.run("up", f'Thing("b", secretive={secretive}, boom="{refusal}", opts=opts())')
    assert lab.failures["b"] == "registry.honeydue.test refuses [secret]"
