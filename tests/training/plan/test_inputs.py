"""The inputs of a step that is planned: how many of each kind, how long, with which pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.errors import DataError, ImageError
from mllm_embed.model.families import family_of
from mllm_embed.training.plan.model import find_config
from mllm_embed.training.plan.plan import describe, make_plan
from mllm_embed.training.recipe.recipe_files import load_recipe
from published import make_published


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

    assert text.length == embedder.item_processor([Document(text=longest)])["input_ids"].shape[1]


def _lines(recipe: Path, kind: str) -> list[str]:
    stage = next(iter(yaml.safe_load(recipe.read_text())["stages"].values()))
    return (Path(stage["data"]) / f"{kind}.jsonl").read_text().splitlines()


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
