"""Limits of pictures in a recipe: they reach the processor, travel with the adapter, and count in the plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import families
from mllm_embed import Document, MLLMEmbedder
from mllm_embed.errors import ConfigError
from mllm_embed.inputs.prompts import PROMPT_SETS
from mllm_embed.inputs.resize import Resize
from mllm_embed.model.families import family_of
from mllm_embed.model.picture_layout import BestGrid
from mllm_embed.saving.settings import Settings, read_settings
from mllm_embed.training.plan.plan import make_plan
from mllm_embed.training.recipe.config import Recipe
from mllm_embed.training.recipe.pixels import limited
from mllm_embed.training.run.stages import run_recipe

TERM = {"query": "image", "positive": "caption"}
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((128, 96))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("families")
    return {name: families.make(name, home / name) for name in ("qwen3_vl", "smolvlm", "embedding_gemma2")}


def _recipe(model: Path, data: Path, output: Path, **keys: Any) -> Recipe:
    stage = {"data": data, "rows": "pairs", "batch_size": 4, "terms": [TERM], "steps": 1}
    return Recipe(
        model=str(model), output=output, bf16=False, lora={"rank": 2}, stages={"one": stage}, **keys
    )  # fmt: skip


def _tokens(embedder: MLLMEmbedder) -> int:
    ids = embedder.item_processor([Document(image=PICTURE)])["input_ids"]
    return int(torch.isin(ids, torch.tensor(embedder.processor.image_token_ids)).sum())


@pytest.mark.usefixtures("uncounted")
@pytest.mark.parametrize(
    ("family", "keys", "tokens"),
    [
        # 16 x 16 pixels a token
        ("qwen3_vl", {"max_pixels": 2048}, 6),
        ("qwen3_vl", {"min_pixels": 8192, "max_pixels": 16384}, 48),
        # tiles of 32 x 32 pixels, 4 tokens each, and one of the whole
        ("smolvlm", {"max_pixels": 1024}, 4),
        ("smolvlm", {"max_pixels": 10000}, 40),
        # at most 70 or 140 tokens of 12 x 12 pixels
        ("embedding_gemma2", {"max_pixels": 20_159}, 63),
        ("embedding_gemma2", {"max_pixels": 20_160}, 130),
    ],
)
def test_limits_reach_pictures_travel_with_the_adapter_and_count_in_the_plan(
    models: dict[str, Path], data: Path, tmp_path: Path, family: str, keys: dict[str, int], tokens: int
) -> None:
    recipe = _recipe(models[family], data, tmp_path / "run", **keys)
    loaded = MLLMEmbedder.from_pretrained(run_recipe(recipe), dtype="float32")
    assert _tokens(loaded) == tokens
    batch = make_plan(recipe, 24, PICTURE.size).stages["one"].inputs[0]
    assert batch.image_tokens == tokens
    # from the config alone, as of a model that is not on this disk, a picture costs the same
    config = loaded.model.base.config
    layout = family_of(config).pictures
    settings = layout.limits(config, {}, keys.get("min_pixels"), keys.get("max_pixels"))
    assert replace(layout, settings=settings).cost(config, *PICTURE.size).patches == batch.patches


@pytest.mark.parametrize(
    ("family", "keys", "message"),
    [
        ("qwen3_vl", {"min_pixels": 16384}, "pictures of 16,384 to 4,096 pixels hold no square of 256"),
        ("qwen3_vl", {"min_pixels": 1, "max_pixels": 255}, "pictures of 1 to 255 pixels hold no square of 256"),
        ("smolvlm", {"min_pixels": 1024}, "as large as max_pixels allows; leave min_pixels out"),
        ("smolvlm", {"max_pixels": 1023}, "is less than one tile of 32 x 32; give 1024 or more"),
        ("embedding_gemma2", {"max_pixels": 10_079}, "is less than 70 tokens; give at least 10080"),
        ("tiny", {"max_pixels": 4096}, "sees every picture at a size of its own; leave min_pixels and max_pixels out"),
    ],
)
def test_limits_that_a_model_does_not_know_are_refused(
    models: dict[str, Path], tiny_llava: Path, data: Path, tmp_path: Path, family: str, keys: dict, message: str
) -> None:
    recipe = _recipe(models.get(family, tiny_llava), data, tmp_path / "run", **keys)
    for refuse in (run_recipe, make_plan):
        with pytest.raises(ConfigError, match=f"min_pixels, max_pixels: .*{message}"):
            refuse(recipe)
    assert not (tmp_path / "run").exists()


def test_grids_of_a_models_own_are_refused() -> None:
    with pytest.raises(ConfigError, match="grids that stand in its config.json"):
        BestGrid().limits(None, {}, None, 10**6)


def test_a_resize_before_the_processor_has_the_same_limits(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """As the presets of models that were trained with qwen-vl-utils have it, which would undo a limit above theirs."""
    settings = Settings(PROMPT_SETS["instructcir"], resize=Resize(factor=16, min_pixels=512, max_pixels=1024))
    recipe = _recipe(models["qwen3_vl"], data, tmp_path, max_pixels=2048)
    resize = limited(recipe, settings).resize
    assert resize == Resize(factor=16, min_pixels=512, max_pixels=2048)
    assert limited(recipe.model_copy(update={"max_pixels": None}), settings) is settings


def test_that_words_are_cut_travels_with_the_adapter(tiny_llava: Path, data: Path, tmp_path: Path) -> None:
    recipe = _recipe(tiny_llava, data, tmp_path / "run", truncate=True, max_tokens=512)
    settings = read_settings(run_recipe(recipe))
    assert settings is not None and settings.truncate and settings.max_tokens == 512


@pytest.mark.filterwarnings("ignore:jpeg_side is 48")
def test_jpegs_are_decoded_as_the_recipe_says_and_planned_so(
    models: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    """It travels with the adapter too; 0 takes it back."""
    for file in (data / "images").iterdir():
        PICTURE.save(file, "JPEG")  # whose content tells, and not its name
    recipe = _recipe(models["qwen3_vl"], data, tmp_path / "run", jpeg_side=48, max_pixels=16384)
    adapter = run_recipe(recipe)
    settings = read_settings(adapter)
    assert settings is not None and settings.jpeg_side == 48
    loaded = MLLMEmbedder.from_pretrained(adapter, dtype="float32")
    file = next((data / "images").iterdir())
    assert loaded.item_processor.load(file).size == (64, 48)
    # 4 x 3 tokens of 16 x 16 pixels, and of the whole picture 8 x 6
    assert make_plan(recipe, 24).stages["one"].inputs[0].image_tokens == 12
    assert make_plan(recipe.model_copy(update={"jpeg_side": None}), 24).stages["one"].inputs[0].image_tokens == 48
    assert limited(recipe.model_copy(update={"jpeg_side": None}), settings).jpeg_side == 48
    assert limited(recipe.model_copy(update={"jpeg_side": 0}), settings).jpeg_side is None
