"""A document of headings, lines, tables and their notes, as Markdown, as LaTeX or as a page of HTML."""

from __future__ import annotations

import html as html_escapes
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Place = tuple[int, int]
"""(row, column) of a table's rows, from 0."""


@dataclass(frozen=True)
class ReportTable:
    """Cells as plain text.

    Attributes:
        head, rows: the cells.
        best: which cells are the best of their column.
        notes: the numbers of the notes that cells bear.
        sentences: cells that hold words in the place of a figure, which may be long.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: frozenset[Place] = frozenset()
    notes: Mapping[Place, Sequence[int]] = field(default_factory=dict)
    sentences: frozenset[Place] = frozenset()


class Heading(str):
    """The title of a section; a plain str in a document is a line of text."""


@dataclass(frozen=True)
class Note:
    """What the cells with a number say below their table."""

    number: int
    text: str


Block = Heading | str | ReportTable | Note


def _is_numeric(table: ReportTable, column: int) -> bool:
    """Return whether a column holds numbers, which stand to the right."""
    cells = [row[column] for at, row in enumerate(table.rows) if (at, column) not in table.sentences]
    return all(re.fullmatch(r"[-+.\d–]+( (to|±) [-+.\d]+)?", cell) for cell in cells)


@dataclass(frozen=True)
class _Form:
    """How a style writes a cell: what it escapes, and the forms of a best cell, the numbers of notes, a sentence."""

    escape: Callable[[str], str]
    best: str
    notes: str
    sentence: str = "{}"


def _cells(table: ReportTable, form: _Form) -> list[list[str]]:
    """Return head and rows in the form of a style."""
    rows = [list(map(form.escape, row)) for row in (table.head, *table.rows)]
    # the head is row 0 here
    for row, column in table.sentences:
        rows[row + 1][column] = form.sentence.format(rows[row + 1][column])
    for row, column in table.best:
        rows[row + 1][column] = form.best.format(rows[row + 1][column])
    for (row, column), numbers in table.notes.items():
        rows[row + 1][column] += form.notes.format(", ".join(map(str, numbers))) if numbers else ""
    return rows


def markdown(blocks: Iterable[Block]) -> str:
    """Return a document for GitHub, its tables aligned."""
    return "\n\n".join(map(_markdown_block, blocks))


def _markdown_block(block: Block) -> str:
    if isinstance(block, ReportTable):
        return "\n".join(_markdown_table(block))
    if isinstance(block, Note):
        return f"<sup>{block.number}</sup> {_markdown_text(block.text)}"
    return ("## " if isinstance(block, Heading) else "") + _markdown_text(block)


def _markdown_table(table: ReportTable) -> list[str]:
    rows = _cells(table, _Form(_markdown_text, "**{}**", "<sup>{}</sup>"))
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
    if isinstance(block, Note):
        return f"\\textsuperscript{{{block.number}}} {_latex_text(' '.join(block.text.split()))}"
    text = _latex_text(" ".join(block.split()))
    return f"\\subsection*{{{text}}}" if isinstance(block, Heading) else text


def _latex_table(table: ReportTable) -> list[str]:
    head, *body = (" & ".join(row) + r" \\" for row in _cells(table, _LATEX_CELLS))
    kinds = "".join("r" if _is_numeric(table, column) else "l" for column in range(len(table.head)))
    return [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]


def _latex_text(text: str) -> str:
    # two hyphens, as of an option, would become a dash
    return "-{}-".join(part.translate(_LATEX) for part in text.split("--"))


# a long sentence would push the other columns off the page
_LATEX_CELLS = _Form(_latex_text, r"\textbf{{{}}}", r"\textsuperscript{{{}}}", r"\parbox[t]{{5cm}}{{\raggedright {}}}")
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }}
h2 {{ font-size: 1.2rem; margin-top: 2.5rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ padding: .3rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid #8886; }}
th, td {{ white-space: nowrap; }}
th {{ border-bottom: 2px solid #888; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
.sentence {{ max-width: 24rem; min-width: 12rem; font-style: italic; text-align: left; white-space: normal; }}
.note {{ margin: .2rem 0; font-size: .9rem; max-width: 60rem; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def html(blocks: Iterable[Block]) -> str:
    """Return a document as one page that asks for nothing outside itself; its first heading is its title."""
    blocks = list(blocks)
    title = next((block for block in blocks if isinstance(block, Heading)), "Results")
    return _PAGE.format(title=_html_text(title), body="\n".join(map(_html_block, blocks)))


def _html_block(block: Block) -> str:
    if isinstance(block, ReportTable):
        return "\n".join(_html_table(block))
    if isinstance(block, Note):
        return f'<p class="note"><sup>{block.number}</sup> {_html_text(block.text)}</p>'
    tag = "h2" if isinstance(block, Heading) else "p"
    return f"<{tag}>{_html_text(block)}</{tag}>"


def _html_table(table: ReportTable) -> Iterable[str]:
    """Yield the lines of a table, which scrolls by itself where it is wider than the page."""
    head, *body = _cells(table, _Form(_html_text, "<strong>{}</strong>", "<sup>{}</sup>"))
    kinds = [' class="number"' if _is_numeric(table, column) else "" for column in range(len(head))]
    yield '<div class="wide"><table>'
    yield "<thead><tr>" + "".join(f"<th{kind}>{cell}</th>" for kind, cell in zip(kinds, head, strict=True))
    yield "</tr></thead>"
    yield "<tbody>"
    for number, row in enumerate(body):
        own = [' class="sentence"' if (number, at) in table.sentences else kind for at, kind in enumerate(kinds)]
        yield "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(own, row, strict=True)) + "</tr>"
    yield "</tbody></table></div>"


def _html_text(text: str) -> str:
    return html_escapes.escape(" ".join(text.split()))


STYLES = {"markdown": markdown, "latex": latex, "html": html}
