"""A re-ranker's recipe of one stage, and the prompt in it, in words that the tiny model's tokenizer knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

LIST = {"words": "Which fits {query}?\n{candidates}Answer with its number.", "most": 4}
PROMPT = {"words": "{query}\n{candidate}\nIs it this one?", "yes": "red", "no": "blue", "list": LIST}


def write_recipe(folder: Path, model: Path, stage: dict[str, Any], dropout: float = 0.0) -> Path:
    """Write the recipe into a folder, in which its run lies too; return its path."""
    values = {
        "model": str(model), "output": str(folder / "run"), "bf16": False, "lora": {"rank": 4, "dropout": dropout},
        "reranker": {"prompt": PROMPT}, "stages": {"rerank": {"rows": "triplets", **stage}},
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
