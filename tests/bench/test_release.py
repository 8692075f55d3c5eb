"""Where the seconds of a release go, from what engine, BuildKit and gates recorded."""

from __future__ import annotations

import pytest

from bench.release import PHASES, phases, split_of
from rehearsal.timeline import Step


def _step(name: str, begin: float, end: float) -> Step:
    return Step(f"urn:pulumi:rehearsal::honeydue::type::{name}", begin, end)


def test_every_second_of_a_release_s_steps_stands_in_one_phase() -> None:
    vouched, verified = _step("release-api-vouched", 5, 9), _step("release-api-verified", 9, 10)
    path = [_step("images-api", 0, 5), vouched, verified, _step("workloads-api", 10, 14)]
    split = split_of(
        path,
        {"api": {"push": 1.0, "cache": 0.5}, "admin": {"push": 9.0, "cache": 9.0}},
        {
            vouched.urn: "scan 2.0 s\n2 packages\nattest 0.2 s\nsign 0.1 s\nsigned: …",
            verified.urn: "verify 0.4 s",
        },
    )
    assert split == pytest.approx(
        {
            **{"build": 3.5, "push": 1.0, "cache": 0.5, "scan": 2.0, "sign": 0.3, "verify": 0.4},
            **{"gates": 4 - 2.3 + 1 - 0.4, "rollout": 4.0},
        }
    )
    assert sum(split.values()) == pytest.approx(14.0)


def test_steps_of_other_resources_are_in_no_phase() -> None:
    path = [_step("honeydue-1", 0, 5), _step("images", 5, 6), _step("redis-server", 6, 9)]
    assert split_of(path, {}, {}) == dict.fromkeys(PHASES, 0.0)


def test_a_push_lasts_from_its_first_layer_to_its_manifest() -> None:
    def at(second: str) -> str:
        return f"2026-11-22T13:27:{second}Z"

    def one(words: str, begin: str, end: str) -> dict[str, str]:
        return {"id": words, "started": at(begin), "completed": at(end)}

    first = {
        "vertexes": [
            {"name": "exporting to image", "started": at("38.1"), "completed": at("39.6")},
            {"name": "exporting cache to registry", "started": at("39.6")},
        ],
        "statuses": [
            one("exporting layers", "38.1", "39.439"),
            one("pushing layers", "39.439511906", "39.521"),
        ],
    }
    second = {
        "vertexes": [
            {
                "name": "exporting cache to registry",
                "started": at("39.6"),
                "completed": at("41.100000001"),
            }
        ],
        "statuses": [one("pushing manifest for 127.0.0.1:1/a:b", "39.521", "39.6")],
    }
    assert phases(iter([first, second])) == pytest.approx(
        {"push": 39.6 - 39.439511, "cache": 1.5}, abs=1e-6
    )


def test_a_build_that_pushes_nothing_has_no_seconds_of_it() -> None:
    assert phases(iter([{"vertexes": [{"name": "exporting to image"}]}, {}])) == {
        "push": 0.0,
        "cache": 0.0,
    }
