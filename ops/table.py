"""Tables of values that others wrote: no markup in them, and nothing cut off."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text


def table(*columns: str) -> Table:
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(Text(column), overflow="fold")
    return made


def plain(text: str) -> str:
    """Without what would move a terminal's cursor: anybody who may run the engine writes these."""
    return "".join(char if char.isprintable() else " " for char in text)


def cells(*values: object) -> tuple[Text, ...]:
    """None: there is no value."""
    return tuple(Text("-" if value is None else str(value)) for value in values)
