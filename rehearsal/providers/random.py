"""The rehearsal's `random` provider: pulumi-random 4, which is terraform-provider-random 3.

Where the real one could surprise: `RandomBytes` has the base64 of its bytes as its *id*, and an id
is never encrypted in Pulumi's state. So a `RandomBytes` must not be a secret; `RandomPassword`,
whose id is the word "none", may be.
"""

from __future__ import annotations

import base64
import secrets
import uuid
from collections.abc import Callable
from typing import Final

import bcrypt

from rehearsal.engine.provider import UNKNOWN, CheckFailure, Properties
from rehearsal.providers.stateless import Kind, StatelessProvider

_DIGITS: Final = "0123456789"
_LOWER: Final = "abcdefghijklmnopqrstuvwxyz"
_UPPER: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SPECIAL: Final = "!@#$%&*()-_=+[]{}<>:?"
_CLASSES: Final = ("lower", "numeric", "special", "upper")
_MINIMA: Final = ("minLower", "minNumeric", "minSpecial", "minUpper")
_BCRYPT_COST: Final = 10  # Go's bcrypt.DefaultCost
_BCRYPT_LIMIT: Final = 72  # bytes; the algorithm takes no more, the provider cuts the rest off


class RandomProvider(StatelessProvider):
    def __init__(self, inputs: Properties) -> None:
        super().__init__("random", _KINDS, inputs)


def _plan_string(inputs: Properties) -> Properties:
    given = {name: value for name, value in inputs.items() if value is not None}
    # `number` is the deprecated name of `numeric`: each follows the other.
    numeric = given.get("numeric", given.get("number", True))
    defaults = dict.fromkeys(_CLASSES, True) | dict.fromkeys(_MINIMA, 0)
    return defaults | given | {"numeric": numeric, "number": numeric}


def _validate_string(inputs: Properties) -> list[CheckFailure]:
    planned = _plan_string(inputs)
    failures = []
    length = planned["length"]
    minima = {name: planned[name] for name in _MINIMA}
    for name, value in minima.items():
        if value is not UNKNOWN and value < 0:
            failures.append(CheckFailure(name, "must be at least 0"))
    if length is not UNKNOWN:
        if length < 1:
            failures.append(CheckFailure("length", "must be at least 1"))
        elif UNKNOWN not in minima.values() and length < sum(minima.values()):
            failures.append(
                CheckFailure(
                    "length",
                    f"must be at least {sum(minima.values())}, the sum of minUpper, minLower, "
                    "minNumeric and minSpecial",
                )
            )
    if all(planned[name] is False for name in _CLASSES):
        failures.append(
            CheckFailure("special", "one of upper, lower, numeric and special must be true")
        )
    if (
        inputs.get("number") is not None
        and inputs.get("numeric") is not None
        and inputs["number"] != inputs["numeric"]
    ):
        failures.append(CheckFailure("number", "must be equal to numeric; leave `number` out"))
    return failures


def _random_string(planned: Properties) -> str:
    special = planned.get("overrideSpecial") or _SPECIAL
    alphabets = {"upper": _UPPER, "lower": _LOWER, "numeric": _DIGITS, "special": special}
    characters = [
        secrets.choice(alphabet)
        for name, alphabet in alphabets.items()
        for _ in range(int(planned[f"min{name.capitalize()}"]))
    ]
    all_allowed = "".join(alphabet for name, alphabet in alphabets.items() if planned[name])
    while len(characters) < planned["length"]:
        characters.append(secrets.choice(all_allowed))
    secrets.SystemRandom().shuffle(characters)
    return "".join(characters)


def _make_password(planned: Properties) -> tuple[str, Properties]:
    result = _random_string(planned)
    salt = bcrypt.gensalt(_BCRYPT_COST, prefix=b"2a")
    hashed = bcrypt.hashpw(result.encode()[:_BCRYPT_LIMIT], salt).decode()
    return "none", {"result": result, "bcryptHash": hashed}


def _make_string(planned: Properties) -> tuple[str, Properties]:
    result = _random_string(planned)
    return result, {"result": result}


def _make_bytes(planned: Properties) -> tuple[str, Properties]:
    made = secrets.token_bytes(int(planned["length"]))
    encoded = base64.b64encode(made).decode()
    return encoded, {"base64": encoded, "hex": made.hex()}


def _make_id(planned: Properties) -> tuple[str, Properties]:
    made = secrets.token_bytes(int(planned["byteLength"]))
    prefix: str = planned.get("prefix") or ""
    url = base64.urlsafe_b64encode(made).rstrip(b"=").decode()
    return url, {
        "b64Url": prefix + url,
        "b64Std": prefix + base64.b64encode(made).decode(),
        "hex": prefix + made.hex(),
        "dec": prefix + str(int.from_bytes(made)),
    }


def _make_uuid(_planned: Properties) -> tuple[str, Properties]:
    made = str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
    return made, {"result": made}


def _at_least_one(name: str) -> Callable[[Properties], list[CheckFailure]]:
    def validate(inputs: Properties) -> list[CheckFailure]:
        if inputs[name] is UNKNOWN or inputs[name] >= 1:
            return []
        return [CheckFailure(name, "must be at least 1")]

    return validate


_KINDS: Final = {
    "random:index/randomPassword:RandomPassword": Kind(
        make=_make_password,
        computed=("result", "bcryptHash"),
        plan=_plan_string,
        validate=_validate_string,
    ),
    "random:index/randomString:RandomString": Kind(
        make=_make_string, computed=("result",), plan=_plan_string, validate=_validate_string
    ),
    "random:index/randomBytes:RandomBytes": Kind(
        make=_make_bytes, computed=("base64", "hex"), validate=_at_least_one("length")
    ),
    "random:index/randomId:RandomId": Kind(
        make=_make_id,
        computed=("b64Url", "b64Std", "hex", "dec"),
        validate=_at_least_one("byteLength"),
    ),
    "random:index/randomUuid:RandomUuid": Kind(make=_make_uuid, computed=("result",)),
}
