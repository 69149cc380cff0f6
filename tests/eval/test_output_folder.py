"""The folder that a run is written to where none is named: none that an unlike run was written to."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from eval.benchmarks import open_suite
from eval.commands.run import register
from eval.commands.suite_options import output_folder
from tiny import make_data


@pytest.mark.parametrize("option", ["", "--jpeg-side 512", "--dim 8", "--quantization int8", "--truncate"])
def test_what_is_loaded_otherwise_stands_beside_the_usual_run(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    data = make_data(tmp_path / "data", 4)
    given = parser.parse_args(["run", str(data), "--model", "model", *option.split()])
    word = option.removeprefix("--").replace(" ", "-") + ("-True" if option == "--truncate" else "")
    found = output_folder(given, "runs/eval", open_suite("folder", data), given.model)
    assert found.name.endswith(f"-model-{word}" if option else "-model")
