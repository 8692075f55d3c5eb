"""How the env file is read, and what is told when it is malformed."""

from __future__ import annotations

from typing import Any, Final

import pytest

from honeydue.env_file import read
from honeydue.problems import Problem, SettingsError
from honeydue.settings import parse

from .sample import APNS_KEY, CONFIG, ENV_FILE, ENVIRONMENT, env_text, problems

Refused = tuple[Any, ...]  # a name, what is made wrong, and each Problem that must be told

REFUSED: Final[tuple[Refused, ...]] = (
    (
        "the file is not UTF-8",
        b"# h\xf6ney\n" + env_text().encode(),
        Problem(
            "deploy/prod.env: line 1",
            "is not UTF-8 (byte 0xf6)",
            "deploy/prod.env: save it as UTF-8",
        ),
    ),
    (
        "the file begins with a byte-order mark",
        "\ufeff" + env_text(),
        Problem(
            "deploy/prod.env: line 1",
            "begins with a byte-order mark",
            "perl -pi -e 's/^\\xEF\\xBB\\xBF//' deploy/prod.env",
        ),
    ),
    (
        "the file has Windows line ends",
        env_text().replace("\n", "\r\n"),
        Problem(
            "deploy/prod.env: line 1",
            "ends in CRLF, as Windows writes it (lines that do: 22)",
            "perl -pi -e 's/\\r$//' deploy/prod.env",
        ),
    ),
    (
        "one line has a Windows line end",
        env_text().replace("DB_PORT=5432\n", "DB_PORT=5432\r\n"),
        Problem(
            "deploy/prod.env: line 7",
            "ends in CRLF, as Windows writes it (lines that do: 1)",
            "perl -pi -e 's/\\r$//' deploy/prod.env",
        ),
    ),
    (
        "a line is no assignment",
        env_text() + "DEBUG\n",
        Problem(
            "deploy/prod.env: line 23",
            "is not KEY=value with a key of capital letters, digits and _, without blanks",
            "deploy/prod.env: KEY=value",
        ),
    ),
    (
        "a line has blanks around its equals sign",
        env_text() + "TIMEZONE = UTC\n",
        Problem(
            "deploy/prod.env: line 23",
            "is not KEY=value with a key of capital letters, digits and _, without blanks",
            "deploy/prod.env: KEY=value",
        ),
    ),
    (
        "a line begins with export",
        env_text() + "export TIMEZONE=UTC\n",
        Problem(
            "deploy/prod.env: line 23",
            "begins with export; this is not a shell script",
            "deploy/prod.env: KEY=value",
        ),
    ),
    (
        "a key is in small letters",
        env_text() + "timezone=UTC\n",
        Problem(
            "deploy/prod.env: line 23",
            "is not KEY=value with a key of capital letters, digits and _, without blanks",
            "deploy/prod.env: KEY=value",
        ),
    ),
    (
        "a key stands twice",
        env_text() + "DB_HOST=db2.vendor.net\n",
        Problem("deploy/prod.env: DB_HOST", "stands twice, in lines 6 and 23", "remove line 23"),
    ),
    (
        "a value refers to another",
        env_text() + "TIMEZONE=${TZ}\n",
        Problem(
            "deploy/prod.env: TIMEZONE",
            "holds a $ reference, which nothing expands",
            "deploy/prod.env: TIMEZONE=<the value>",
        ),
    ),
    (
        "a value calls a command",
        env_text() + "TIMEZONE=$(cat /etc/timezone)\n",
        Problem(
            "deploy/prod.env: TIMEZONE",
            "holds a $ reference, which nothing expands",
            "deploy/prod.env: TIMEZONE=<the value>",
        ),
    ),
    (
        "a value has a comment behind it",
        env_text() + "TIMEZONE=UTC # for now\n",
        Problem(
            "deploy/prod.env: TIMEZONE",
            "holds a comment, which would become part of the value",
            "deploy/prod.env: put the comment on a line of its own, above TIMEZONE=",
        ),
    ),
    (
        "a private key is pasted in",
        env_text() + APNS_KEY,
        Problem(
            "deploy/prod.env: line 23",
            "begins a PEM; a key is a secret and belongs in the stack's configuration",
            "deploy/prod.env: take the PEM out, from BEGIN to END",
        ),
    ),
    (
        "a value holds a control character",
        env_text() + "TIMEZONE=UT\x07C\n",
        Problem(
            "deploy/prod.env: TIMEZONE",
            "holds an invisible character (U+0007)",
            "deploy/prod.env: TIMEZONE=UTC",
        ),
    ),
)


@pytest.mark.parametrize("case", REFUSED, ids=[case[0] for case in REFUSED])
def test_a_malformed_file_is_told_with_the_line_that_mends_it(case: Refused) -> None:
    _, text, *told = case
    assert problems(text=text) == told


def test_values_are_taken_as_they_stand() -> None:
    content = b"# note\n\nA=b=c # d\n"
    values, found = read(content.replace(b" # d", b"#d"), "some.env")
    assert (values, found) == ({"A": "b=c#d"}, [])


def test_a_refused_value_is_not_called_missing_as_well() -> None:
    text = env_text().replace("DB_HOST=db.vendor.net", "DB_HOST=${HOST}")
    assert [problem.key for problem in problems(text=text)] == ["deploy/prod.env: DB_HOST"]


def test_no_file_is_one_problem_and_names_what_the_operator_must_know() -> None:
    with pytest.raises(SettingsError) as caught:
        parse("prod", CONFIG, None, ENV_FILE)
    assert caught.value.problems == [
        Problem(
            "deploy/prod.env",
            "does not exist; what only you know: DB_HOST, POSTGRES_USER, EMAIL_HOST, "
            "EMAIL_HOST_USER, APNS_KEY_ID, APNS_TEAM_ID, APNS_TOPIC",
            "cp deploy/prod.env.example deploy/prod.env",
        )
    ]


def test_a_file_that_is_far_too_long_is_refused() -> None:
    values = {f"FEATURE_{n}": "x" * 4000 for n in range(20)}
    told = problems(text=env_text({**ENVIRONMENT, **values}))
    assert (
        Problem(
            "deploy/prod.env",
            "holds 80798 bytes; more than 65536 are no configuration",
            "deploy/prod.env: take out what is not a setting",
        )
        in told
    )
