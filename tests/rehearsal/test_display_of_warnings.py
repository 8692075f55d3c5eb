"""A warning that a provider gave while it worked is read when the run is over, too."""

from __future__ import annotations

from rehearsal.display import Tree, closing
from rehearsal.engine.events import ResourceProgress

URN = "urn:pulumi:dev::shop::command:local:Command::release-api-vouched"


def test_a_warning_that_passed_by_stands_below_the_run_and_other_progress_does_not() -> None:
    tree = Tree()
    tree.take(ResourceProgress(URN, "warning: a newer vulnerability database cannot be had"))
    tree.take(ResourceProgress(URN, "scan 2.1 s"))
    said = "\n".join(line.plain for line in closing(tree))
    assert "warning: release-api-vouched: a newer vulnerability database cannot be had" in said
    assert "scan" not in said
