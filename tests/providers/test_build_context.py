"""The context's hash is the plugin's own; its Dockerfile's faults are found before a build."""

from __future__ import annotations

from pathlib import Path

import pytest

from rehearsal.providers.build_context import ContextError, context_hash, dockerfile_problem

FILES = {
    "Dockerfile": "FROM scratch\n",
    "Makefile.tmp": "x\n",
    "a.txt": "2\n",
    "a/b/f": "1\n",
    "a/x.md": "3\n",
    "docs/keep/k.md": "5\n",
    "docs/no.md": "6\n",
    "é ü.txt": "é\n",
    "node_modules/x/i": "4\n",
    "z/a": "7\n",
    "z/c": "8\n",
    ".env": "9\n",
}

# What a Go program of the plugin's own libraries (fsutil v0.0.0-20250605211040-586307ad452f,
# patternmatcher v0.6.0) says of this tree under these rules.
BY_THE_PLUGIN = [
    (
        "",
        "efcfee07975612444442464c2044ddf12c1ee67982df238f63b25ffd6ff33e8a",
    ),
    (
        "# all\n/node_modules/\n**/*.md\n!docs/keep\n*.tmp\r\n  .env \n",
        "68720e419f818923e307e64cd0bf63b73fab10219802f4bef127b7e255951529",
    ),
    (
        "docs\n!docs/keep\nz/*\n!z/c\na\n!a/b/f\n",
        "80819b854fea8a94d850a04111c0edc7b788dd3635fe0121742592ce63ebfa05",
    ),
    (
        "*\n!**/*.md\n!a?txt\n[ab].txt\n!**/keep",
        "edffd744d0d1a3c1d18a84cd990631b27b8afc0eddb690f58af5a5a56c6f7d3b",
    ),
    (
        "**\n!z/**/c\n",
        "4b653c2d37d6c564e02c4a20b45de006298af4296d87256dda330431acf91c7d",
    ),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o644)
    (tmp_path / "a.txt").chmod(0o4755)
    (tmp_path / "link").symlink_to("a.txt")
    (tmp_path / "linkdir").symlink_to("a")
    return tmp_path


def of(tree: Path) -> str:
    return context_hash(str(tree), str(tree / "Dockerfile"), {})


@pytest.mark.parametrize(("rules", "expected"), BY_THE_PLUGIN)
def test_the_hash_is_the_one_that_the_plugin_writes_into_the_state(
    tree: Path, rules: str, expected: str
) -> None:
    # In bytes: the file begins with a mark that editors on Windows write.
    (tree / ".dockerignore").write_bytes(b"\xef\xbb\xbf" + rules.encode())
    (tree / ".dockerignore").chmod(0o644)
    assert of(tree) == expected


def test_a_link_that_leads_nowhere_hides_the_rest_of_its_folder_as_in_the_plugin(
    tree: Path,
) -> None:
    (tree / "z/b").symlink_to("nowhere")
    assert of(tree) == "999835b74b0329088f7146984ca48f221e9d7542a5d75454d80a4ca9d21c8bfa"


def test_content_name_and_mode_count_and_the_time_does_not(tree: Path) -> None:
    before = of(tree)
    (tree / "z/a").write_text("7\n")
    assert of(tree) == before
    (tree / "z/a").chmod(0o755)
    by_mode = of(tree)
    (tree / "z/a").rename(tree / "z/d")
    by_name = of(tree)
    (tree / "z/d").write_text("changed")
    assert len({before, by_mode, by_name, of(tree)}) == 4


def test_an_excluded_dockerfile_counts_all_the_same(tree: Path) -> None:
    (tree / ".dockerignore").write_text("Dockerfile\n")
    before = of(tree)
    (tree / "Dockerfile").write_text("FROM scratch AS api\n")
    assert of(tree) != before


def test_the_dockerfiles_own_ignore_file_comes_first(tree: Path) -> None:
    (tree / ".dockerignore").write_text("z\n")
    (tree / "Dockerfile.dockerignore").write_text("a\n")
    before = of(tree)
    (tree / "a/b/f").write_text("changed")
    assert of(tree) == before
    (tree / "z/a").write_text("changed")
    assert of(tree) != before


def test_named_contexts_count_in_the_order_of_their_names(tree: Path) -> None:
    places = {"two": str(tree / "z"), "one": str(tree / "a")}
    swapped = {"two": places["one"], "one": places["two"]}
    hashes = {
        context_hash(str(tree), "", named)
        for named in ({}, places, dict(reversed(places.items())), swapped)
    }
    assert len(hashes) == 3


def test_what_is_not_on_this_disk_adds_nothing() -> None:
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert context_hash("https://example.org/app.git", "", {}) == nothing
    assert context_hash("", "", {}) == nothing


def test_a_rule_that_is_no_pattern_is_named(tree: Path) -> None:
    (tree / ".dockerignore").write_text("[z-a]\n")
    with pytest.raises(ContextError, match=r"'\[z-a\]' is no pattern"):
        of(tree)


# --- the Dockerfile's syntax ---

GOOD = r"""# syntax comments and directives are comments
ARG GO_IMAGE=golang:1.25-alpine
FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg \
    # a comment between
    go build -o /out/api ./cmd/api && \

    go build -o /out/worker ./cmd/worker
RUN <<EOF
FRM is no instruction here
EOF
COPY <<-'one' <<two /etc/
	first
	one
second
two
RUN echo "a <<b"

from scratch as api
COPY --from=build ["/out/api", "/api"]
ENTRYPOINT ["/api"]
CMD
"""


def test_a_good_dockerfile_has_no_problem() -> None:
    assert dockerfile_problem(GOOD) is None
    assert dockerfile_problem(GOOD.replace("\n", "\r\n")) is None


def test_another_escape_character_continues_lines() -> None:
    assert dockerfile_problem("# escape=`\nFROM scratch\nRUN a `\n b\n") is None
    assert "unknown instruction: b" in str(dockerfile_problem("FROM scratch\nRUN a `\n b\n"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "file with no instructions"),
        ("# nothing\n", "file with no instructions"),
        ("FRM scratch", "dockerfile parse error on line 1: unknown instruction: FRM"),
        ("FROM scratch\n\nCOPI a b", "dockerfile parse error on line 3: unknown instruction: COPI"),
        ("RUN true", "dockerfile parse error on line 1: no build stage in current context"),
        ("FROM", "dockerfile parse error on line 1: FROM requires at least one argument"),
        ("FROM a AS", "FROM requires either one or three arguments"),
        ("FROM a IS b", "FROM requires either one or three arguments"),
        ("FROM scratch\nCOPY a", "line 2: COPY requires at least two arguments"),
        ("FROM scratch\nRUN <<EOF\nx\n", "line 2: unterminated heredoc"),
    ],
)
def test_a_faulty_dockerfile_is_told_by_its_line(text: str, problem: str) -> None:
    assert problem in str(dockerfile_problem(text))
