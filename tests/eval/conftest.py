"""Made-up benchmarks, opened as real ones are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from eval.benchmarks import open_suite
from eval.scoring.suite import Suite
from made_benchmarks import WRITERS


@pytest.fixture(scope="session")
def suites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Suite]:
    """Every benchmark that papers report, small, and opened by its own code."""
    made = {name: write(tmp_path_factory.mktemp(name)) for name, write in WRITERS.items()}
    return {name: open_suite(name, data, pictures=False) for name, data in made.items()}


@pytest.fixture
def cirr(tmp_path: Path) -> Path:
    """CIRR's files in small: 60 pictures, of which every query's set holds six; labels for val, none for test1."""
    root = tmp_path / "cirr"
    for folder in ("captions", "image_splits", "dev", "test1"):
        (root / folder).mkdir(parents=True)
    for split, place in (("val", "dev"), ("test1", "test1")):
        names = [f"{place}-{number}-0-img0" for number in range(60)]
        for number, name in enumerate(names):
            Image.new("RGB", (8, 8), (number * 4, 90, 255 - number * 4)).save(root / place / f"{name}.png")
        rows = []
        for number in range(0, 60, 12):
            row = {"pairid": 100 + number, "reference": names[number], "caption": "brighter"}
            row["img_set"] = {"id": number, "members": names[number : number + 6]}
            labels = {"target_hard": names[number + 1], "target_soft": {names[number + 1]: 1.0, names[number + 2]: 0.5}}
            rows.append({**row, **(labels if split == "val" else {})})
        (root / f"captions/cap.rc2.{split}.json").write_text(json.dumps(rows))
        files = {name: f"./{place}/{name}.png" for name in names}
        (root / f"image_splits/split.rc2.{split}.json").write_text(json.dumps(files))
    return root
