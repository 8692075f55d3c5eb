"""Nothing that anything needs is ever deleted: over random registries and random histories."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from honeydue.images.references import CACHE_TAG
from ops.retention import (
    SETTLED,
    Reference,
    Retention,
    Version,
    retain,
)
from tests.ops.registries import (
    IMAGES,
    NOW,
    attached,
    digest,
    histories,
    pulled,
    registries,
    version,
)

KEEP = st.integers(1, 4)
worlds = registries().flatmap(lambda found: st.tuples(st.just(found), histories(found)))


def decide(
    versions: list[Version], references: dict[Reference, str] | None = None, keep: int = 1
) -> Retention:
    return retain(versions, references or {}, keep=keep, now=NOW)


def newest(versions: list[Version], image: str, keep: int) -> list[Version]:
    found = [v for v in versions if v.image == image and v.is_release]
    return sorted(found, key=lambda v: (v.created, v.id))[-keep:]


# --- properties ---------------------------------------------------------------------------------


@given(worlds, KEEP)
@settings(max_examples=500, deadline=None)
def test_whatever_could_be_pulled_still_can(
    world: tuple[list[Version], dict[Reference, str]], keep: int
) -> None:
    versions, references = world
    left = list(decide(versions, references, keep).kept)
    needed = [
        *references,
        *(Reference(i, v.name) for i in IMAGES for v in newest(versions, i, keep)),
        *(Reference(i, CACHE_TAG) for i in IMAGES),
    ]
    for reference in needed:
        assert pulled(left, reference) == pulled(versions, reference)


@given(worlds, KEEP)
@settings(max_examples=100, deadline=None)
def test_everything_either_stays_or_goes(
    world: tuple[list[Version], dict[Reference, str]], keep: int
) -> None:
    decided = decide(*world, keep)
    assert sorted([*decided.kept, *decided.goes], key=str) == sorted(world[0], key=str)
    assert len(set(decided.goes)) == len(decided.goes)


@given(worlds, KEEP)
@settings(max_examples=100, deadline=None)
def test_the_newest_releases_always_stay(
    world: tuple[list[Version], dict[Reference, str]], keep: int
) -> None:
    goes = set(decide(*world, keep).goes)
    assert not goes & {v for image in IMAGES for v in newest(world[0], image, keep)}


@given(worlds, KEEP)
@settings(max_examples=100, deadline=None)
def test_what_stays_is_closed_under_children_and_signatures(
    world: tuple[list[Version], dict[Reference, str]], keep: int
) -> None:
    decided = decide(*world, keep)
    kept = {(v.image, v.digest) for v in decided.kept}
    parts = {(v.image, child) for v in decided.kept for child in v.children}
    for gone in decided.goes:
        assert (gone.image, gone.digest) not in kept
        assert (gone.image, gone.digest) not in parts
        assert not {(gone.image, owner) for owner in gone.owners} & kept


@given(worlds, KEEP)
@settings(max_examples=100, deadline=None)
def test_deleting_twice_is_deleting_once(
    world: tuple[list[Version], dict[Reference, str]], keep: int
) -> None:
    versions, references = world
    left = list(decide(versions, references, keep).kept)
    assert decide(left, references, keep).goes == ()


@given(worlds, KEEP, st.data())
@settings(max_examples=100, deadline=None)
def test_more_references_never_delete_more(
    world: tuple[list[Version], dict[Reference, str]], keep: int, data: st.DataObject
) -> None:
    versions, references = world
    more = references | data.draw(histories(versions))
    assert set(decide(versions, more, keep).goes) <= set(decide(versions, references, keep).goes)


@given(worlds, KEEP)
@settings(max_examples=100, deadline=None)
def test_keeping_more_releases_never_deletes_more(
    world: tuple[list[Version], dict[Reference, str]], keep: int
) -> None:
    assert set(decide(*world, keep + 1).goes) <= set(decide(*world, keep).goes)


@given(worlds, KEEP, st.data())
@settings(max_examples=100, deadline=None)
def test_a_run_that_stops_anywhere_loses_nothing_and_the_next_one_goes_on(
    world: tuple[list[Version], dict[Reference, str]], keep: int, data: st.DataObject
) -> None:
    versions, references = world
    goes = decide(versions, references, keep).goes
    done = data.draw(st.integers(0, len(goes)))
    left = [v for v in versions if v not in goes[:done]]
    assert set(decide(left, references, keep).goes) == set(goes[done:])


@given(worlds, KEEP)
@settings(max_examples=100, deadline=None)
def test_an_index_goes_before_its_children(
    world: tuple[list[Version], dict[Reference, str]], keep: int
) -> None:
    goes = decide(*world, keep).goes
    # A tag that says that an index belongs to its own child is nobody's work.
    assume(not any(child in v.owners for v in goes for child in v.children))
    assume(not any(v.name.startswith("sha256-") and v.children for v in goes))
    for place, one in enumerate(goes):
        for later in goes[place + 1 :]:
            assert not (one.image == later.image and one.digest in later.children)


@given(worlds, KEEP)
@settings(max_examples=100, deadline=None)
def test_bytes_that_anything_kept_shares_are_not_counted_as_freed(
    world: tuple[list[Version], dict[Reference, str]], keep: int
) -> None:
    decided = decide(*world, keep)
    before = {blob: size for v in world[0] for blob, size in v.blobs.items()}
    after = {blob for v in decided.kept for blob in v.blobs}
    assert decided.freed == sum(size for blob, size in before.items() if blob not in after)


def test_the_random_registries_have_everything_to_go_wrong_with() -> None:
    """The properties above would hold for registries without anything in them."""
    seen: set[str] = set()

    @given(worlds)
    @settings(max_examples=300, deadline=None, database=None, derandomize=True)
    def look(world: tuple[list[Version], dict[Reference, str]]) -> None:
        decided = decide(*world, 1)
        seen.update(reason.split(" of ")[0].split(" as ")[0] for reason in decided.kept.values())
        seen.update("goes with children" for v in decided.goes if v.children)
        seen.update("goes as a signature" for v in decided.goes if v.owners)
        seen.update("goes untagged" for v in decided.goes if v.name == v.digest)

    look()
    assert seen >= {
        *("running", "release record", "last 1", "layer cache", "tagged by hand", "just pushed"),
        *("child", "signature", "attestation", "SBOM", "referrer", "same bytes"),
        *("goes with children", "goes as a signature", "goes untagged"),
    }


# --- one by one ---------------------------------------------------------------------------------


def test_only_the_last_releases_stay_when_nothing_refers_to_any() -> None:
    releases = [version(f"{n:07x}", days=n) for n in range(1, 6)]
    decided = decide(releases, keep=2)
    assert decided.kept == {releases[0]: "last 2", releases[1]: "last 2"}
    assert decided.goes == (releases[4], releases[3], releases[2])


def test_releases_are_counted_for_each_image_by_itself() -> None:
    old = version("aaaaaaa", image="honeydue-admin", days=300)
    api = [version(f"{n:07x}", days=n) for n in range(1, 6)]
    assert decide([old, *api], keep=1).kept == {old: "last 1", api[0]: "last 1"}


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_what_a_replicaset_refers_to_stays(by: str) -> None:
    old, new = version("aaaaaaa", days=99), version("bbbbbbb", days=1)
    name = old.name if by == "tag" else old.digest
    assert decide([old, new], {Reference("honeydue-api", name): "running"}).goes == ()


def test_a_digest_of_another_image_protects_nothing() -> None:
    """Gitea finds a manifest in its own package only, so a reference cannot mean another's."""
    old, new = version("aaaaaaa", days=99), version("bbbbbbb", days=1)
    assert decide([old, new], {Reference("honeydue-admin", old.digest): "running"}).goes == (old,)


def test_another_tag_of_the_same_bytes_stays_too() -> None:
    same = digest("bytes")
    old, new = version("aaaaaaa", same, days=99), version("bbbbbbb", same, days=1)
    assert decide([old, new]).kept == {new: "last 1", old: "same bytes as bbbbbbb"}


def test_the_old_manifest_of_an_overwritten_tag_goes_unless_it_runs() -> None:
    left, new = version(digest("old bytes")), version("bbbbbbb", digest("new bytes"), days=1)
    assert decide([left, new]).goes == (left,)
    assert decide([left, new], {Reference("honeydue-api", left.digest): "running"}).goes == ()


def test_platforms_and_their_attestations_stay_with_their_index() -> None:
    amd, arm, provenance = (version(digest(name)) for name in ("amd", "arm", "provenance"))
    index = version("bbbbbbb", children=[amd.digest, arm.digest, provenance.digest], days=1)
    decided = decide([amd, arm, provenance, index])
    assert decided.goes == ()
    assert decided.kept[amd] == "child of bbbbbbb"


def test_signatures_sboms_and_signatures_of_signatures_stay_and_go_with_their_image() -> None:
    def release(name: str, days: float) -> list[Version]:
        image = version(name, days=days)
        signature = version(attached(image.digest), days=days)
        sbom = version(attached(image.digest, ".att"), days=days)
        again = version(attached(signature.digest), days=days)
        return [image, signature, sbom, again]

    old, new = release("aaaaaaa", 99), release("bbbbbbb", 1)
    decided = decide([*old, *new])
    assert decided.kept[new[1]] == "signature of bbbbbbb"
    assert set(decided.kept) == set(new)
    assert set(decided.goes) == set(old)
    assert decided.goes[0] == old[0]  # the image first: its signature is missed by nobody then


def test_a_referrer_by_subject_stays_with_its_image() -> None:
    image = version("bbbbbbb", days=1)
    referrer = version(digest("referrer"), subject=image.digest)
    assert decide([image, referrer]).kept[referrer] == "referrer of bbbbbbb"


def test_a_pin_stays_as_long_as_its_digest_is_needed_and_no_longer() -> None:
    """The tag was overwritten; what was deployed before is still there by its pin alone."""
    old = digest("old bytes")
    pin, new = version(attached(old, ".pin"), old), version("bbbbbbb", days=1)
    assert decide([pin, new], {Reference("honeydue-api", old): "running"}).kept[pin] == "running"
    assert decide([pin, new]).goes == (pin,)
    released = version("aaaaaaa", old, days=0.5)
    assert decide([pin, released]).goes == ()


def test_a_signature_of_nothing_goes() -> None:
    assert decide([version(attached(digest("gone")))]).goes != ()


def test_the_layer_cache_and_tags_by_hand_stay() -> None:
    cache, mine = version(CACHE_TAG), version("before-migration")
    assert decide([cache, mine]).kept == {cache: "layer cache", mine: "tagged by hand"}


def test_what_was_just_pushed_stays_since_its_push_may_be_under_way() -> None:
    child = version(digest("child"), days=0.01)
    assert decide([child]).kept == {child: "just pushed"}
    later = retain([child], {}, keep=1, now=NOW + SETTLED)
    assert later.goes == (child,)


def test_what_is_new_and_needed_is_kept_for_what_needs_it() -> None:
    image = version("bbbbbbb", days=0.01)
    signature = version(attached(image.digest), days=0.01)
    decided = decide([image, signature], {Reference("honeydue-api", image.digest): "running"})
    assert decided.kept == {image: "running", signature: "signature of bbbbbbb"}


def test_of_two_reasons_the_more_telling_one_is_told() -> None:
    """A pod runs the digest; the Deployment's annotation names the tag."""
    image = version("bbbbbbb")
    by_digest, by_tag = (Reference("honeydue-api", name) for name in (image.digest, image.name))
    for told, other in ((by_digest, by_tag), (by_tag, by_digest)):
        assert decide([image], {told: "running", other: "remembered"}).kept == {image: "running"}


def test_a_dirty_release_is_a_release() -> None:
    dirty = version("aaaaaaa-dirty-0123456789ab", days=2)
    assert decide([dirty, version("bbbbbbb", days=1)]).goes == (dirty,)


def test_of_two_releases_of_the_same_second_the_later_row_is_newer() -> None:
    old, new = version("aaaaaaa", days=5), version("bbbbbbb", days=5)
    first, second = sorted((old, new), key=lambda v: v.id)
    assert decide([old, new]).goes == (first,)
    assert second in decide([old, new]).kept


def test_a_thousand_signatures_of_signatures_are_no_recursion() -> None:
    chain = [version("aaaaaaa", days=99)]
    for _ in range(1500):
        chain.append(version(attached(chain[-1].digest)))
    goes = decide([*chain, version("bbbbbbb", days=1)]).goes
    assert list(goes) == chain


def test_shared_layers_are_not_freed() -> None:
    base = {digest("base"): 50_000_000}
    old = version("aaaaaaa", days=99, blobs={**base, digest("old"): 7_000_000})
    new = version("bbbbbbb", days=1, blobs={**base, digest("new"): 8_000_000})
    assert decide([old, new]).freed == 7_001_000


def test_nothing_at_all_is_no_fault() -> None:
    assert decide([]) == Retention({}, (), 0)
