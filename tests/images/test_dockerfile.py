"""What a Dockerfile says about its targets and the files that each is made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from honeydue.images.dockerfile import EVERYTHING, matching, not_ignored, sources, targets

EXAMPLE = (Path(__file__).parents[2] / "examples/app/Dockerfile").read_text()

MANY = """\
# syntax-free
ARG GO=golang:1.25
FROM --platform=$BUILDPLATFORM ${GO} AS Builder
COPY go.mod \\
     # a comment between continued lines
     go.sum ./
COPY --chown=1:1 ["cmd/api", "internal dir/x", "/src/"]
RUN --mount=type=bind,source=tools,target=/t --mount=type=cache,target=/c make
COPY <<EOF /etc/motd
COPY everything /trap
EOF
FROM scratch AS api
COPY --from=builder /out/api /api
ADD https://example.com/ca.pem /ca.pem
FROM node AS panel
COPY admin/*.json ./
COPY ./admin/src/ src/
FROM panel AS admin
FROM scratch AS whole
COPY . .
FROM scratch AS unclear
COPY $WHAT /x
FROM scratch
COPY --from=0 /a /a
"""


def test_targets_are_the_named_stages_in_lower_case() -> None:
    assert targets(MANY) == ["builder", "api", "panel", "admin", "whole", "unclear"]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("builder", {"go.mod", "go.sum", "cmd/api", "internal dir/x", "tools"}),
        ("api", {"go.mod", "go.sum", "cmd/api", "internal dir/x", "tools"}),
        ("admin", {"admin/*.json", "admin/src"}),
        ("whole", {EVERYTHING}),
        ("unclear", {EVERYTHING}),
        ("8", set[str]()),
    ],
)
def test_a_target_is_made_from_what_it_and_its_stages_copy(target: str, expected: set[str]) -> None:
    found = sources(MANY, target)
    assert found == expected if target != "8" else not found & {EVERYTHING}


def test_stages_that_refer_to_each_other_end() -> None:
    assert sources("FROM b AS a\nFROM a AS b\nCOPY x y", "b") == {"x"}


def test_patterns_cover_files_folders_and_wildcards() -> None:
    files = ["go.mod", "admin/a.json", "admin/src/deep/x.ts", "administration/y", "cmd/api/main.go"]
    assert [*matching({"admin"}, files)] == ["admin/a.json", "admin/src/deep/x.ts"]
    assert [*matching({"admin/*.json"}, files)] == ["admin/a.json"]
    assert [*matching({"cmd/*"}, files)] == ["cmd/api/main.go"]
    assert [*matching({EVERYTHING}, files)] == files


def test_the_example_application_keeps_its_services_apart() -> None:
    """What the issue asks of a one-line change: the other services' digests stay."""
    api, worker, admin = (sources(EXAMPLE, name) for name in ("api", "worker", "admin"))
    assert "api" in api
    assert "admin" in admin
    assert not {"admin", "api", EVERYTHING} & worker
    assert not {"admin", "worker", EVERYTHING} & api


@pytest.mark.parametrize(
    "text", ["", "FROM", "COPY a b", "FROM x AS", 'FROM x\nCOPY ["a" b', "RUN \\"]
)
def test_what_is_no_dockerfile_does_no_harm(text: str) -> None:
    sources(text, "api")


@pytest.mark.parametrize(
    ("ignore", "left"),
    [
        ("", ["README.md", "api/main.go", "docs/a.md", "docs/deep/b.md"]),
        ("docs\n*.md\n", ["api/main.go"]),
        ("**/*.md", ["api/main.go"]),
        ("*\n!api", ["api/main.go"]),
        ("docs\n!docs/deep/b.md", ["README.md", "api/main.go", "docs/deep/b.md"]),
        ("# docs\n/api/\n", ["README.md", "docs/a.md", "docs/deep/b.md"]),
    ],
)
def test_what_dockerignore_keeps_out_dates_nothing(ignore: str, left: list[str]) -> None:
    files = ["README.md", "api/main.go", "docs/a.md", "docs/deep/b.md"]
    assert [*not_ignored(ignore, files)] == left
