"""Runs that start from an adapter, ours or another trainer's: as if its own run had gone on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mllm_embed import MLLMEmbedder
from mllm_embed.errors import ConfigError
from mllm_embed.inputs.prompts import PROMPT_SETS
from mllm_embed.model.lora import LoraSpec, add_lora
from mllm_embed.saving.settings import read_settings
from mllm_embed.training.plan.plan import make_plan
from mllm_embed.training.recipe.recipe_files import as_text, load_recipe
from mllm_embed.training.report.run_log import read_log
from mllm_embed.training.run.stages import run_recipe
from tiny import make_data

pytestmark = pytest.mark.slow
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def recipe(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short stages, with dropout."""
    folder = tmp_path_factory.mktemp("going_on")
    stage = {
        "data": str(make_data(folder / "halves")), "batch_size": 4, "steps": 2, "learning_rate": 1e-2,
        "chunk_tokens": 4096,
    }  # fmt: skip
    stages = {
        "captions": stage | {"rows": "pairs", "terms": [{"query": "image", "positive": "caption"}]},
        "instructions": stage | {"rows": "triplets", "terms": [{"query": "composed", "positive": "target_image"}]},
    }
    values = {
        "model": str(tiny_llava), "output": str(folder / "whole"), "bf16": False, "stages": stages,
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Path:
    """The folder of a run of both stages."""
    return run_recipe(load_recipe(recipe)).parent


def second(output: Path, *more: str) -> list[str]:
    """Return what makes the recipe one of its second stage alone, with that stage's seed."""
    return ["stages.captions=null", "seed=1", "lora=null", f"output={output}", *more]


def of_peft_alone(adapter: Path, folder: Path) -> Path:
    """Return a folder with what peft writes of an adapter, and nothing of this library."""
    folder.mkdir()
    for name in ("adapter_config.json", WEIGHTS):
        shutil.copy(adapter / name, folder)
    return folder


@pytest.mark.parametrize("how", ["adapter", "adapter of peft alone", "model"])
def test_a_run_from_an_adapter_goes_on_as_its_own_run_did(how: str, recipe: Path, whole: Path, tmp_path: Path) -> None:
    start = whole / "captions"
    if how == "adapter of peft alone":
        start = of_peft_alone(start, tmp_path / "peft")
    overrides = second(tmp_path / "run", f"{'model' if how == 'model' else 'adapter'}={start}")
    run_recipe(load_recipe(recipe, overrides))
    expected, found = (load_file(run / "instructions" / WEIGHTS) for run in (whole, tmp_path / "run"))
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    card = (tmp_path / "run/instructions/README.md").read_text()
    assert f"- went on from: {start.name}\n" in card and "rank 4, alpha 8, dropout 0.1; projector trained" in card


def test_the_adapters_form_stays(recipe: Path, whole: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    shutil.copytree(whole / "captions", start)
    saved = json.loads((start / "mllm_embed.json").read_text())
    saved["pooling"], saved["prompts"]["image"] = "mean", "Look:"
    (start / "mllm_embed.json").write_text(json.dumps(saved))
    run_recipe(load_recipe(recipe, second(tmp_path / "run", f"adapter={start}")))
    settings = read_settings(tmp_path / "run/instructions")
    assert settings is not None and (settings.pooling, settings.prompts.image) == ("mean", "Look:")
    own = json.dumps(PROMPT_SETS["instructcir-legacy"].to_dict())
    run_recipe(load_recipe(recipe, second(tmp_path / "own", f"adapter={start}", f"prompts={own}")))
    settings = read_settings(tmp_path / "own/instructions")
    assert settings is not None and settings.pooling == "mean"
    assert settings.prompts == replace(PROMPT_SETS["instructcir-legacy"], name=settings.prompts.name)


def test_another_adapter_is_another_run(recipe: Path, whole: Path, tmp_path: Path) -> None:
    start = of_peft_alone(whole / "captions", tmp_path / "start")
    overrides = second(tmp_path / "run", f"adapter={start}")
    run_recipe(load_recipe(recipe, overrides))
    shutil.copy(whole / "instructions" / WEIGHTS, start)
    with pytest.raises(ConfigError, match="on data that has changed since .adapter."):
        run_recipe(load_recipe(recipe, overrides))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("lora={rank: 8}", "lora.rank is 8, and the adapter .*/captions to go on from has 4; leave lora out"),
        ("lora={alpha: 16}", "lora.alpha is 16.* has 8"),
        ("lora={projector: false}", "lora.projector is False.* has True"),
        ("lora={vision: true}", "lora.vision is True.* has 'layers of its own'"),
        ("lora={dora: true}", "lora.dora is True.* has False"),
    ],
)
def test_a_section_lora_that_says_otherwise_is_refused(
    key: str, message: str, recipe: Path, whole: Path, tmp_path: Path
) -> None:
    asked = load_recipe(recipe, second(tmp_path / "run", f"adapter={whole / 'captions'}", key))
    with pytest.raises(ConfigError, match=message):
        run_recipe(asked)
    with pytest.raises(ConfigError, match=message):
        make_plan(asked, 24)


@pytest.fixture(scope="module")
def on_the_tower(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that is on the vision tower too, and leaves the projector as it is."""
    embedder = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32")
    add_lora(embedder.model, LoraSpec(rank=4, vision=True, projector=False), embedder.family)
    embedder.save_pretrained(folder := tmp_path_factory.mktemp("tower") / "adapter")
    return folder


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("lora={vision: false}", "lora.vision is False.* has True; leave lora out"),
        ("stages.instructions.rates={projector: 0.1}", "rates.projector is given, and the adapter .* trains nothing"),
    ],
)
def test_what_an_adapter_trains_is_asked_of_its_own_files(
    key: str, message: str, recipe: Path, on_the_tower: Path, tmp_path: Path
) -> None:
    asked = load_recipe(recipe, second(tmp_path / "run", f"adapter={on_the_tower}", key))
    for refuse in (run_recipe, make_plan):
        with pytest.raises(ConfigError, match=message):
            refuse(asked)


@pytest.mark.usefixtures("uncounted")
def test_a_tower_that_an_adapter_trains_has_a_rate_of_its_own(
    recipe: Path, whole: Path, on_the_tower: Path, tmp_path: Path
) -> None:
    """Whether it is named as the adapter to go on from, or as the model."""
    rate = "stages.instructions.rates={vision: 0.125}"
    asked = [
        load_recipe(recipe, second(tmp_path / "run", f"{key}={on_the_tower}", rate)) for key in ("adapter", "model")
    ]
    assert make_plan(asked[0], 24).counts == make_plan(asked[1], 24).counts
    run = run_recipe(asked[1]).parent
    first = next(line for line in read_log(run / "log.jsonl") if "learning_rate" in line)
    assert first["learning_rate/vision"] == 12.5 * first["learning_rate"]
    for refuse, key in ((run_recipe, "adapter"), (run_recipe, "model"), (make_plan, "adapter"), (make_plan, "model")):
        with pytest.raises(ConfigError, match="rates.vision is given, and the adapter .* trains nothing"):
            refuse(load_recipe(recipe, second(tmp_path / "other", f"{key}={whole / 'captions'}", rate)))


@pytest.mark.usefixtures("uncounted")
def test_a_plan_counts_the_adapter_that_is_there(recipe: Path, whole: Path, tmp_path: Path) -> None:
    new = make_plan(load_recipe(recipe), 24)
    alike = second(tmp_path / "run", f"adapter={whole / 'captions'}")
    assert make_plan(load_recipe(recipe, alike), 24).counts == new.counts
    agreeing = load_recipe(recipe, [*alike, "lora={rank: 4, alpha: 8, dropout: 0.1, projector: true}"])
    assert make_plan(agreeing, 24).counts == new.counts
    (tmp_path / "shown.yaml").write_text(as_text(agreeing))
    assert load_recipe(tmp_path / "shown.yaml") == agreeing
    for key in ("adapter", "model"):
        asked = load_recipe(recipe, second(tmp_path / "run", f"{key}={whole / 'captions'}"))
        (tmp_path / "shown.yaml").write_text(as_text(asked))
        assert make_plan(load_recipe(tmp_path / "shown.yaml"), 24).counts == new.counts


def test_an_adapter_that_was_taught_for_another_index_needs_its_teacher(
    recipe: Path, whole: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start"
    shutil.copytree(whole / "captions", start)
    saved = json.loads((start / "mllm_embed.json").read_text())
    saved["finds"] = {"base": "another"}
    (start / "mllm_embed.json").write_text(json.dumps(saved))
    with pytest.raises(ConfigError, match="was taught queries for the index of another model.*give its teacher"):
        run_recipe(load_recipe(recipe, second(tmp_path / "run", f"adapter={start}")))
