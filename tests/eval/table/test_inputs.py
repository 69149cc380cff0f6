"""What decides a cell: two benchmarks that are asked or shown otherwise are never of the same inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from eval.benchmarks.genecis import Crop
from eval.scoring.metrics import recall
from eval.scoring.suite import Suite, Task, View
from eval.table.inputs import FileDigests, Inputs, benchmark_inputs, differences
from mllm_embed.types import Document, Query


def made(folder: Path, query: Query, gallery: list[Document]) -> Inputs:
    ids = [f"g{at}" for at in range(len(gallery))]
    task = Task("", ids, gallery, ["q"], [(query,)], (View(recall((1,)), [[0]]),))
    return benchmark_inputs(Suite("made", "", {}, (task,)), FileDigests(folder / "digests.json"))


@pytest.mark.parametrize("what", ["picture of the same name", "crop", "text for a picture"])
def test_what_a_fingerprint_does_not_tell_apart_are_other_inputs(what: str, tmp_path: Path) -> None:
    a, b = tmp_path / "a/1.png", tmp_path / "b/1.png"
    for red, path in enumerate((a, b)):
        path.parent.mkdir()
        Image.new("RGB", (8, 8), (red, 0, 0)).save(path)
    gallery = [Document(a), Document(b)]
    crops = [[Document(Crop(a, (0, 0, side, 4))), *gallery] for side in (4, 5)]
    pairs = {
        "picture of the same name": [(Query(a, "in red"), gallery), (Query(b, "in red"), gallery)],
        "crop": [(Query(a, "in red"), own) for own in crops],
        "text for a picture": [(Query(text=text, instruction="in red"), gallery) for text in ("a shoe", "a boot")],
    }
    one, other = (made(tmp_path, *pair) for pair in pairs[what])
    changed = "words of the benchmark" if "text" in what else "places of pictures"
    assert differences(one, other) == [f"another {changed}"]
    assert one == made(tmp_path, *pairs[what][0])
