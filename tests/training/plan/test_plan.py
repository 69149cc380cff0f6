"""`plan`: what it counts of models, of what is trained on them, of guides and of steps."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import families
from mllm_embed import Document, MLLMEmbedder
from mllm_embed.errors import ConfigError, ModelError
from mllm_embed.model.families import states_width
from mllm_embed.model.heads.lexical_head import RANK
from mllm_embed.model.lora import LoraSpec, add_lora
from mllm_embed.saving.settings import RERANKER_FILE
from mllm_embed.training.batch.stage_data import open_stage
from mllm_embed.training.cli import main
from mllm_embed.training.plan.guide import plan_guide
from mllm_embed.training.plan.inputs import MicroBatch
from mllm_embed.training.plan.model import SHAPES, find_config
from mllm_embed.training.plan.plan import GIB, check_fits, describe, make_plan
from mllm_embed.training.recipe.recipe_files import load_recipe

STATED = {  # with the LM head, as the hub states them; training/shapes/README.md
    "Qwen/Qwen2-VL-2B-Instruct": 2_208_985_600,
    "Qwen/Qwen2-VL-7B-Instruct": 8_291_375_616,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen/Qwen3-VL-2B-Instruct": 2_127_532_032,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
    "HuggingFaceTB/SmolVLM-256M-Instruct": 256_484_928,
    "HuggingFaceTB/SmolVLM-500M-Instruct": 507_482_304,
    "llava-hf/llava-v1.6-mistral-7b-hf": 7_566_747_648,
    "llava-hf/llama3-llava-next-8b-hf": 8_355_276_800,
    "royokong/e5-v": 8_354_752_512,
    "uta-smile/instructcir_llava_phi35_clip224_lp": 4_136_848_384,
}


@pytest.mark.usefixtures("uncounted")
@pytest.mark.parametrize("projector", [True, False])
def test_parameters_are_those_of_the_loaded_model(recipe: Path, tiny_llava: Path, projector: bool) -> None:
    embedder = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", device="cpu")
    before = sum(p.numel() for p in embedder.model.parameters())
    add_lora(embedder.model, LoraSpec(rank=4, projector=projector), embedder.family)
    trained = {n: p.numel() for n, p in embedder.model.named_parameters() if p.requires_grad}
    counts = make_plan(load_recipe(recipe, [f"lora.projector={projector}"])).counts
    assert counts.base == before
    assert counts.lora == sum(n for name, n in trained.items() if "lora_" in name)
    assert counts.trained_projector == sum(n for name, n in trained.items() if "lora_" not in name)
    assert (counts.trained_projector == counts.projector > 0) is projector


@pytest.mark.usefixtures("uncounted")
def test_what_is_trained_behind_the_language_model_is_counted(recipe: Path, tiny_llava: Path) -> None:
    plain = make_plan(load_recipe(recipe))
    for changes, count in (
        (["pooling=multi", "multi={width: 8}"], lambda counts: counts.projection == 64 * 8),
        (["lexical={words: 5}"], lambda counts: counts.lexical_head == 2 * 64 * RANK + _vocabulary(tiny_llava)),
    ):
        plan = make_plan(load_recipe(recipe, changes))
        assert count(plan.counts) and plan.counts.trained_projector == plain.counts.trained_projector
        heads = plan.counts.projection + plan.counts.lexical_head
        assert plan.counts.trainable == plain.counts.trainable + heads
        assert f"{heads / 1e6:,.2f} M" in describe(load_recipe(recipe, changes), plan)


def test_what_is_kept_behind_the_language_model_is_counted(recipe: Path, tiny_llava: Path) -> None:
    def taken(*changes: str) -> tuple[int, list[MicroBatch]]:
        stage = make_plan(load_recipe(recipe, ["stages.instructions=null", *changes])).stages["captions"]
        return stage.step.language, stage.inputs

    (plain, inputs), (multi, _) = taken(), taken("pooling=multi", "multi={width: 8}")
    assert multi - plain == sum(batch.count * batch.length for batch in inputs) * (4 * 64 + 12 * 8)
    lexical, _ = taken("lexical={words: 5}")
    words = 4 * (4 + 8) + 12  # of the last 4 tokens the logits, in float32 all of them; of the largest three
    assert lexical - plain == sum(batch.count for batch in inputs) * _vocabulary(tiny_llava) * words


def _vocabulary(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["text_config"]["vocab_size"])


@pytest.mark.usefixtures("uncounted")
def test_steps_and_rows_seen(recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe, ["stages.captions.steps=7"])
    plan = make_plan(loaded)
    assert (plan.stages["captions"].steps, plan.stages["instructions"].steps) == (7, 6)  # 3 epochs of 8 // 4
    assert "6 steps, 24 rows seen" in describe(loaded, plan)
    missing = load_recipe(recipe, [f"stages.instructions.data={tmp_path / 'later'}"])
    plan = make_plan(missing)
    assert plan.stages["instructions"].steps is None and plan.stages["captions"].steps == 6
    assert "stage instructions: steps unknown: its data is not on disk" in describe(missing, plan)


@pytest.mark.parametrize("name", [path.stem.replace("--", "/") for path in sorted(SHAPES.glob("*.json"))])
def test_shapes_have_the_stated_number_of_parameters(name: str) -> None:
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(find_config(name)[0])
    assert sum(p.numel() for p in model.parameters()) == STATED[name]


def test_a_guide_counts_while_it_encodes(recipe: Path, saved_models: dict[str, Path]) -> None:
    """Its weights, as loaded, lie beside the model's before the first step; its vectors on the disk."""
    large, cuda, sizes = "HuggingFaceTB/SmolVLM-500M-Instruct", torch.device("cuda"), {}
    for name, guide in (("own", "{}"), ("adapter folder", f"{{model: {saved_models['adapter']}}}")):
        loaded = load_recipe(recipe, [f"stages.instructions.guide={guide}"])
        sizes[name] = plan_guide(loaded, loaded.stages["instructions"], False, cuda, None, None).weights
    alone = make_plan(load_recipe(recipe), 24)
    loaded = load_recipe(recipe, [f"stages.instructions.guide={{model: {large}}}"])
    plan = make_plan(loaded, 24)
    found = plan.stages["instructions"].guide
    assert plan.stages["captions"].guide is None
    assert sizes["own"] == sizes["adapter folder"] == alone.base
    assert found.weights == 4 * (STATED[large] - 49_280 * 960)  # in float32, as the recipe says; without the LM head
    assert plan.total == plan.base + plan.trained // 2 + found.weights + plan.reserve > alone.total
    # 8 rows that share nothing but, each with one other, its words: a composed query and its target
    assert found.vectors == 8 * 2 * (2 * 960 + 8)
    told = describe(loaded, plan)
    assert f"whose weights take {found.weights / GIB:.1f}" in told and "the guide's weights, while it encodes" in told
    with pytest.raises(ConfigError, match="with its guide needs .* choose a smaller guide"):
        check_fits(loaded, replace(plan, available=2 * GIB))


@pytest.mark.parametrize(("steps", "inputs"), [(1, 6 + 4), (2, 6 + 2 + 1 + 2), (None, 6 + 2 + 1 + 2)])
def test_a_guide_has_a_vector_of_each_input_that_may_play_a_role(
    steps: int | None, inputs: int, recipe: Path, data: Path
) -> None:
    """Further targets, further words, and hard negatives up to the stage's number; what rows share counts once."""
    rows = [{"image": "images/0.png", "instruction": ["red", "in red"],
             "target_image": ["images/4.png", "images/5.png"],
             "negative_image": ["images/6.png", "images/7.png", "images/1.png"]},
            {"image": "images/2.png", "instruction": "red", "target_image": "images/3.png",
             "negative_image": ["images/6.png", "images/4.png"]}]  # fmt: skip
    rows += [{**rows[1], "image": f"images/{number}.png", "negative_image": None} for number in (1, 3)]
    rows[3]["target_image"] = "images/2.png"
    (data / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(data / "rows.jsonl"), "format": "columns", "columns": {name: name for name in rows[0]}}
    term = {"query": "composed", "positive": "target_image", "negatives": ["hard_negative"]}
    stage = {"data": [source], "terms": [term], "hard_negatives": 2, "batch_size": 2, "guide": {}}
    loaded = load_recipe(recipe, [f"stages.instructions.{key}={json.dumps(value)}" for key, value in stage.items()])
    one = loaded.stages["instructions"]
    plan = plan_guide(loaded, one, False, torch.device("cpu"), open_stage(one)[0], steps)
    assert plan.vectors == inputs * (2 * states_width(find_config(loaded.model)[0]) + 8)


@pytest.mark.usefixtures("uncounted")
@pytest.mark.slow
@pytest.mark.parametrize("family", ["paligemma", "internvl", "gemma3", "mllama", "qwen3_vl", "embedding_gemma2"])
def test_families_with_ways_of_their_own_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str) -> None:
    """With its processor: the tokens of its pictures are those that it makes."""
    folder = families.make(family, tmp_path / family)
    keys = {"model": folder, "attention": "eager", "stages.instructions.terms.0.positive": "target_captioned"}
    overrides = [word for key, value in keys.items() for word in ("--override", f"{key}={value}")]
    assert main(["plan", "qwen2-vl-2b", "--memory", "24", "--picture", "64x48", *overrides]) == 0
    processor = MLLMEmbedder.from_pretrained(folder).item_processor
    ids = processor([Document(image=Image.new("RGB", (64, 48)))])["input_ids"]
    tokens = int(torch.isin(ids, torch.tensor(processor.processor.image_token_ids)).sum())
    printed = capsys.readouterr().out
    assert f"x image: {tokens} image tokens" in printed and f"x captioned: {tokens} image tokens" in printed


@pytest.mark.usefixtures("uncounted")
def test_an_adapter_counts_though_its_model_is_not_here(
    recipe: Path, tiny_llava: Path, saved_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllm_embed.training.plan.model.SHAPES", shutil.copytree(SHAPES, tmp_path / "shapes"))
    shutil.copy(tiny_llava / "config.json", tmp_path / "shapes/own--tiny.json")
    keys = ["lora=null", f"adapter={saved_models['adapter']}"]
    here, not_here = (make_plan(load_recipe(recipe, [*keys, *more])) for more in ([], ["model=own/tiny"]))
    assert not_here.counts == here.counts and here.counts.lora > 0
    assert not_here.counts.lora != make_plan(load_recipe(recipe, ["lora=null", "model=own/tiny"])).counts.lora
    judge = shutil.copytree(saved_models["adapter"], tmp_path / "judge")
    (judge / RERANKER_FILE).write_text("{}")
    with pytest.raises(ModelError, match="is a re-ranker"):
        make_plan(load_recipe(recipe, ["lora=null", "model=own/tiny", f"adapter={judge}"]))


@pytest.mark.parametrize(
    "name", ["Alibaba-NLP/gme-Qwen2-VL-2B-Instruct", "Qwen/Qwen3-VL-Embedding-8B", "Qwen/Qwen3-VL-Reranker-8B"]
)
def test_a_published_model_has_the_shape_of_its_base(name: str) -> None:
    config, where = find_config(name)
    base, _ = find_config(where.partition("that of ")[2])
    assert config.to_dict() == base.to_dict()
