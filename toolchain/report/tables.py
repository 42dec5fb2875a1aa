"""The comparison table in a terminal, readable at 80 columns. A missing value is a dash whose footnote says why, never 0."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from toolchain.report.columns import columns_of, footnotes_of
from toolchain.report.variant import Variant

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def render_table(variants: Sequence[Variant], title: str = "") -> Table:
    """Rows side by side: size, params, GMACs, mAP, latency and speed-up with their 95 % intervals below.

    Args:
        variants: the first is what the others are compared with.
        title: shown above.
    """
    notes = footnotes_of(variants)
    caption = Text("\n".join(f"{_mark(number)} {text}" for number, text in enumerate(notes.texts, start=1)), justify="left")
    table = Table(
        title=Text(title) if title else None, caption=caption if notes.texts else None, box=box.SIMPLE_HEAD, pad_edge=False,
        title_justify="left", caption_justify="left", padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("", overflow="fold", min_width=8)
    columns = columns_of(variants)
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    for row, variant in enumerate(variants):
        cells = [Text(variant.label)]
        for column in columns:
            number = notes.marks.get((row, column.field))
            lines = [column.cell(variant) + (_mark(number) if number else ""), column.interval_cell(variant)]
            cells.append(Text("\n".join(line for line in lines if line)))
        table.add_row(*cells)
    return table


def _mark(number: int) -> str:
    return str(number).translate(SUPERSCRIPTS)
