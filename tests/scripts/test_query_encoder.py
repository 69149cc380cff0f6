"""The scripts around a distilled query encoder: a smaller base, and the table of both beside each other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mllm_embed import MLLMEmbedder

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_smaller_base_keeps_the_layers_that_are_named(tiny_llava: Path, tmp_path: Path) -> None:
    done = run(SCRIPTS / "toy/smaller_base.py", tiny_llava, "--layers", "1", "--output", tmp_path / "small")
    assert done.returncode == 0, done.stderr
    whole, small = (MLLMEmbedder.from_pretrained(path, dtype="float32") for path in (tiny_llava, tmp_path / "small"))
    kept = dict(small.model.backbone.named_parameters())
    layers = {name.replace("layers.0.", "layers.1."): name for name in kept if "language_model.layers" in name}
    for name, parameter in whole.model.backbone.named_parameters():
        if "language_model.layers" not in name or name in layers:
            assert parameter.equal(kept[layers.get(name, name)]), name
    assert len(small.model.base.language_model.layers) == 1
    assert small.encode(["a hat"]).shape == (1, 64)
    done = run(SCRIPTS / "toy/smaller_base.py", tiny_llava, "--layers", "0", "2", "--output", tmp_path / "none")
    assert done.returncode == 2 and "must increase, from 0 to 1" in done.stderr and not (tmp_path / "none").exists()


@pytest.mark.slow
def test_the_table_has_a_row_an_encoder(tiny_llava: Path, data: Path) -> None:
    done = run(SCRIPTS / "searching/bench_query.py", data, "--model", tiny_llava, "--repeat", "1")
    assert done.returncode == 0, done.stderr
    assert "R@1 halves" in done.stdout and "| full " in done.stdout and "distilled" not in done.stdout
