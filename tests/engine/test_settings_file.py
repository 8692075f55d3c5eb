"""`config set` changes one value of a settings file and leaves the rest as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rehearsal.engine.errors import EngineError
from rehearsal.engine.settings_file import remove_value, set_value

FILE = """\
# Production.
encryptionsalt: v1:x
config:
  honeydue:protect: "true" # a comment behind a value
  honeydue:cluster:
    nodes:
    - {name: honeydue-1, generation: 1}
"""


def changed(tmp_path: Path, key: str, value: str, *, secret: bool = False) -> tuple[str, object]:
    file = tmp_path / "Pulumi.x.yaml"
    file.write_text(FILE)
    set_value(file, key, value, (lambda text: f"sealed {text}") if secret else None, by_path=True)
    text = file.read_text()
    return text, yaml.safe_load(text)["config"]


@pytest.mark.parametrize(
    ("key", "value", "path", "expected"),
    [
        ("honeydue:cluster.nodes[0].generation", "2", ("cluster", "nodes", 0, "generation"), 2),
        ("honeydue:image.build", "false", ("image", "build"), False),
        ("honeydue:images.api", "237c6b8", ("images", "api"), "237c6b8"),
        ("honeydue:operator.apiCidrs[0]", "1.2.3.4/32", ("operator", "apiCidrs", 0), "1.2.3.4/32"),
        ("honeydue:images.api", "007", ("images", "api"), "007"),
        # Text to YAML 1.2, which writes; not to 1.1, which reads.
        ("honeydue:image.buildArgs.AGAIN", "yes", ("image", "buildArgs", "AGAIN"), "yes"),
        ("honeydue:image.buildArgs.AT", "1:30", ("image", "buildArgs", "AT"), "1:30"),
    ],
)
def test_a_path_leads_into_objects_and_lists_and_makes_what_is_not_there(
    key: str, value: str, path: tuple[str | int, ...], expected: object, tmp_path: Path
) -> None:
    _, config = changed(tmp_path, key, value)
    at: object = config
    for step in (f"honeydue:{path[0]}", *path[1:]):
        at = at[step]  # type: ignore[index]
    assert at == expected
    assert type(at) is type(expected)


def test_a_secret_is_encrypted_and_stays_text(tmp_path: Path) -> None:
    text, config = changed(tmp_path, "honeydue:registry.token", "12345678", secret=True)
    assert config["honeydue:registry"] == {"token": {"secure": "sealed 12345678"}}  # type: ignore[index]
    assert "token: 12345678" not in text


def test_comments_and_quotes_stay(tmp_path: Path) -> None:
    text, _ = changed(tmp_path, "honeydue:image.build", "true")
    for line in FILE.splitlines():
        assert line in text.splitlines()


@pytest.mark.parametrize("key", ["honeydue:cluster.nodes[7].generation", "honeydue:protect.a"])
def test_a_path_that_leads_nowhere_is_refused_and_changes_nothing(key: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="honeydue:"):
        changed(tmp_path, key, "1")
    assert (tmp_path / "Pulumi.x.yaml").read_text() == FILE


def test_a_value_is_taken_out_and_one_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "Pulumi.x.yaml"
    file.write_text(FILE)
    for key in ("honeydue:secrets.NONE", "honeydue:protect.a", "honeydue:cluster.nodes[3]"):
        remove_value(file, key, by_path=True)
        assert file.read_text() == FILE
    set_value(file, "honeydue:secrets.ONE", "1", str, by_path=True)
    set_value(file, "honeydue:secrets.TWO", "2", str, by_path=True)
    remove_value(file, "honeydue:secrets.ONE", by_path=True)
    config = yaml.safe_load(file.read_text())["config"]
    assert config["honeydue:secrets"] == {"TWO": {"secure": "2"}}
    assert "# a comment behind a value" in file.read_text()
