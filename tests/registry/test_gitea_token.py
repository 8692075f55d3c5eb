"""What Gitea's own CLI prints beside a token."""

from __future__ import annotations

import pytest

from rehearsal.registry.gitea import ForgeError, token_in

TOKEN = "1be89424668055db128a8f51200f7504e5e70faf"
WARNING = "2026/11/22 15:52:59 setting.go:190:loadRunModeFrom() [E] You have been warned."


@pytest.mark.parametrize("lines", [(TOKEN,), (WARNING, TOKEN), (TOKEN, WARNING)])
def test_the_token_is_found_before_and_after_what_the_logger_says(lines: tuple[str, ...]) -> None:
    assert token_in("\n".join(lines) + "\n") == TOKEN


def test_output_without_a_token_is_an_error_that_does_not_repeat_it() -> None:
    with pytest.raises(ForgeError, match="did not print it") as raised:
        token_in(f"{WARNING} {TOKEN}x\n")
    assert TOKEN not in str(raised.value)
