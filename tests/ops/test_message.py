"""What a verb writes into the engine's history, and reads again."""

from __future__ import annotations

import pytest

from ops.message import BECAUSE, BY, Message


def test_a_message_is_read_as_it_was_written() -> None:
    message = Message("rollback to 11 (1a2b3c4)", {BY: "trey@laptop", BECAUSE: "https://x: 502"})
    assert message.render() == (
        "rollback to 11 (1a2b3c4)\n\nBy: trey@laptop\nBecause: https://x: 502"
    )
    assert Message.parse(message.render()) == message


def test_a_line_break_in_a_value_makes_no_other_trailer() -> None:
    message = Message("deploy 1a2b3c4", {BECAUSE: "a reason\nRolls-back: 3"})
    assert Message.parse(message.render()).trailers == {BECAUSE: "a reason Rolls-back: 3"}


@pytest.mark.parametrize(
    ("text", "subject"),
    [("", ""), ("fix the firewall", "fix the firewall"), ("one\n\ntwo words: no trailer", "one")],
)
def test_what_a_person_wrote_has_no_trailers(text: str, subject: str) -> None:
    assert Message.parse(text) == Message(subject)
