"""A document of headings, lines and tables, as Markdown or as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ReportTable:
    """Cells as plain text, and which (row, column) are the best of their column."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: frozenset[tuple[int, int]] = frozenset()


class Heading(str):
    """The title of a section; a plain str in a document is a line of text."""


Block = Heading | str | ReportTable


def _right(table: ReportTable, column: int) -> bool:
    """Whether a column holds numbers, which stand to the right."""
    return all(re.fullmatch(r"[-+.\d–]+( to [-+.\d]+)?", row[column]) for row in table.rows)


def markdown(blocks: Iterable[Block]) -> str:
    """For GitHub, aligned."""
    parts = []
    for block in blocks:
        if isinstance(block, ReportTable):
            parts.append("\n".join(_markdown_table(block)))
        else:
            parts.append(("## " if isinstance(block, Heading) else "") + _escaped(block))
    return "\n\n".join(parts)


def _markdown_table(table: ReportTable) -> list[str]:
    rows = [[_escaped(cell) for cell in row] for row in (table.head, *table.rows)]
    for row, column in table.best:
        rows[row + 1][column] = f"**{rows[row + 1][column]}**"
    columns = range(len(table.head))
    widths = [max(3, *(len(row[at]) for row in rows)) for at in columns]
    right = [_right(table, at) for at in columns]
    rule = ["-" * (widths[at] - 1) + ":" if right[at] else "-" * widths[at] for at in columns]
    cells = [[row[at].rjust(widths[at]) if right[at] else row[at].ljust(widths[at]) for at in columns] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:])]


def _escaped(text: str) -> str:
    return re.sub(r"([\\|*<`])", r"\\\1", " ".join(text.split()))


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"}
_LATEX |= {">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}", "–": "--"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def latex(blocks: Iterable[Block]) -> str:
    """For the package booktabs."""
    parts = []
    for block in blocks:
        if isinstance(block, ReportTable):
            parts.append("\n".join(_latex_table(block)))
        else:
            text = " ".join(block.split()).translate(str.maketrans(_LATEX))
            parts.append(f"\\subsection*{{{text}}}" if isinstance(block, Heading) else text)
    return "\n\n".join(parts)


def _latex_table(table: ReportTable) -> list[str]:
    rows = [[cell.translate(str.maketrans(_LATEX)) for cell in row] for row in (table.head, *table.rows)]
    for row, column in table.best:
        rows[row + 1][column] = f"\\textbf{{{rows[row + 1][column]}}}"
    head, *body = [" & ".join(row) + r" \\" for row in rows]
    kinds = "".join("r" if _right(table, at) else "l" for at in range(len(table.head)))
    return [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]


STYLES = {"markdown": markdown, "latex": latex}
