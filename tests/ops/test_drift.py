"""What differs from what the last `up` left, and what is none.

golden/as-deployed.json: inputs out of a state, and what a real API server (v1.34.4) made of them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ops import drift
from ops.drift import Record, differences, of_objects, of_records, problems
from ops.engine import Engine
from ops.problems import Refused
from rehearsal.clouds.cloudflare import Cloudflare
from rehearsal.clouds.http import Listener

Json = dict[str, Any]
Path_ = tuple[str | int, ...]

NOW = datetime(2026, 11, 22, 3, 0, 0, tzinfo=UTC)
ZONE = "0123456789abcdef0123456789abcdef"
TOKEN = "canary" + "0" * 34
AGAIN = "refresh && up"
DEPLOYED: list[Json] = json.loads(
    (Path(__file__).parent / "golden" / "as-deployed.json").read_text()
)


def deployed(kind: str) -> tuple[Json, Json]:
    """(inputs, live) of the one of that kind."""
    found = next(each for each in DEPLOYED if each["type"].endswith(f":{kind}"))
    return copy.deepcopy(found["inputs"]), copy.deepcopy(found["live"])


def api() -> tuple[Json, Json]:
    return deployed("Deployment")


def container(live: Json) -> Json:
    found: Json = live["spec"]["template"]["spec"]["containers"][0]
    return found


def owned(live: Json, manager: str, fields: Json, **more: str) -> None:
    """`manager` has just set these fields; he is the only owner of what he took."""
    entry = {"manager": manager, "operation": "Update", "time": "2026-11-22T00:00:00Z"}
    live["metadata"]["managedFields"].append({**entry, "fieldsV1": fields, **more})


def told(inputs: Json, live: Json, what: str = "api") -> list[str]:
    return [each.what for each in problems(differences(what, inputs, live, AGAIN), NOW)]


# --- the cluster --------------------------------------------------------------------------------


def kind_of(one: Json) -> str:
    return str(one["type"].rpartition(":")[2])


@pytest.mark.parametrize("one", DEPLOYED, ids=kind_of)
def test_what_a_real_api_server_adds_by_itself_is_no_drift(one: Json) -> None:
    name = one["inputs"]["metadata"]["name"]
    assert differences(name, one["inputs"], one["live"], AGAIN) == []


def leaves(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from leaves(below, (*path, key))
    elif isinstance(value, list):
        for number, below in enumerate(value):
            yield from leaves(below, (*path, number))
    else:
        yield path


def at(value: Any, path: Sequence[str | int]) -> Any:
    for key in path:
        value = value[key]
    return value


def aligned(inputs: Any, live: Any, path: Path_) -> Path_:
    """The same place in `live`, whose keyed lists may be in another order."""
    found: list[str | int] = []
    for key in path:
        index = key
        if isinstance(key, int):
            mine = inputs[key]
            name = mine.get("name") if isinstance(mine, dict) else None
            for other, each in enumerate(live):
                if name is not None and each.get("name") == name:
                    index = other
        found.append(index)
        inputs, live = inputs[key], live[index]
    return tuple(found)


@pytest.mark.parametrize("change", ["changed", "removed"])
@pytest.mark.parametrize("one", DEPLOYED, ids=kind_of)
def test_every_field_that_the_program_sets_is_watched(one: Json, change: str) -> None:
    unwatched = []
    for path in leaves(one["inputs"]["spec"], ("spec",)):
        live = copy.deepcopy(one["live"])
        *above, last = aligned(one["inputs"], live, path)
        parent = at(live, above)
        if change == "removed":
            del parent[last]
        else:
            old = parent[last]
            parent[last] = (not old) if isinstance(old, bool) else f"other-{old}"
        found = differences(one["inputs"]["metadata"]["name"], one["inputs"], live, AGAIN)
        if [each.mend for each in found] != [AGAIN]:
            unwatched.append((path, found))
    assert unwatched == []


def test_replicas_that_were_changed_are_told_with_who_and_when() -> None:
    inputs, live = api()
    live["spec"]["replicas"] = 1
    owned(live, "kubectl-edit", {"f:spec": {"f:replicas": {}}})
    assert told(inputs, live) == [
        "api: replicas 3 → 1 (changed by hand, field manager kubectl-edit, 3 h ago)"
    ]


def test_two_fields_of_one_hand_are_one_line() -> None:
    inputs, live = api()
    live["spec"]["replicas"] = 1
    container(live)["image"] = "gitea.test/admin/honeydue-api@sha256:" + "b" * 64
    mine: Json = {'k:{"name":"api"}': {"f:image": {}}}
    template = {"f:spec": {"f:containers": mine}}
    owned(live, "kubectl-edit", {"f:spec": {"f:replicas": {}, "f:template": template}})
    digest = inputs["spec"]["template"]["spec"]["containers"][0]["image"].rpartition(":")[2][:12]
    assert told(inputs, live) == [
        f"api: replicas 3 → 1; image {digest} → bbbbbbbbbbbb "
        "(changed by hand, field manager kubectl-edit, 3 h ago)"
    ]


def test_a_field_whose_owner_does_not_say_when_is_still_told() -> None:
    inputs, live = api()
    live["spec"]["replicas"] = 2
    entry = {"manager": "kubectl", "operation": "Update", "subresource": "scale"}
    live["metadata"]["managedFields"].append({**entry, "fieldsV1": {"f:spec": {"f:replicas": {}}}})
    assert told(inputs, live) == ["api: replicas 3 → 2 (changed by hand, field manager kubectl)"]


def test_what_another_run_of_pulumi_has_set_was_not_changed_by_hand() -> None:
    inputs, live = api()
    live["spec"]["replicas"] = 5
    assert told(inputs, live) == [
        "api: replicas 3 → 5 (set by a run of which this state knows nothing)"
    ]


@pytest.mark.parametrize(
    ("wanted", "live", "same"),
    [
        ("1000m", "1", True),
        ("0.25", "250m", True),
        ("1Gi", "1024Mi", True),
        ("512Mi", "512M", False),
        (1, "1", True),
        (1.0, "1000m", True),
    ],
)
def test_quantities_are_compared_by_value(wanted: Any, live: str, same: bool) -> None:
    inputs, there = api()
    inputs["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] = wanted
    container(there)["resources"]["requests"]["cpu"] = live
    assert (told(inputs, there) == []) is same


def test_numbers_that_the_state_has_as_floats_or_text_are_the_same() -> None:
    inputs, live = api()
    inputs["spec"]["replicas"] = 3.0
    inputs["spec"]["strategy"]["rollingUpdate"]["maxSurge"] = "1"
    assert told(inputs, live) == []


def test_a_restart_and_a_pause_are_no_drift() -> None:
    inputs, live = api()
    live["spec"]["paused"] = True
    live["spec"]["template"]["metadata"]["annotations"] = {
        "kubectl.kubernetes.io/restartedAt": "2026-11-22T00:00:00Z"
    }
    restarted: Json = {"f:annotations": {".": {}, "f:kubectl.kubernetes.io/restartedAt": {}}}
    owned(live, "kubectl-rollout", {"f:spec": {"f:template": {"f:metadata": restarted}}})
    owned(live, "kubectl", {"f:spec": {"f:paused": {}}})
    assert told(inputs, live) == []


def test_an_environment_variable_that_was_added_is_told_without_its_value() -> None:
    inputs, live = api()
    container(live)["env"].append({"name": "DEBUG", "value": "hunter2-canary"})
    mine: Json = {'k:{"name":"api"}': {"f:env": {'k:{"name":"DEBUG"}': {".": {}, "f:value": {}}}}}
    owned(live, "kubectl-set", {"f:spec": {"f:template": {"f:spec": {"f:containers": mine}}}})
    (found,) = problems(differences("api", inputs, live, AGAIN), NOW)
    assert str(found) == (
        "api: env DEBUG is not the program's (added by hand, field manager kubectl-set, 3 h ago)\n"
        "    mend   take it out: kubectl -n honeydue edit deployment api"
    )


def test_an_environment_variable_that_was_changed_is_told_without_its_value() -> None:
    inputs, live = api()
    container(live)["env"][0]["value"] = "hunter2-canary"
    (found,) = told(inputs, live)
    assert found.startswith("api: env PORT.value differs (")
    assert "canary" not in found


def test_a_container_that_was_taken_out_is_gone_and_a_sidecar_is_added() -> None:
    inputs, live = api()
    container(live)["name"] = "other"
    mine: Json = {'k:{"name":"other"}': {".": {}, "f:name": {}}}
    owned(live, "kubectl-edit", {"f:spec": {"f:template": {"f:spec": {"f:containers": mine}}}})
    said = told(inputs, live)
    assert any(each.startswith("api: containers api is gone (") for each in said), said
    assert any("containers other is not the program's (added by hand" in each for each in said)


def test_what_the_state_holds_encrypted_is_not_compared() -> None:
    inputs, live = deployed("Service")
    inputs["spec"]["ports"] = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb4"}
    assert told(inputs, live) == []


def test_a_label_that_was_changed_is_drift_and_the_change_cause_is_not() -> None:
    inputs, live = api()
    live["metadata"]["labels"]["app.kubernetes.io/name"] = "other"
    live["metadata"]["annotations"]["kubernetes.io/change-cause"] = "kubectl set image"
    (said,) = told(inputs, live)
    assert said.startswith("api: metadata.labels.app.kubernetes.io/name api → other (")


def test_an_owner_with_a_terminals_escapes_in_his_name_is_one_line_of_print() -> None:
    inputs, live = api()
    live["spec"]["replicas"] = 1
    owned(live, "me\x1b[2J\n", {"f:spec": {"f:replicas": {}}})
    (said,) = told(inputs, live)
    assert "field manager me?[2J?," in said


def resources() -> list[Json]:
    secret = {"metadata": {"name": "honeydue-secrets-1", "namespace": "honeydue"}, "data": {}}
    elsewhere = {"metadata": {"name": "traefik", "namespace": "kube-system"}}
    return [
        *copy.deepcopy(DEPLOYED),
        {"type": "kubernetes:core/v1:Secret", "inputs": secret},
        {"type": "kubernetes:core/v1:Service", "inputs": elsewhere},
        {**copy.deepcopy(DEPLOYED[0]), "delete": True},
        {"type": "pulumi:pulumi:Stack"},
    ]


def lists() -> dict[str, list[Any]]:
    plurals = {
        "Deployment": "deployments",
        "StatefulSet": "statefulsets",
        "Service": "services",
        "Ingress": "ingresses",
        "NetworkPolicy": "networkpolicies",
        "PodDisruptionBudget": "poddisruptionbudgets",
    }
    found: dict[str, list[Any]] = {"secrets": [{"metadata": {"name": "honeydue-secrets-1"}}]}
    for each in DEPLOYED:
        plural = plurals[each["type"].rpartition(":")[2]]
        found.setdefault(plural, []).append(copy.deepcopy(each["live"]))
    return found


def test_a_whole_namespace_as_it_was_left_has_no_drift() -> None:
    assert of_objects(resources(), lists(), AGAIN) == []


@pytest.mark.parametrize(
    ("plural", "told"),
    [
        ("deployments", "api: missing (deleted by hand)"),
        ("networkpolicies", "NetworkPolicy allow-https: missing (deleted by hand)"),
        ("secrets", "Secret honeydue-secrets-1: missing (deleted by hand)"),
    ],
)
def test_an_object_that_was_deleted_is_missing(plural: str, told: str) -> None:
    found = of_objects(resources(), {**lists(), plural: []}, AGAIN)
    assert [each.what for each in problems(found, NOW)] == [told]
    assert [each.mend for each in found] == [AGAIN]


def test_a_kind_that_could_not_be_listed_is_not_called_missing() -> None:
    listed = {plural: found for plural, found in lists().items() if plural != "deployments"}
    assert of_objects(resources(), listed, AGAIN) == []


# --- DNS ----------------------------------------------------------------------------------------


def record(number: int = 1, name: str = "api.honeydue.test") -> Record:
    return Record(
        id=f"{number:032x}",
        zone=ZONE,
        kind="A",
        name=name,
        content=f"192.0.2.{number}",
        proxied=True,
    )


def shown(of: Record, **changes: Any) -> Json:
    return {
        "id": of.id,
        "type": of.kind,
        "name": of.name,
        "content": of.content,
        "proxied": of.proxied,
        "modified_on": "2026-11-21T22:00:00.5Z",
        **changes,
    }


WANTED = [record(1), record(2), record(3)]


def dns(*live: Json) -> list[str]:
    return [str(each) for each in problems(of_records(WANTED, live, AGAIN), NOW)]


def test_records_as_the_stack_made_them_are_no_drift() -> None:
    mail = {"id": "f" * 32, "type": "MX", "name": WANTED[0].name, "content": "mx.test"}
    other = {"id": "e" * 32, "type": "A", "name": "blog.honeydue.test", "content": "192.0.2.9"}
    assert dns(*map(shown, WANTED), mail, other) == []


def test_a_record_that_was_changed_is_told_old_and_new() -> None:
    changed = shown(WANTED[0], content="198.51.100.7", proxied=False)
    assert dns(changed, *map(shown, WANTED[1:])) == [
        "DNS A api.honeydue.test to 192.0.2.1: content 192.0.2.1 → 198.51.100.7, proxied yes → no "
        "(changed by hand, 5 h ago)\n    mend   refresh && up"
    ]


def test_records_that_are_missing_are_one_line() -> None:
    assert dns(shown(WANTED[2])) == [
        "DNS A api.honeydue.test to 192.0.2.1, DNS A api.honeydue.test to 192.0.2.2: missing "
        "(deleted by hand)\n    mend   refresh && up"
    ]


def test_of_many_that_are_missing_the_first_four_are_named() -> None:
    many = [record(number) for number in range(1, 19)]
    (found,) = problems(of_records(many, (), AGAIN), NOW)
    assert "to 192.0.2.4 and 14 more: missing (deleted by hand)" in found.what


def test_a_strange_record_for_a_name_of_ours_leads_users_elsewhere() -> None:
    strange = shown(record(9), id="d" * 32, content="203.0.113.5")
    assert dns(*map(shown, WANTED), strange) == [
        "DNS A api.honeydue.test to 203.0.113.5: a record that is not the stack's, for a name of "
        "ours: it leads users elsewhere (made by hand, 5 h ago)\n"
        "    mend   delete it at https://dash.cloudflare.com (DNS, Records): no `up` touches what "
        "it has not made"
    ]


def test_a_record_that_was_made_anew_by_hand_must_go_before_up_makes_it() -> None:
    """Cloudflare refuses a second one like it (81058)."""
    anew = shown(WANTED[0], id="c" * 32)
    assert dns(anew, *map(shown, WANTED[1:])) == [
        "DNS A api.honeydue.test to 192.0.2.1: is another record than the stack's (deleted and "
        "made anew by hand, 5 h ago)\n"
        "    mend   delete it at https://dash.cloudflare.com (DNS, Records), then: refresh && up"
    ]


@pytest.fixture
def cloudflare(tmp_path: Path) -> Iterator[Listener]:
    cloud = Cloudflare(tmp_path / "cloudflare.json", TOKEN, {ZONE: "honeydue.test"})
    listener = Listener(cloud.wsgi_app).start()
    with cloud.app.store.transaction() as state:
        for each in WANTED:
            made = {**shown(each), "zone_id": ZONE, "zone_name": "honeydue.test", "comment": None}
            state["records"][each.id] = {**made, "created_on": "2026-11-01T00:00:00Z", "ttl": 1}
    yield listener
    listener.stop()


def test_the_records_are_read_from_cloudflares_api(cloudflare: Listener) -> None:
    live = drift.records_of(ZONE, base=f"{cloudflare.url}/client/v4", token=TOKEN)
    assert of_records(WANTED, live, AGAIN) == []
    assert drift.newest(WANTED, live) == datetime(2026, 11, 21, 22, 0, 0, 500_000, tzinfo=UTC)


def test_every_page_of_a_zone_is_read(
    cloudflare: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "_PAGE", 1)
    live = drift.records_of(ZONE, base=f"{cloudflare.url}/client/v4", token=TOKEN)
    assert {each["id"] for each in live} == {each.id for each in WANTED}


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(Refused) as caught:
        act()
    assert TOKEN not in str(caught.value)
    return str(caught.value)


def test_a_token_that_may_not_look_is_told_which_right_it_needs(cloudflare: Listener) -> None:
    base = f"{cloudflare.url}/client/v4"
    said = refusal(lambda: drift.records_of(ZONE, base=base, token="another-token".ljust(40, "0")))
    assert "to the token of honeydue:cloudflareToken: it answers 403" in said
    assert "Zone > DNS > Edit" in said


@pytest.mark.parametrize("broken", ["", f"{TOKEN}\n", f"{TOKEN}\x00", f"é{TOKEN}", "x"])
def test_a_token_that_is_none_is_not_sent_and_not_shown(cloudflare: Listener, broken: str) -> None:
    said = refusal(lambda: drift.records_of(ZONE, base=cloudflare.url, token=broken))
    assert said.startswith("the DNS records are not known: honeydue:cloudflareToken ")
    assert "pulumi config set --secret honeydue:cloudflareToken" in said


def test_a_cloudflare_that_does_not_answer_is_no_harm_to_users(cloudflare: Listener) -> None:
    cloudflare.stop()
    base = f"{cloudflare.url}/client/v4"
    said = refusal(lambda: drift.records_of(ZONE, base=base, token=TOKEN))
    assert said.startswith("the DNS records are not known: Cloudflare's API at 127.0.0.1:")
    assert "Connection refused" in said
    assert "names go on as they are without it" in said


# --- the mend -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "verb"), [("pulumi", "pulumi"), ("rehearsal", "python -m rehearsal")]
)
def test_the_world_is_looked_at_before_up_or_it_would_find_nothing(kind: Any, verb: str) -> None:
    assert drift.again(Engine(kind, "prod")) == (
        f"{verb} refresh --stack prod && PULUMI_K8S_ENABLE_PATCH_FORCE=true {verb} up --stack prod"
    )
