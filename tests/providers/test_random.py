"""The random provider: real randomness, the vendor's defaults and replacement rules."""

from __future__ import annotations

import base64
import string
from uuid import UUID

import bcrypt
import pytest

from rehearsal.engine.provider import UNKNOWN, CheckFailure, Context, ProviderError
from rehearsal.providers.random import RandomProvider

PASSWORD = "random:index/randomPassword:RandomPassword"
BYTES = "random:index/randomBytes:RandomBytes"
ID = "random:index/randomId:RandomId"
UUID4 = "random:index/randomUuid:RandomUuid"
STRING = "random:index/randomString:RandomString"
CTX = Context(urn="urn:pulumi:t::p::t::x")
PREVIEW = Context(urn="urn:pulumi:t::p::t::x", dry_run=True)


@pytest.fixture
def provider() -> RandomProvider:
    return RandomProvider({})


def test_a_password_has_its_length_its_hash_and_the_defaults_in_its_outputs(
    provider: RandomProvider,
) -> None:
    id_, outputs = provider.create(PASSWORD, {"length": 40}, CTX)
    assert id_ == "none"
    assert len(outputs["result"]) == 40
    assert bcrypt.checkpw(outputs["result"].encode(), outputs["bcryptHash"].encode())
    assert outputs["special"] is True
    assert outputs["numeric"] is outputs["number"] is True
    assert outputs["minUpper"] == 0
    assert provider.create(PASSWORD, {"length": 40}, CTX)[1]["result"] != outputs["result"]


def test_a_password_longer_than_bcrypt_takes_is_still_hashed(provider: RandomProvider) -> None:
    _, outputs = provider.create(PASSWORD, {"length": 100}, CTX)
    assert bcrypt.checkpw(outputs["result"][:72].encode(), outputs["bcryptHash"].encode())


def test_a_password_keeps_to_the_classes_and_minima_asked_for(provider: RandomProvider) -> None:
    inputs = {"length": 12, "special": True, "overrideSpecial": "#", "minSpecial": 5}
    inputs |= {"upper": False, "minNumeric": 3}
    for _ in range(20):
        result = provider.create(STRING, inputs, CTX)[1]["result"]
        assert result.count("#") >= 5
        assert sum(c in string.digits for c in result) >= 3
        assert set(result) <= {*string.ascii_lowercase, *string.digits, "#"}


def test_a_preview_makes_nothing_and_knows_the_inputs(provider: RandomProvider) -> None:
    id_, outputs = provider.create(PASSWORD, {"length": 8}, PREVIEW)
    assert id_ == ""
    assert outputs["result"] is outputs["bcryptHash"] is UNKNOWN
    assert outputs["length"] == 8


def test_bytes_are_the_same_in_base64_and_hex_and_name_the_resource(
    provider: RandomProvider,
) -> None:
    id_, outputs = provider.create(BYTES, {"length": 32}, CTX)
    assert base64.b64decode(outputs["base64"]).hex() == outputs["hex"]
    assert len(outputs["hex"]) == 64
    assert id_ == outputs["base64"]


def test_an_id_is_given_in_every_form_with_its_prefix(provider: RandomProvider) -> None:
    id_, outputs = provider.create(ID, {"byteLength": 3, "prefix": "node-"}, CTX)
    number = int(outputs["hex"].removeprefix("node-"), 16)
    assert outputs["dec"] == f"node-{number}"
    assert outputs["b64Url"] == f"node-{id_}"
    assert base64.b64decode(outputs["b64Std"].removeprefix("node-")) == number.to_bytes(3)


def test_a_uuid_is_of_version_four(provider: RandomProvider) -> None:
    id_, outputs = provider.create(UUID4, {}, CTX)
    assert UUID(outputs["result"]).version == 4
    assert id_ == outputs["result"]


@pytest.mark.parametrize(
    ("inputs", "failure"),
    [
        ({"length": 0}, CheckFailure("length", "must be at least 1")),
        (
            {"length": 3, "minUpper": 2, "minLower": 2},
            CheckFailure(
                "length",
                "must be at least 4, the sum of minUpper, minLower, minNumeric and minSpecial",
            ),
        ),
        (
            {"lenght": 3, "length": 3},
            CheckFailure("lenght", "unknown property; did you mean 'length'?"),
        ),
        ({}, CheckFailure("length", "is required")),
        (
            {"length": 3, "upper": False, "lower": False, "numeric": False, "special": False},
            CheckFailure("special", "one of upper, lower, numeric and special must be true"),
        ),
    ],
)
def test_wrong_inputs_are_refused_by_name(
    provider: RandomProvider, inputs: dict[str, object], failure: CheckFailure
) -> None:
    assert provider.check(PASSWORD, None, inputs)[1] == [failure]


def test_every_change_replaces_and_a_default_written_out_is_no_change(
    provider: RandomProvider,
) -> None:
    old = {"length": 8, "keepers": {"generation": "1"}}
    _, outputs = provider.create(PASSWORD, old, CTX)
    written_out = old | {"special": True, "numeric": True}
    assert provider.diff(PASSWORD, "none", old, outputs, written_out).changed == ()
    diff = provider.diff(PASSWORD, "none", old, outputs, old | {"keepers": {"generation": "2"}})
    assert diff.changed == diff.replaces == ("keepers.generation",)
    assert provider.diff(PASSWORD, "none", old, outputs, {"length": UNKNOWN}).replaces


def test_a_refresh_keeps_what_the_state_has(provider: RandomProvider) -> None:
    id_, outputs = provider.create(PASSWORD, {"length": 8}, CTX)
    assert provider.read(PASSWORD, id_, {"length": 8}, outputs, CTX) == ({"length": 8}, outputs)


def test_an_unknown_type_or_function_is_an_error(provider: RandomProvider) -> None:
    with pytest.raises(ProviderError, match="has no type 'random:index/randomPet:RandomPet'"):
        provider.create("random:index/randomPet:RandomPet", {}, CTX)
    with pytest.raises(ProviderError, match="has no function"):
        provider.invoke("random:index/getDice:getDice", {})
