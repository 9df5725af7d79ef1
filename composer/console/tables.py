"""The tables that results are shown in."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text


def table(*headers: str, numbers: Sequence[str] = ()) -> Table:
    """A table without lines, that pastes well. `numbers` are the headers of columns that stand to the right."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=any(headers))
    for header in headers:
        made.add_column(
            header, justify="right" if header in numbers else "left", overflow="fold", no_wrap=header in numbers
        )
    return made


def facts(rows: Sequence[tuple[str, str]]) -> Table:
    """Names and what they are."""
    made = Table.grid(padding=(0, 2))
    made.add_column(no_wrap=True, min_width=9)
    made.add_column(overflow="fold")
    for name, text in rows:
        made.add_row(Text(name, style="bold"), Text(text))
    return made
