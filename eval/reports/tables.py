"""A document of headings, lines and tables, as Markdown or as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
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


def _is_numeric(table: ReportTable, column: int) -> bool:
    """Return whether a column holds numbers, which stand to the right."""
    return all(re.fullmatch(r"[-+.\d–]+( to [-+.\d]+)?", row[column]) for row in table.rows)


def _cells(table: ReportTable, escape: Callable[[str], str], best: str) -> list[list[str]]:
    """Return head and rows, escaped, with the best cells put into the form `best`."""
    rows = [list(map(escape, row)) for row in (table.head, *table.rows)]
    for row, column in table.best:
        # the head is row 0 here
        rows[row + 1][column] = best.format(rows[row + 1][column])
    return rows


def markdown(blocks: Iterable[Block]) -> str:
    """Return a document for GitHub, its tables aligned."""
    return "\n\n".join(map(_markdown_block, blocks))


def _markdown_block(block: Block) -> str:
    if isinstance(block, ReportTable):
        return "\n".join(_markdown_table(block))
    return ("## " if isinstance(block, Heading) else "") + _markdown_text(block)


def _markdown_table(table: ReportTable) -> list[str]:
    rows = _cells(table, _markdown_text, "**{}**")
    columns = []
    for number, column in enumerate(zip(*rows, strict=True)):
        columns.append(_markdown_column(column, _is_numeric(table, number)))
    return [f"| {' | '.join(row)} |" for row in zip(*columns, strict=True)]


def _markdown_column(cells: Sequence[str], numeric: bool) -> list[str]:
    """Return the cells at one width, the rule below the first one."""
    width = max(3, *map(len, cells))
    if numeric:
        head, *body = (cell.rjust(width) for cell in cells)
        return [head, "-" * (width - 1) + ":", *body]
    head, *body = (cell.ljust(width) for cell in cells)
    return [head, "-" * width, *body]


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\|*<`])", r"\\\1", " ".join(text.split()))


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",
        "]": "{]}",
        "–": "--",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)


def latex(blocks: Iterable[Block]) -> str:
    """Return a document for the package booktabs."""
    return "\n\n".join(map(_latex_block, blocks))


def _latex_block(block: Block) -> str:
    if isinstance(block, ReportTable):
        return "\n".join(_latex_table(block))
    text = _latex_text(" ".join(block.split()))
    return f"\\subsection*{{{text}}}" if isinstance(block, Heading) else text


def _latex_table(table: ReportTable) -> list[str]:
    head, *body = (" & ".join(row) + r" \\" for row in _cells(table, _latex_text, r"\textbf{{{}}}"))
    kinds = "".join("r" if _is_numeric(table, column) else "l" for column in range(len(table.head)))
    return [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]


def _latex_text(text: str) -> str:
    return text.translate(_LATEX)


STYLES = {"markdown": markdown, "latex": latex}
