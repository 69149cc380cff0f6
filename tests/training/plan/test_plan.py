"""`plan`: its counts are exact, and its memory is what real steps take."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import families
from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.data.folder import DataFolder
from mllm_embed.errors import ConfigError, DataError, ImageError, ModelError
from mllm_embed.model.families import family_of, states_width
from mllm_embed.model.heads.lexical_head import RANK
from mllm_embed.model.lora import LoraSpec, add_lora
from mllm_embed.saving.settings import RERANKER_FILE
from mllm_embed.training.batch.collator import ContrastiveCollator
from mllm_embed.training.batch.examples import Reader
from mllm_embed.training.batch.stage_data import open_stage
from mllm_embed.training.cli import main
from mllm_embed.training.data.folder import read_rows
from mllm_embed.training.distributed.gradient_caching import BatchEncoder
from mllm_embed.training.distributed.memory_tracker import MemoryTracker
from mllm_embed.training.plan.guide import plan_guide
from mllm_embed.training.plan.inputs import MicroBatch
from mllm_embed.training.plan.model import SHAPES, find_config
from mllm_embed.training.plan.plan import GIB, check_fits, describe, make_plan
from mllm_embed.training.recipe.layers import RECIPES
from mllm_embed.training.recipe.recipe_files import load_any, load_recipe
from published import make_published

BASE = Path(__file__).resolve().parents[3] / "scripts/assets/base"
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
def test_a_folder_without_weights_is_enough_and_tokens_are_the_processors(
    recipe: Path, tiny_llava: Path, tmp_path: Path
) -> None:
    bare = shutil.copytree(tiny_llava, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    plan = make_plan(load_recipe(recipe, [f"model={bare}"]))
    image, text = plan.stages["captions"].inputs
    assert (image.kind, image.count, image.image_tokens, text.kind) == ("image", 4, 16, "text")
    embedder = MLLMEmbedder.from_pretrained(tiny_llava)
    longest = max((json.loads(x)["caption"] for x in _lines(recipe, "pairs")), key=len)
    from mllm_embed import Document

    assert text.length == embedder.item_processor([Document(text=longest)])["input_ids"].shape[1]


def _lines(recipe: Path, kind: str) -> list[str]:
    stage = next(iter(yaml.safe_load(recipe.read_text())["stages"].values()))
    return (Path(stage["data"]) / f"{kind}.jsonl").read_text().splitlines()


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


@pytest.mark.usefixtures("uncounted")
def test_pictures_that_cannot_be_read_are_left_to_the_run(recipe: Path) -> None:
    pictures = Path(yaml.safe_load(recipe.read_text())["stages"]["captions"]["data"]) / "images"
    before = make_plan(load_recipe(recipe)).stages["captions"].inputs
    (pictures / "0.png").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    assert make_plan(load_recipe(recipe)).stages["captions"].inputs == before
    for picture in pictures.iterdir():
        picture.write_bytes(b"none")
    with pytest.raises(ImageError, match="0.png is not a JPEG"):
        make_plan(load_recipe(recipe))


# a tower's code does not run on fake tensors: what it keeps is a formula
TOWER_TRAINED = (
    ["lora.vision=true"], ["lora.vision=true", "lora.dora=true", "lora.dropout=0.1"],
    ["lora.vision=true", "bf16=true", "gradient_checkpointing=true"],
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("options", [
    [], ["gradient_checkpointing=true"], ["attention=eager"], ["lora.dropout=0.1", "lora.projector=false"],
    ["bf16=true", "lora.dropout=0.1"], ["bf16=true", "gradient_checkpointing=true"],
    ["stages.captions.chunk_tokens=90"],
    *TOWER_TRAINED,
], ids=" ".join)  # fmt: skip
def test_memory_is_what_a_real_step_takes(
    recipe: Path, data: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of the embedded model, counted by the storages that are alive: the plan's peak is within a tenth, of one
    whose vision tower is trained within a quarter."""
    near = 0.25 if options in TOWER_TRAINED else 0.1
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)  # so that a bfloat16 base stays one
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = [f"model={BASE}", "stages.captions.batch_size=8", "stages.captions.chunk_tokens=100000", *options]
    loaded = load_recipe(recipe, options)
    planned = make_plan(loaded).stages["captions"].step
    assert planned.peak == pytest.approx(_real_peak(loaded, data), rel=near)


def _real_peak(recipe, data: Path) -> int:
    embedder = MLLMEmbedder.from_pretrained(BASE, dtype="auto" if recipe.bf16 else "float32", device="cpu")
    add_lora(embedder.model, recipe.lora.spec(), embedder.family)
    embedder.model.base.set_attn_implementation(recipe.attention)
    if recipe.gradient_checkpointing:
        embedder.model.gradient_checkpointing_enable()
    encoder = BatchEncoder(embedder.model).train()
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    stage = recipe.stages["captions"]
    rows = read_rows(DataFolder.open(data), data, "pairs", stage.roles)
    read = Reader(embedder.item_processor.prepared, stage.encoded)
    batch = ContrastiveCollator(embedder.item_processor, stage.uses, stage.chunk_tokens)([read(row) for row in rows])[
        "batch"
    ]
    assert batch.cached is (stage.chunk_tokens < 100)
    with MemoryTracker() as live:
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(recipe.bf16)):
            vectors, *_ = encoder(batch)
        vectors.sum().backward()
    return live.peak + sum(chunk["pixel_values"].nbytes for chunk in batch.live if "pixel_values" in chunk)


@pytest.mark.slow
def test_layers_that_are_not_run_are_counted(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mllm_embed.training.plan import memory as plan_memory

    loaded = load_recipe(recipe, [f"model={BASE}", "gradient_checkpointing=true"])
    short = make_plan(loaded).stages["captions"].step.language
    monkeypatch.setattr(plan_memory, "FEW", (2, 99))  # all five are run
    assert make_plan(loaded).stages["captions"].step.language == pytest.approx(short, rel=0.01)


@pytest.mark.parametrize("name", [path.stem.replace("--", "/") for path in sorted(SHAPES.glob("*.json"))])
def test_shapes_have_the_stated_number_of_parameters(name: str) -> None:
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(find_config(name)[0])
    assert sum(p.numel() for p in model.parameters()) == STATED[name]


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1200, 300), (500, 500)], ids=str)
def test_tokens_from_a_config_are_those_of_the_processors(tiny_llava: Path, size: tuple[int, int]) -> None:
    from transformers import AutoProcessor
    from transformers.models.idefics3 import Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.llava_next import LlavaNextProcessor
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    tokenizer = AutoProcessor.from_pretrained(tiny_llava).tokenizer
    config, _ = find_config("llava-hf/llava-v1.6-mistral-7b-hf")
    images = LlavaNextImageProcessorPil(image_grid_pinpoints=config.image_grid_pinpoints)
    images.size = {"shortest_edge": 336}
    next_ = LlavaNextProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    assert _tokens_by_config(config, size) == _tokens(next_, size)
    config, _ = find_config("HuggingFaceTB/SmolVLM-256M-Instruct")
    images = Idefics3ImageProcessorPil(size={"longest_edge": 2048}, max_image_size={"longest_edge": 512})
    smol = Idefics3Processor(images, tokenizer, image_seq_len=64)
    assert abs(_tokens_by_config(config, size) - _tokens(smol, size)) <= 1  # how the tokenizer cuts "\n\n"
    config, _ = find_config(str(tiny_llava))
    assert _tokens_by_config(config, size) == 16


def _tokens_by_config(config, size: tuple[int, int]) -> int:
    return family_of(config).pictures.cost(config, *size).tokens


def _tokens(processor, size: tuple[int, int]) -> int:
    width, height = size
    return processor._get_num_multimodal_tokens(image_sizes=[[height, width]])["num_image_tokens"][0]


SAID = re.compile(r"mllm-embed-train plan (\S+) --memory (\S+)  # memory (\S+) GiB")


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [path for path in sorted(RECIPES.glob("*.yaml")) if SAID.search(path.read_text())],
    ids=lambda path: path.stem,
)
def test_shipped_recipes_plan_and_say_their_memory(path: Path) -> None:
    said = SAID.search(path.read_text())
    loaded = load_any(path)
    plan = make_plan(loaded, float(said[2]))
    check_fits(loaded, plan)
    assert said[1] == path.stem and f"memory      {said[3]} of {said[2]}.0 GiB" in describe(loaded, plan)


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
@pytest.mark.parametrize(("text", "learner", "tokens"), [("x", None, 16), ("far " * 300, None, 16), ("x", 4, 4)])
def test_texts_and_pictures_in_one_role_count_as_pictures_as_long_as_the_longest(
    text: str, learner: int | None, tokens: int, recipe: Path, data: Path
) -> None:
    """Rows bring the one or the other: a text has more words than any picture, and none of its patches."""
    row = {"image": "images/0.png", "instruction": "red", "target_image": "images/4.png"}
    rows = [row | {"negative_text": text}, row | {"image": "images/1.png", "negative_image": "images/6.png"}]
    columns = ["image", "instruction", "target_image", "negative_text", "negative_image"]
    (data / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(data / "rows.jsonl"), "format": "columns", "columns": {name: name for name in columns}}
    term = {"query": "composed", "positive": "target_image", "negatives": ["hard_negative"]}
    stage = {"data": [source], "terms": [term], "batch_size": 2, "per_image": 1}
    overrides = [f"stages.instructions.{key}={json.dumps(value)}" for key, value in stage.items()]
    loaded = load_recipe(recipe, overrides + [f"token_learner.tokens={learner}"] * bool(learner))
    inputs = {part.kind: part for part in make_plan(loaded, 24).stages["instructions"].inputs}
    assert {kind: part.count for kind, part in inputs.items()} == {"composed": 2, "image": 2 * 2}
    image = inputs["image"]
    assert (image.image_tokens, image.features, image.patches) == (tokens, 16, 16)
    # the tiny tokenizer has a token a letter of such words
    assert image.length > max(len(text), tokens)


@pytest.mark.usefixtures("uncounted")
def test_what_will_be_mined_counts_though_no_row_brings_it(recipe: Path) -> None:
    terms = "stages.instructions.terms=[{query: composed, positive: target_image, negatives: [hard_negative]}]"
    loaded = load_recipe(recipe, [terms, "stages.instructions.mine={every: 3, count: 4, candidates: 1000}"])
    plan = make_plan(loaded, 24)
    batch = loaded.stages["instructions"].batch_size
    pictures = [part for part in plan.stages["instructions"].inputs if part.kind == "image"]
    assert [(part.count, part.image_tokens > 0) for part in pictures] == [(batch * (1 + 4), True)]
    told = f"mines anew every 3 steps, without gradients: encodes the up to {19 * batch:,} queries that come, and up to"
    assert told in describe(loaded, plan)
    few = load_recipe(recipe, [terms, "stages.instructions.mine.every=3", "stages.instructions.hard_negatives=2"])
    assert [part.count for part in make_plan(few, 24).stages["instructions"].inputs if part.kind == "image"] == [
        batch * (1 + 2)
    ]


@pytest.mark.usefixtures("uncounted")
@pytest.mark.slow
def test_quantised_weights_take_what_bitsandbytes_keeps(recipe: Path) -> None:
    whole, small = (
        make_plan(load_recipe(recipe, [f"model={BASE}", "bf16=true", f"quantization={mode}"]), 24).base
        for mode in ("null", "nf4")
    )
    linear = 5 * (4 * 256 * 256 + 3 * 256 * 704)  # of the language model: bfloat16, then 4.127 bits
    assert whole - small == pytest.approx(linear * (2 - 4.127 / 8), rel=1e-3)


@pytest.mark.slow
def test_a_larger_picture_takes_more(recipe: Path) -> None:
    keys = ("batch_size=40", "chunk_tokens=100000")
    whole = [f"stages.{stage}.{key}" for stage in ("captions", "instructions") for key in keys]
    loaded = load_recipe("qwen3-vl-2b", whole)
    small, large = make_plan(loaded, 24), make_plan(loaded, 24, (1024, 768))
    assert large.total > 1.5 * small.total
    assert large.stages["captions"].inputs[0].image_tokens == 32 * 24


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
@pytest.mark.slow
def test_words_and_pictures_are_the_longest_of_all_rows(data: Path) -> None:
    row = json.loads((data / "triplets.jsonl").read_text().splitlines()[0])
    rows = [
        {**row, "id": "a", "image": ["images/0.png", "images/1.png"], "instruction": "x"},
        {**row, "id": "b", "instruction": "word " * 300},
    ]
    (data / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = ["stages.instructions.batch_size=2", "stages.instructions.per_image=1"]
    recipe = load_recipe("demo", [f"stages.instructions.data={data}", *small])
    composed = next(b for b in make_plan(recipe, 24).stages["instructions"].inputs if b.kind == "composed")
    assert composed.image_tokens == 72 and composed.length - composed.image_tokens > 300


@pytest.mark.usefixtures("uncounted")
@pytest.mark.slow
def test_pictures_of_any_size_are_not_capped_early() -> None:
    """The released Qwen2-VL takes up to 16,384 tokens of 28 x 28 pixels a picture."""
    recipe = load_recipe("qwen2-vl-2b")
    tokens = [
        make_plan(recipe, 80, size).stages["captions"].inputs[0].image_tokens for size in ((2000, 1500), (9000, 5000))
    ]
    assert 3700 < tokens[0] < 3900 and 16000 < tokens[1] <= 16384


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


@pytest.mark.usefixtures("uncounted")
def test_half_the_memory_of_training_is_adamw(tiny_llava: Path) -> None:
    planned = make_plan(load_recipe("demo", [f"model={tiny_llava}"]), 24)
    moments = {stage.moments for stage in planned.stages.values()}
    assert planned.trained == planned.counts.trainable * (4 + 4) and moments == {planned.counts.trainable * 8}


@pytest.mark.usefixtures("uncounted")
def test_a_presets_prompts_and_picture_limits_count_in_the_plan(recipe: Path, tmp_path: Path) -> None:
    """With a processor at hand the tokens are its own, and without one the limits decide: nothing is fetched."""
    place = tmp_path / "Alibaba-NLP" / "gme-Qwen2-VL-2B-Instruct"
    make_published("qwen2_vl", place)
    options = [f"model={place}", "stages.instructions.query_task=Find it."]
    composed = make_plan(load_recipe(recipe, options)).stages["instructions"].inputs[0]
    embedder = MLLMEmbedder.from_pretrained(place)
    rows = [json.loads(line) for line in _lines(recipe, "triplets")]
    asked = [Query(_folder(recipe) / row["image"], row["instruction"], task="Find it.") for row in rows]
    lengths = [embedder.item_processor([query])["input_ids"].shape[1] for query in asked]
    assert embedder.preset is not None and composed.length == max(lengths)
    bare = shutil.copytree(place, tmp_path / "bare", ignore=lambda _, names: [n for n in names if n != "config.json"])
    own = tmp_path / "own.yaml"
    own.write_text(
        'model_types: [qwen2_vl]\nprompts: {image: "", composed: "{instruction}", text: "{text}"}\n'
        "image_processor: {size: {shortest_edge: 4096, longest_edge: 4096}}\n"
    )
    tokens = [
        make_plan(load_recipe(recipe, [f"model={bare}", *more]), picture=(640, 480)).stages["captions"].inputs[0]
        for more in ([], [f"preset={own}"])
    ]
    assert [one.image_tokens for one in tokens] == [(640 // 16) * (480 // 16), 4 * 3]
    with pytest.raises(DataError, match="have no place for the task 'Find it.'"):
        make_plan(load_recipe(recipe, [f"model={bare}", "stages.instructions.query_task=Find it."]))


def _folder(recipe: Path) -> Path:
    return Path(next(iter(yaml.safe_load(recipe.read_text())["stages"].values()))["data"])


@pytest.mark.parametrize(
    "name", ["Alibaba-NLP/gme-Qwen2-VL-2B-Instruct", "Qwen/Qwen3-VL-Embedding-8B", "Qwen/Qwen3-VL-Reranker-8B"]
)
def test_a_published_model_has_the_shape_of_its_base(name: str) -> None:
    config, where = find_config(name)
    base, _ = find_config(where.partition("that of ")[2])
    assert config.to_dict() == base.to_dict()
