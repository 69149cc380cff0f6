"""The recipe of two small stages that is planned."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml


@pytest.fixture
def recipe(tiny_llava: Path, data: Path, tmp_path: Path) -> Path:
    stage = {"data": str(data), "batch_size": 4, "epochs": 3}
    values = {
        "model": str(tiny_llava),
        "output": str(tmp_path / "run"),
        "bf16": False,
        "lora": {"rank": 4, "dropout": 0.0},
        "stages": {
            "captions": stage | {"rows": "pairs", "terms": [{"query": "image", "positive": "caption"}]},
            "instructions": stage
            | {"rows": "triplets", "terms": [{"query": "composed", "positive": "target_image", "weight": 1}]},
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "recipe.yaml"
