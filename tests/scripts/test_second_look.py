"""What a second look gains: the table and the picture of rows that were measured before."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import second_look

import make_scenes
from mllm_embed.files import write_json
from toy import scenes
from toy.intervals import gain, interval

PAINTER = scenes.Painter(Path(make_scenes.__file__).parent / "assets" / "sprites")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The scenes of the script in small, and what one seed's runs found there."""
    pictures = make_scenes.Pictures()
    for folder in ("data/seen", "data/unseen", "data/train", "lists/train", "validation/seen"):
        (tmp_path / folder).mkdir(parents=True)
    [other, _] = make_scenes.benchmarks(PAINTER.nouns, 2, draw=1).values()
    make_scenes.write_benchmark(tmp_path / "validation/seen", "seen", other, pictures)
    for name, references in make_scenes.benchmarks(PAINTER.nouns, 2).items():
        make_scenes.write_benchmark(tmp_path / "data" / name, name, references, pictures)
    for name in ("data/train", "lists/train"):
        make_scenes.write_training(tmp_path / name, random.Random(3), PAINTER.nouns, set(), (2, 2, 2), pictures)
    pictures.paint(PAINTER)
    monkeypatch.setattr(second_look, "DATA", tmp_path / "data")
    monkeypatch.setattr(second_look, "LISTS", tmp_path / "lists")
    monkeypatch.setattr(second_look, "VALIDATION", tmp_path / "validation")
    return tmp_path


def test_intervals_know_the_pairs_and_the_seeds() -> None:
    rng = np.random.default_rng(0)
    before = rng.random(400) < 0.6
    after = before | (rng.random(400) < 0.1)
    found = gain([after], [before])
    assert found.points == pytest.approx(100 * (after.mean() - before.mean()))
    assert 0 < found.low < found.points < found.high and found.p < 0.01
    assert str(interval([before])).startswith(f"{100 * before.mean():.1f} (")
    apart = [after, before]  # two seeds that lie apart say less than twice the same
    wide, narrow = interval(apart), interval([after, after])
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    far = interval([before, np.ones(400, bool)])  # Student's t of two seeds reaches beyond what a percentage can be
    assert (far.low, far.high) == (0, 100)


def test_rows_that_are_there_make_the_table_and_the_picture(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def kept(row: str, hits: list[int]) -> None:
        of_test = {"R@1": hits * 8, "R@10": [1] * 32, "ms": 2.0 if row == "embedder" else 40.0}
        recipes, found = second_look.recipes_of(second_look.ROWS[row].needs), {"seen": of_test, "unseen": of_test}
        write_json(output / "seed_0/results" / f"{row}.json", {"recipes": recipes, "found": found})

    output = folders / "output"
    kept("embedder", [1, 0, 1, 0])
    kept("re-ranker, depth 10", [1, 1, 1, 0])
    command = ["second_look", "--seeds", "0", "--output", str(output), "--only"]
    monkeypatch.setattr("sys.argv", [*command, "re-ranker, depth 10"])
    assert second_look.main() == 0
    said = capsys.readouterr()
    [row] = [line for line in said.out.splitlines() if line.startswith("| re-ranker, depth 10")]
    assert row.count("| 75.0 (") == row.count("| +25.0 (") == 2
    assert row.count("| 50% |") == 2 and row.endswith("| 40.0 |")
    assert (output / "table.md").read_text() in said.out
    assert (output / "second_look.png").read_bytes().startswith(b"\x89PNG")
    trained = second_look.RUNS["reranker"]
    with monkeypatch.context() as other:
        other.setitem(second_look.RUNS, "reranker", replace(trained, overrides=(*trained.overrides, "seed=9")))
        assert second_look.main() != 0
    assert (
        "re-ranker, depth 10.json is of other recipes than those of embedder, reranker now" in capsys.readouterr().err
    )
    make_scenes.write_training(
        folders / "lists/train", random.Random(4), PAINTER.nouns, set(), (2, 2, 2), make_scenes.Pictures()
    )
    assert second_look.main() != 0
    assert "holds rows of other scenes; remove it, or give another --output" in capsys.readouterr().err
