"""One stage on the tests' triplets, and the figures of its log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml


def recipe_of(model: Path, data: Path, folder: Path, **stage: Any) -> Path:
    """Return the file of a recipe with one stage on a data folder, whose run lies beside it."""
    term = {"query": "composed", "positive": "target_image"}
    values = {
        "model": str(model), "output": str(folder / "run"), "bf16": False, "lora": {"rank": 4, "dropout": 0.0},
        "stages": {"one": {"data": str(data), "rows": "triplets", "batch_size": 2, "steps": 3, "save_steps": 1,
                           "chunk_tokens": 4096, "warmup": 0.0, "terms": [term], **stage}},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder / "recipe.yaml"


def figures(recipe: Path, name: str) -> list[float]:
    """Return what the log of a run has under the keys that begin so."""
    log = recipe.parent / "run" / "log.jsonl"
    rows = map(json.loads, log.read_text().splitlines())
    return [row[key] for row in rows for key in row if key.startswith(name)]
