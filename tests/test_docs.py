"""What the operator's pages quote is what the program says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = "\n".join(
    re.sub(r'"\s*\n\s*f?"', "", path.read_text())  # a sentence may run over several literals
    for folder in ("honeydue", "ops")
    for path in sorted((ROOT / folder).rglob("*.py"))
)


def quoted() -> list[str]:
    page = (ROOT / "docs/images.md").read_text()
    table = page[page.index("| what you read |") :].split("\n\n")[0].splitlines()[2:]
    cells = [row.split("|")[1] for row in table if "plugin's words" not in row]
    return [words for cell in cells for words in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize("words", [words for words in quoted() if words != "kubectl set image"])
def test_a_message_in_the_table_of_docs_images_is_one_that_is_printed(words: str) -> None:
    assert words in SOURCES


@pytest.mark.parametrize("page", ["README.md", "docs/images.md", "docs/rebuild.md"])
def test_every_page_that_a_page_links_to_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert ((ROOT / page).parent / target).exists(), target
