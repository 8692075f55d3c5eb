"""Signatures beside an image: made once, kept with others', and believed only for what they say."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from honeydue.images import signing
from honeydue.images.registry import Login, Registry, RegistryError
from tests.images.signers import TAG, Bench, another_key, bench, key
from tests.images.small_registry import REPOSITORY, TOKEN, USERNAME, digest_of

TWENTY_FIVE = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example signs anew
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Bench]:
    with bench() as made:
        yield made


@pytest.fixture
def b(shared: Bench) -> Bench:
    """The registry with an image that nobody has signed yet."""
    shared.content.manifests.clear()
    shared.content.blobs.clear()
    shared.content.requests.clear()
    assert shared.content.push(REPOSITORY, TAG) == shared.digest
    return shared


def sign(b: Bench, tag: str | None = TAG, *, other: bool = False) -> bool:
    return signing.sign(b.registry, REPOSITORY, b.digest, tag, another_key() if other else key())


def verify(b: Bench, tag: str | None = TAG) -> None:
    signing.verify(b.registry, REPOSITORY, b.digest, tag, key().public_key())


def refusal(b: Bench, tag: str | None = TAG) -> str:
    with pytest.raises(signing.WronglySigned) as refused:
        verify(b, tag)
    assert f"{b.name}" in str(refused.value)
    return str(refused.value)


def at(b: Bench) -> str:
    return signing.beside(b.digest, "sig")


def layers(b: Bench) -> list[dict[str, Any]]:
    return b.content.layers(REPOSITORY, at(b))


def write(b: Bench, entries: object) -> None:
    b.content.put(REPOSITORY, at(b), json.dumps({"layers": entries}).encode())


# --- round trips -------------------------------------------------------------------------------


def test_what_was_signed_verifies_under_its_tag_and_without_one(b: Bench) -> None:
    assert sign(b) is True
    verify(b)
    verify(b, None)


def test_signing_again_changes_nothing(b: Bench) -> None:
    sign(b)
    before = dict(b.content.manifests), dict(b.content.blobs)
    b.content.requests.clear()
    assert sign(b) is False
    assert (b.content.manifests, b.content.blobs) == before
    assert {request.split()[0] for request in b.content.requests} == {"GET"}


def test_the_same_bytes_under_another_tag_get_a_signature_of_their_own(b: Bench) -> None:
    sign(b)
    assert sign(b, "1111111") is True
    verify(b)
    verify(b, "1111111")
    assert len(layers(b)) == 2


def test_signatures_of_others_are_kept_as_they_are(b: Bench) -> None:
    sign(b, other=True)
    theirs = layers(b)[0]
    sign(b)
    assert layers(b)[0] == theirs
    assert len(layers(b)) == 2
    verify(b)


def test_an_image_signed_without_a_tag_is_a_release_by_digest_only(b: Bench) -> None:
    sign(b, None)
    verify(b, None)
    assert "our key's signature names no tag" in refusal(b)


def test_the_payload_is_what_cosign_would_sign(b: Bench) -> None:
    sign(b)
    payload = json.loads(b.content.blobs[layers(b)[0]["digest"]])
    assert payload == {
        "critical": {
            "identity": {"docker-reference": b.name},
            "image": {"docker-manifest-digest": b.digest},
            "type": "cosign container image signature",
        },
        "optional": {"tag": TAG},
    }


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([None, "aaaaaaa", "bbbbbbb"])), max_size=8)
)
@TWENTY_FIVE
def test_whoever_signed_what_in_which_order_a_tag_verifies_if_we_signed_it(
    b: Bench, history: list[tuple[bool, str | None]]
) -> None:
    b.content.manifests.pop((REPOSITORY, at(b)), None)
    for theirs, tag in history:
        sign(b, tag, other=theirs)
    ours = {tag for theirs, tag in history if not theirs}
    for tag in (None, "aaaaaaa", "bbbbbbb", "ccccccc"):
        if tag in ours or (tag is None and ours):
            verify(b, tag)
        else:
            with pytest.raises(signing.SignatureError):
                verify(b, tag)


# --- what is not believed ----------------------------------------------------------------------


def test_an_unsigned_image_is_named_with_its_tag_and_where_the_signature_would_be(b: Bench) -> None:
    with pytest.raises(signing.Unsigned) as refused:
        verify(b)
    assert str(refused.value) == (
        f"{b.name}@{b.digest} (tag {TAG}) is not signed: the registry has no signature beside it "
        f"(tag {at(b)})"
    )


def test_an_old_signed_image_pushed_again_under_a_new_tag_is_refused(b: Bench) -> None:
    sign(b)
    assert f"our key signed these bytes as tag {TAG}, never as 9999999" in refusal(b, "9999999")


def test_another_key_is_not_ours(b: Bench) -> None:
    sign(b, other=True)
    assert "it is signed by another key than signing.publicKey" in refusal(b)


def test_what_our_own_key_signed_is_told_before_what_others_left(b: Bench) -> None:
    sign(b, "1111111")
    for _ in range(3):
        signing.sign(b.registry, REPOSITORY, b.digest, TAG, another_key())
    assert "never as" in refusal(b)
    assert "another key" not in refusal(b)


def test_a_signature_copied_from_another_image_is_refused(b: Bench) -> None:
    sign(b)
    stolen = b.content.manifests[REPOSITORY, at(b)][1]
    other = b.content.push(REPOSITORY, "evil")
    b.content.put(REPOSITORY, signing.beside(other, "sig"), stolen)
    with pytest.raises(signing.WronglySigned) as refused:
        signing.verify(b.registry, REPOSITORY, other, TAG, key().public_key())
    assert f"our key's signature is for another image, {b.digest}" in str(refused.value)


def test_an_image_copied_with_its_signature_into_another_services_repository_is_refused(
    b: Bench,
) -> None:
    sign(b)
    worker = "admin/honeydue-worker"
    for tag in (TAG, at(b)):
        b.content.put(worker, tag, b.content.manifests[REPOSITORY, tag][1])
    with pytest.raises(signing.WronglySigned) as refused:
        signing.verify(b.registry, worker, b.digest, TAG, key().public_key())
    assert f"is for the same bytes in {b.name}" in str(refused.value)


@given(at_byte=st.integers(0, 10_000), bit=st.integers(0, 7))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_flipped_bit_in_what_was_signed_goes_through(b: Bench, at_byte: int, bit: int) -> None:
    b.content.manifests.pop((REPOSITORY, at(b)), None)
    sign(b)
    entry = layers(b)[0]
    data = bytearray(b.content.blobs[entry["digest"]])
    data[at_byte % len(data)] ^= 1 << bit
    changed = bytes(data)
    b.content.blobs[digest_of(changed)] = changed
    write(b, [entry | {"digest": digest_of(changed)}])
    assert "was changed afterwards" in refusal(b)


@given(at_byte=st.integers(0, 10_000), bit=st.integers(0, 7))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_flipped_bit_in_the_signature_goes_through(b: Bench, at_byte: int, bit: int) -> None:
    b.content.manifests.pop((REPOSITORY, at(b)), None)
    sign(b)
    entry = layers(b)[0]
    signature = bytearray(base64.b64decode(entry["annotations"][signing.SIGNATURE]))
    signature[at_byte % len(signature)] ^= 1 << bit
    changed = {signing.SIGNATURE: base64.b64encode(signature).decode()}
    write(b, [entry | {"annotations": changed}])
    assert "another key" in refusal(b)


def test_a_registry_that_serves_other_bytes_than_listed_is_not_believed(b: Bench) -> None:
    sign(b)
    b.content.blobs[layers(b)[0]["digest"]] = b"{}"
    assert "is not in the registry any more" in refusal(b)


def test_a_lost_payload_is_told_and_does_not_hide_a_good_signature(b: Bench) -> None:
    sign(b, other=True)
    del b.content.blobs[layers(b)[0]["digest"]]
    assert "is not in the registry any more" in refusal(b)
    sign(b)
    verify(b)


def test_something_else_that_our_key_signed_is_no_image_signature(b: Bench) -> None:
    other_type = signing.payload(b.name, b.digest, TAG).replace(b"container image", b"blob")
    for text in (b"[]", b'{"critical":{}}', other_type, b"not json", b"[" * 5000):
        signature = base64.b64encode(signing.make_signature(key(), text)).decode()
        blob = b.registry.push_blob(REPOSITORY, text, signing.PAYLOAD)
        entry = {
            "mediaType": signing.PAYLOAD,
            "size": blob.size,
            "digest": blob.digest,
            "annotations": {signing.SIGNATURE: signature},
        }
        write(b, [entry])
        assert "what our key signed there is not an image's signature" in refusal(b)


# --- hostile lists -----------------------------------------------------------------------------


def test_ten_thousand_signatures_are_not_looked_at(b: Bench) -> None:
    sign(b)
    write(b, layers(b) * 10_000)
    b.content.requests.clear()
    said = refusal(b)
    assert "lists 10000 entries; of more than 256 none is looked at" in said
    assert len(b.content.requests) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"annotations": {signing.SIGNATURE: "A" * 3_000_000}},
        {"annotations": {signing.SIGNATURE: "!!!"}},
        {"annotations": {signing.SIGNATURE: ""}},
        {"annotations": {}},
        {"annotations": None},
        {"mediaType": "application/vnd.oci.image.layer.v1.tar"},
        {"mediaType": None},
        {"size": 1 << 40},
        {"size": -1},
        {"digest": "sha256:../../../v2/"},
        {"digest": "sha512:" + "0" * 128},
    ],
)
def test_a_hostile_entry_is_passed_over(b: Bench, change: dict[str, object]) -> None:
    sign(b)
    entry = layers(b)[0]
    write(b, [entry | change])
    b.content.requests.clear()
    refusal(b)
    assert not [request for request in b.content.requests if "blobs" in request]
    write(b, [entry | change, entry])
    verify(b)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"layers": null}',
        b'{"layers": 3}',
        b'{"layers": {}}',
        b'{"layers": [3]}',
        b'{"layers": [{}]}',
        b'{"layers": [{"digest": 1, "size": 1}]}',
        b'{"layers": [{"digest": "sha256:0", "size": "1"}]}',
        b'{"layers": [{"digest": "sha256:0", "size": 1, "annotations": {"a": 1}}]}',
        b'{"layers": [{"digest": "sha256:0", "size": 1, "annotations": "a"}]}',
        b'{"manifests": []}',
    ],
)
def test_what_is_no_list_is_neither_believed_nor_overwritten(b: Bench, body: bytes) -> None:
    b.content.put(REPOSITORY, at(b), body)
    said = refusal(b)
    assert f"{b.name}:{at(b)} is no list of signatures. Delete that tag in the registry" in said
    with pytest.raises(signing.SignatureError):
        sign(b)
    assert b.content.manifests[REPOSITORY, at(b)][1] == body


@pytest.mark.parametrize("body", [b"", b"not json", b"null", b"[]", b"[" * 100_000])
def test_what_is_no_manifest_at_all_is_the_registrys_fault(b: Bench, body: bytes) -> None:
    b.content.put(REPOSITORY, at(b), body)
    for attempt in (verify, sign):
        with pytest.raises(RegistryError, match=re.escape(at(b))) as refused:
            attempt(b)
        assert refused.value.kind == "broken"
    assert b.content.manifests[REPOSITORY, at(b)][1] == body


def test_what_a_stranger_wrote_cannot_steer_the_terminal(b: Bench) -> None:
    signing.sign(b.registry, REPOSITORY, b.digest, "\x1b[2J" + "x" * 1000, key())
    said = refusal(b)
    assert said.isprintable()
    assert len(said) < 600


def test_a_full_list_is_told_and_kept(b: Bench) -> None:
    sign(b, other=True)
    write(b, layers(b) * signing.MOST_LAYERS)
    with pytest.raises(signing.SignatureError, match="is full with 256 signatures"):
        sign(b)
    assert len(layers(b)) == signing.MOST_LAYERS


# --- the registry ------------------------------------------------------------------------------


def test_a_registry_that_refuses_is_no_verdict_on_the_image(b: Bench) -> None:
    sign(b)
    with (
        Registry(b.content.server, Login(USERNAME, "wrong")) as stranger,
        pytest.raises(RegistryError) as refused,
    ):
        signing.verify(stranger, REPOSITORY, b.digest, TAG, key().public_key())
    assert refused.value.kind == "credentials"


def test_a_registry_that_breaks_off_while_it_is_asked_is_no_verdict_either(
    b: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(b)
    down = RegistryError("unreachable", "fetching it failed", "wait")

    def fail(*_: object) -> bytes:
        raise down

    monkeypatch.setattr(Registry, "blob", fail)
    with pytest.raises(RegistryError) as refused:
        verify(b)
    assert refused.value is down


class Overwriting(Registry):
    """Another deploy that pushes its list right after ours, `times` times."""

    def __init__(self, b: Bench, times: int, theirs: Callable[[], bytes]) -> None:
        super().__init__(b.content.server, Login(USERNAME, TOKEN))
        self._b, self._left, self._theirs = b, times, theirs

    def push_manifest(self, repository: str, reference: str, body: bytes, media_type: str) -> str:
        digest = super().push_manifest(repository, reference, body, media_type)
        if self._left:
            self._left -= 1
            self._b.content.put(repository, reference, self._theirs())
        return digest


def test_two_deploys_that_sign_at_once_end_with_both_signatures(b: Bench) -> None:
    sign(b, "1111111")
    theirs = b.content.manifests[REPOSITORY, at(b)][1]
    with Overwriting(b, 2, lambda: theirs) as registry:
        assert signing.sign(registry, REPOSITORY, b.digest, TAG, key()) is True
    verify(b)
    verify(b, "1111111")


def test_a_tag_that_somebody_keeps_overwriting_is_told(b: Bench) -> None:
    sign(b, "1111111")
    theirs = b.content.manifests[REPOSITORY, at(b)][1]
    with (
        Overwriting(b, 1000, lambda: theirs) as registry,
        pytest.raises(signing.SignatureError, match="something keeps overwriting the tag"),
    ):
        signing.sign(registry, REPOSITORY, b.digest, TAG, key())
