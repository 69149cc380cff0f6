"""Training on a quantised base: it runs, resumes to the bit, and its adapter fits the base in full precision."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from mllm_embed import MLLMEmbedder
from mllm_embed.model.quantization import QUANTIZATIONS
from mllm_embed.training.cli import main
from mllm_embed.training.recipe.recipe_files import load_recipe
from mllm_embed.training.run import trainer as trainer_module
from mllm_embed.training.run.stages import run_recipe

pytest.importorskip("bitsandbytes")


@pytest.fixture
def recipe(tiny_llava: Path, data: Path, tmp_path: Path) -> Path:
    terms = [{"query": "composed", "positive": "target_image", "negatives": ["query_image"]}]
    stage = {"data": str(data), "rows": "triplets", "terms": terms, "batch_size": 4, "steps": 2, "save_steps": 1}
    values = {
        "model": str(tiny_llava), "output": str(tmp_path / "run"), "bf16": False, "gradient_checkpointing": True,
        "lora": {"rank": 4, "dropout": 0.1}, "stages": {"one": stage | {"learning_rate": 1e-2}},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "recipe.yaml"


class _Stop(Exception):
    pass


def _adapter(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "one/adapter_model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("mode", QUANTIZATIONS)
def test_a_stopped_run_ends_like_an_unstopped_one(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, bf16: bool
) -> None:
    overrides = [f"quantization={mode}", f"bf16={str(bf16).lower()}"]
    assert main([str(recipe), *(word for o in overrides for word in ("--override", o))]) == 0
    stopped = load_recipe(recipe, [*overrides, f"output={tmp_path / 'stopped'}"])
    with monkeypatch.context() as patch:
        original = trainer_module.ContrastiveTrainer.compute_loss

        def interrupted(self, *args, **kwargs):
            if self.state.global_step == 1:
                raise _Stop
            return original(self, *args, **kwargs)

        patch.setattr(trainer_module.ContrastiveTrainer, "compute_loss", interrupted)
        with pytest.raises(_Stop):
            run_recipe(stopped)
    assert (tmp_path / "stopped/checkpoints/one/checkpoint-1").is_dir()
    run_recipe(stopped)
    whole, resumed = _adapter(tmp_path / "run"), _adapter(tmp_path / "stopped")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    assert all(tensor.dtype == torch.float32 for tensor in whole.values())
    assert any("multi_modal_projector" in name for name in whole)
    assert json.loads((tmp_path / "run/run.json").read_text())["recipe"]["quantization"] == mode


@pytest.mark.slow
def test_its_adapter_goes_on_the_unquantised_base(recipe: Path, tiny_llava: Path, data: Path, tmp_path: Path) -> None:
    adapter = run_recipe(load_recipe(recipe, ["quantization=nf4"]))
    plain = run_recipe(load_recipe(recipe, [f"output={tmp_path / 'plain'}"]))
    loaded = MLLMEmbedder.from_pretrained(tiny_llava, adapter=adapter, dtype="float32")
    assert loaded.quantization is None
    picture = [data / "images/0.png"]
    base = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32").encode(picture)
    assert np.abs(loaded.encode(picture) - base).max() > 1e-3
    other = MLLMEmbedder.from_pretrained(tiny_llava, adapter=plain, dtype="float32").encode(picture)
    assert np.abs(loaded.encode(picture) - other).max() > 1e-4  # it was trained on other weights
