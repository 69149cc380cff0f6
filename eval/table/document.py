"""The table as a document: one line a model and one column a benchmark, then each benchmark with all its figures.

What is the same for all models of a column stands above it once; what differs has a number, and stands below.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from mllm_embed.files import write_file
from mllm_embed.saving.result_file import READ

from ..reports.saved_result import SavedResult
from ..reports.submission import SUBMISSIONS, uploads
from ..reports.tables import STYLES, Block, Heading, Note, ReportTable
from .make import OpenedBenchmark, Table
from .table_cell import TableCell

FILES = {"table.md": "markdown", "table.tex": "latex", "table.html": "html"}
_NOTHING, _FAILURE = "–", "failure"
_SETTINGS = ("dtype", "quantization", "dim", "query model")
_LIMIT = "max tokens"  # an option that nothing else tells of
_VERSION = "version of "
_COSTS: dict[str, Callable[[TableCell], str]] = {
    "asked in training": lambda cell: _leaked(cell, "asked", "queries"),
    "pictures seen there": lambda cell: _leaked(cell, "seen", "pictures"),
    "seconds": lambda cell: f"{cell.record.cost.seconds:.1f}" if cell.record else "",
    "to load": lambda cell: f"{cell.record.cost.loading:.1f}" if cell.record else "",
    "memory, GiB": lambda cell: f"{cell.record.cost.memory / 2**30:.2f}" if cell.record else "",
    "GPU, GiB": lambda cell: _device_memory(cell),
}


def write_document(table: Table) -> list[Path]:
    """Write table.md, table.tex and table.html into the table's folder. Raise DataError where the disk fails."""
    blocks = list(document(table))
    for name, style in FILES.items():
        write_file(table.output / name, f"{STYLES[style](blocks)}\n".encode())
    return [table.output / name for name in FILES]


def document(table: Table) -> Iterator[Block]:
    """Yield the whole document."""
    notes = _notes(table)
    yield from overview(table)
    for name, cells in _columns(table).items():
        yield from _section(table.opened.get(name), name, cells, notes, table.output)


def overview(table: Table) -> Iterator[Block]:
    """Yield its beginning: one line a model, one column a benchmark, and the notes of both."""
    notes, columns = _notes(table), _columns(table)
    yield Heading(f"{_counted(len(table.rows), 'model')} on {_counted(len(columns), 'benchmark')}")
    yield (
        "In each column the figure by which its benchmark is judged, in percent, as asked; the best is set in bold. "
        "Figures of one column are by one set of rules and on the same files; a number tells what differs otherwise."
    )
    yield _overview(table, columns, notes)
    yield from notes.below(columns)


def _columns(table: Table) -> dict[str, list[TableCell]]:
    """Return the cells of each benchmark, by its name."""
    columns = zip(*table.rows.values(), strict=True)
    return {benchmark.name: list(cells) for benchmark, cells in zip(table.benchmarks, columns, strict=True)}


def _notes(table: Table) -> _Notes:
    notes = _Notes()
    for name, cells in _columns(table).items():
        notes.take(name, cells)
    return notes


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


class _Notes:
    """The notes of a document, each with a number, and which cells bear them."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._of: dict[int, list[int]] = {}  # by the identity of a cell
        self.common: dict[str, list[str]] = {}  # benchmark -> what all of its cells share

    def take(self, benchmark: str, cells: Sequence[TableCell]) -> None:
        """Take in what is to be said of the cells of a benchmark."""
        made = [cell for cell in cells if not cell.failure]
        facts = [[*_facts(cell), *_versions(cell, made)] for cell in made]
        everywhere = set.intersection(*map(set, facts)) if facts else set()
        shared = [fact for fact in next(iter(facts), []) if fact in everywhere]
        self.common[benchmark] = shared
        for cell, own in zip(made, facts, strict=True):
            differing = "; ".join(fact for fact in own if fact not in shared)
            said = filter(None, [differing, *cell.notes, cell.leak_count.note])
            self._of[id(cell)] = list(map(self._number, said))

    def of(self, cell: TableCell) -> list[int]:
        """Return the numbers of a cell's notes."""
        return self._of.get(id(cell), [])

    def below(self, columns: Mapping[str, Iterable[TableCell]]) -> Iterator[Note]:
        """Yield the notes that cells of some columns bear."""
        used = {number for cells in columns.values() for cell in cells for number in self.of(cell)}
        yield from (Note(number, f"{text}.") for text, number in self._numbers.items() if number in used)

    def _number(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers) + 1)


def _facts(cell: TableCell) -> list[str]:
    """Return how a cell was measured, in words, one fact each."""
    record = cell.record
    if record is None:
        return []
    asked, settings = record.asked, record.settings
    facts = [f"prompts: {_prompts(asked)}"]
    facts += [f"{key}: {_in_words(asked[key])}" for key in ("words", "query task", "document task") if key in asked]
    about = asked.get("preset", {})
    facts += [f"uncertain: {line}" for line in about.get("uncertain", ())]
    facts += [f"not as its authors' code: {line}" for line in about.get("differs", ())]
    facts += [f"{key}: {settings[key]}" for key in (*_SETTINGS, *READ.values()) if settings.get(key)]
    facts += [f"at most {record.inputs[_LIMIT]} tokens"] if _LIMIT in record.inputs else []
    return [fact.rstrip(". ") for fact in facts]


def _versions(cell: TableCell, cells: Iterable[TableCell]) -> list[str]:
    """Return the versions of packages in which a cell is not as others that were made with them, too."""
    known: dict[str, set[str]] = {}
    for one in cells:
        for key, version in one.record.inputs.items() if one.record else ():
            known.setdefault(key, set()).add(version)
    own = cell.record.inputs if cell.record else {}
    return [f"{key}: {own[key]}" for key in own if key.startswith(_VERSION) and len(known[key]) > 1]


def _prompts(asked: Mapping[str, Any]) -> str:
    """Return the name of a prompt set, with a digest: two sets of one name may ask otherwise."""
    content = {key: asked.get(key) for key in ("prompts", "prompts by task")}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    whose = asked.get("preset", {}).get("prompts from")
    source = {"source": ", as in the authors' code", "inferred": ", inferred, not read in the authors' code"}
    return f"{asked['prompts']['name']} ({digest}{source.get(whose, '')})"


def _in_words(said: str | Mapping[str, str]) -> str:
    if isinstance(said, str):
        return said or "none"
    return ", ".join(f"{task or 'composed'}: {text or 'none'}" for task, text in said.items())


def _overview(table: Table, columns: Mapping[str, Sequence[TableCell]], notes: _Notes) -> ReportTable:
    """Return one line a model, one column a benchmark."""
    head = ["model", *(_headed(name, cells) for name, cells in columns.items())]
    rows, sentences, marks = [], set(), {}
    for at, (model, cells) in enumerate(table.rows.items()):
        rows.append([model, *map(_said, cells)])
        for column, cell in enumerate(cells, 1):
            marks[at, column] = notes.of(cell)
            if cell.result is None:
                sentences.add((at, column))
    best = {(row, at) for at, cells in enumerate(columns.values(), 1) for row in _best(cells, None)}
    return ReportTable(head, rows, frozenset(best), marks, frozenset(sentences))


def _headed(name: str, cells: Iterable[TableCell]) -> str:
    headline = next((cell.result.headline for cell in cells if cell.result and not cell.failure), "")
    return f"{name}: {headline}" if headline else name


def _said(cell: TableCell) -> str:
    """Return a cell of the overview: its figure, or a sentence."""
    if cell.failure:
        return f"failed: {cell.failure}" if cell.why == "" else cell.failure
    if cell.result is None:
        files = " and ".join(cell.record.files) if cell.record else ""
        return f"labels are hidden; for the server: {files}"
    return f"{cell.result.estimates[cell.result.headline][0]:.2f}"


def _best(cells: Sequence[TableCell], column: str | None) -> list[int]:
    """Return which cells have the best figure, of their headline or a column; none where one alone has a figure."""
    values = {}
    for at, cell in enumerate(cells):
        if cell.result is not None and not cell.failure:
            name = column or cell.result.headline
            if name in cell.result.estimates:
                figure = round(cell.result.estimates[name][0], 2)  # as it is printed
                less = cell.result.columns.get(name, ("", ""))[1] in cell.result.lower
                values[at] = -figure if less else figure
    best = max(values.values(), default=None)
    return [at for at, value in values.items() if value == best] if len(values) > 1 else []


def _section(
    opened: OpenedBenchmark | None, name: str, cells: Sequence[TableCell], notes: _Notes, output: Path
) -> Iterator[Block]:
    """Yield all that is said of one benchmark."""
    yield Heading(name)
    made = [cell for cell in cells if not cell.failure]
    results = [cell.result for cell in made if cell.result is not None]
    yield from _rules(opened, results, notes.common[name])
    if results or len(made) < len(cells):
        columns = list(dict.fromkeys(chain.from_iterable(result.shown for result in results)))
        yield _lines(cells, [_figures(cell, columns) for cell in cells], notes, columns)
    if made:
        yield "What the halves of the queries find, what each model was trained on of it, and what measuring it took:"
        yield _lines(made, [_beside(cell) for cell in made], notes)
    yield from notes.below({name: cells})
    yield from _further(opened, output / cells[0].benchmark.folder, len(results))


def _rules(opened: OpenedBenchmark | None, results: Sequence[SavedResult], common: Sequence[str]) -> Iterator[str]:
    """Yield by which rules a benchmark was measured, and in what all cells agree beside."""
    if opened is not None and opened.suite is not None:
        suite = opened.suite
        rules = [f"{key}: {text}" for key, text in suite.protocol.items()]
        yield f"{suite.title}, fingerprint {suite.fingerprint()[:12]}. {'; '.join(rules)}."
    shared = [*(f"ties: {result.ties}" for result in results[:1]), *common]
    if shared:
        yield f"The same for all models here: {'; '.join(shared)}."


def _further(opened: OpenedBenchmark | None, folder: Path, results: int) -> Iterator[str]:
    """Yield what can be done with what lies in a benchmark's folder."""
    if results > 1:
        yield f"For published results and paired tests give the folders in {folder} to mllm-embed-eval compare."
    suite = opened.suite if opened is not None else None
    if suite is not None and not suite.labelled and suite.name in SUBMISSIONS:
        where = "; ".join(line.strip() for line in uploads(suite))
        yield f"The labels are hidden. The files for the server, checked, lie in {folder}/MODEL: {where}."


def _lines(
    cells: Sequence[TableCell], lines: Sequence[Mapping[str, str]], notes: _Notes, judged: Sequence[str] = ()
) -> ReportTable:
    """Return one line a model; the best of the columns `judged` is marked, and what no line has is no column."""
    head = ["model", *dict.fromkeys(key for line in lines for key, text in line.items() if text)]
    rows = [_row(cell, line, head) for cell, line in zip(cells, lines, strict=True)]
    best = {(row, head.index(column)) for column in judged for row in _best(cells, column)}
    marks = {(at, 0): notes.of(cell) for at, cell in enumerate(cells)}
    places = ((at, head.index(_FAILURE)) for at, cell in enumerate(cells) if cell.failure)
    return ReportTable(head, rows, frozenset(best), marks, frozenset(places))


def _row(cell: TableCell, line: Mapping[str, str], head: Sequence[str]) -> list[str]:
    return [cell.model.name, *(line.get(key) or _NOTHING for key in head[1:])]


def _figures(cell: TableCell, columns: Sequence[str]) -> dict[str, str]:
    """Return the figures of a cell by the names of their columns; or why there are none."""
    if cell.result is None or cell.failure:
        return {_FAILURE: cell.failure}
    estimates, headline = cell.result.estimates, cell.result.headline
    line = {name: f"{estimates[name][0]:.2f}" for name in columns if name in estimates}
    return line | {f"95 % of {headline}": "{1:.2f} to {2:.2f}".format(*estimates[headline])}


def _beside(cell: TableCell) -> dict[str, str]:
    """Return what stands beside the figures of a cell, by the names of its columns."""
    halves = _halves(cell, cell.result.headline) if cell.result else {}
    return halves | {key: text(cell) for key, text in _COSTS.items()}


def _halves(cell: TableCell, headline: str) -> dict[str, str]:
    """Return the headline of each half, and the composition gaps, by the names of their columns."""
    rows = {f"{headline}, {row}": f"{percent:.2f}" for row, percent in cell.halves.rows.items()}
    for name, (points, low, high) in cell.halves.gaps.items():
        rows[f"gap at {name}"] = f"{points:+.2f}"
        rows[f"95 % of gap at {name}"] = f"{low:.2f} to {high:.2f}"
    return rows


def _leaked(cell: TableCell, count: str, of: str) -> str:
    leaks = cell.leak_count.leaks
    return "not known" if leaks is None else f"{getattr(leaks, count):,} of {getattr(leaks, of):,}"


def _device_memory(cell: TableCell) -> str:
    found = cell.record.cost.device_memory if cell.record else None
    return "" if found is None else f"{found / 2**30:.2f}"
