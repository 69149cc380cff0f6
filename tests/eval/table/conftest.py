"""Two small benchmarks, and tables of tiny models made in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny
from eval.commands.table import _load
from eval.table.document import write_document
from eval.table.make import Table
from eval.table.named import apart, read_benchmarks, read_models


class MadeTable:
    """A table that was made, and what it told."""

    def __init__(self, table: Table, lines: list[str]):
        self.table, self.lines = table, lines

    def said(self, words: str) -> list[str]:
        return [line for line in self.lines if words in line]

    def failure(self, model: str, benchmark: str) -> str:
        return next(c.failure for c in self.table.cells if (c.model.name, c.benchmark.name) == (model, benchmark))

    @property
    def text(self) -> str:
        return (self.table.output / "table.md").read_text()


def _make_table(models: list[str], benchmarks: list[Any], output: Path, **more: Any) -> MadeTable:
    lines: list[str] = []
    given = more.pop("given", {})
    more = {"load": _load, "isolated": False, "tell": lines.append, **more}
    named = apart(read_benchmarks(list(map(str, benchmarks))))
    table = Table(read_models(list(map(str, models)), given), named, output, more.pop("load"), **more)
    table.make(write_document)
    return MadeTable(table, lines)


Make = Callable[..., MadeTable]


@pytest.fixture(scope="session")
def make_table() -> Make:
    return _make_table


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("small")
    folders = tiny.make_data(root / "first", 5), tiny.make_data(root / "second", 4)
    for folder in folders:  # without captions, which would be a task of their own
        content = json.loads((folder / "benchmark.json").read_text())
        for item in content["gallery"]:
            del item["caption"]
        (folder / "benchmark.json").write_text(json.dumps(content))
    return folders
