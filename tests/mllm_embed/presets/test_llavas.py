"""Presets of embedders built on LLaVA's models, Llama 3.2 Vision and EmbeddingGemma 2: what they render, to the letter,
and their vectors against a plain reference.

The texts are written out here from the authors' code, as each preset's `sources` name it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import published
from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.errors import DataError
from mllm_embed.inputs.resize import Resize
from mllm_embed.presets import catalog
from mllm_embed.presets.preset import worded
from published_reference import Reference, small_copy

CLOSE = {"atol": 1e-5, "rtol": 0}
SMALL = (80, 48)
# white space at both ends, which these authors keep, but for UniME-V2's
TASK, CHANGE, WORDS = "Find a fashion image.", " make it red ", "a red word, above the sentence "
WIDE, HIGH = published.two_pictures()
ITEMS: dict[str, Query | Document] = {
    "gallery image": Document(WIDE),
    "gallery text": Document(text=WORDS),
    "gallery both": Document(WIDE, WORDS),
    "query image": Query(WIDE),
    "query text": Query(text=WORDS),
    "composed": Query(WIDE, CHANGE),
    "composed of another": Query(HIGH, CHANGE),
    "query image, task": Query(WIDE, task=TASK),
    "query text, task": Query(text=WORDS, task=TASK),
    "composed, task": Query(WIDE, CHANGE, task=TASK),
}


@dataclass(frozen=True)
class Recipe:
    """A preset's facts, written out.

    Args:
        kind: of tiny model.
        texts: what is rendered of each of `ITEMS`; None where the preset has no place for the task.
        squashed: the size that pictures are given first; in the small copy of the preset another.
        mean: whether all tokens are averaged; else the last one is taken.
        right: whether it pads on the right.
    """

    kind: str
    texts: dict[str, str | None]
    squashed: tuple[int, int] | None = None
    mean: bool = False
    right: bool = False

    def reference(self, folder: Path) -> Reference:
        return Reference(folder, resize=(lambda picture: picture.resize(SMALL)) if self.squashed else None)


def _texts(frame: str, image: str, text: str, both: str, composed: str, **queries: str | None) -> dict[str, str | None]:
    """Put texts into a frame, where {} is; queries without a task are as the gallery where nothing else is given, and
    with one they are refused."""
    given: dict[str, str | None] = {
        "gallery image": image, "gallery text": text, "gallery both": both, "composed": composed,
        "query image": queries.pop("query_image", image), "query text": queries.pop("query_text", text),
        "composed of another": composed, **{f"{name.replace('_', ' ')}, task": text for name, text in queries.items()},
    }  # fmt: skip
    return {name: text and frame.replace("{}", text) for name, text in given.items()}


_QUESTION = "Represent the given image with the following question: "
_RELATED = "Represent the given image with related text information: "
_MMEB = {
    "query_image": f"<image>\n{TASK}\n",
    "query_text": f"{TASK} {WORDS}\n",
    "composed": f"<image>\n{TASK} {CHANGE}\n",
}


def _mmeb(texts: dict[str, str | None], frame: str = "{}") -> dict[str, str | None]:
    """Return texts together with those of tasks, which are asked as MMEB's data are."""
    tasked = {f"{name.replace('_', ' ')}, task": frame.replace("{}", text) for name, text in _MMEB.items()}
    return texts | tasked


_LLAMA3 = "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n \n"
_LLAVE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
    "<|im_start|>assistant\n\n<|im_end|>\n"
)
_ONEVISION = "<|im_start|>user {}<|im_end|><|im_start|>assistant\n"
_BEST = (
    "Retrieve the target image that best meets the combined criteria by using both the provided image and the image "
    "retrieval instructions: "
)
_VLM2VEC = _texts(
    "{}",
    image="<image> Represent the given image.",
    text=WORDS,
    both=f"<image>\n{_RELATED}{WORDS}\n",
    composed=f"<image> {_QUESTION}{CHANGE}",
)
_MME5 = "<|image|><|begin_of_text|>"
RECIPES = {
    "e5-v": Recipe(
        "llava_next_llama3",
        _texts(
            _LLAMA3,
            image="<image>\nSummary above image in one word: ",
            text=f"{WORDS}\nSummary above sentence in one word: ",
            both=f"<image>\n{WORDS}\nSummary above image and text in one word: ",
            composed=f'<image>Modify this image with "{CHANGE}", desribe modified image in one word:',
        ),
    ),
    "vlm2vec-llava-next": Recipe("llava_next_mistral", _mmeb(_VLM2VEC), squashed=(1344, 1344)),
    "bge-vl-mllm": Recipe(
        "llava_next_mistral",
        _texts(
            "[INST] {} [/INST]",
            image=" <image>",
            text=f" {WORDS} \n",
            both=f" {WORDS} \n <image>",
            query_image="\n <instruct>  <query> <image>",
            query_text=f"\n <instruct>  <query> {WORDS} \n",
            composed=f"\n <instruct> {_BEST} <query>  {CHANGE} \n <image>",
        )
        | {
            "query image, task": f"[INST] \n <instruct> {TASK} <query>  <image> [/INST]",
            "query text, task": f"[INST] \n <instruct> {TASK} <query>  {WORDS} \n [/INST]",
            "composed, task": f"[INST] \n <instruct> {TASK} <query>  {CHANGE} \n <image> [/INST]",
        },
        squashed=(512, 512),
    ),
    "unime-llava-1.6": Recipe(
        "llava_next_mistral",
        _mmeb(
            _texts(
                "{}",
                image="[INST] <image>\nSummary above image in one word: [/INST]",
                text=f"[INST] {WORDS}\nSummary above sentence in one word: [/INST]",
                both=f"[INST] <image>\n{WORDS}\nSummary above image and sentence in one word: [/INST]",
                composed=f"<image>\n{_QUESTION}{CHANGE}\n",
            )
        ),
    ),
    "unime-llava-onevision": Recipe(
        "llava_onevision_qwen2",
        _texts(
            _ONEVISION,
            image="<image>\nSummary above image in one word:\n",
            text=f"\n{WORDS}\nSummary above sentence in one word:\n",
            both=f"<image>\n{WORDS}\nSummary above image and sentence in one word:\n",
            composed=f"<image>\n{_QUESTION}{CHANGE}",
        )
        | {
            "query image, task": _ONEVISION.replace("{}", f"<image>\n{TASK}"),
            "query text, task": _ONEVISION.replace("{}", f"\n{TASK} {WORDS}"),
            "composed, task": _ONEVISION.replace("{}", f"<image>\n{TASK} {CHANGE}"),
        },
    ),
    "unime-v2-llava-onevision": Recipe(
        "llava_onevision_qwen2",
        _texts(
            _ONEVISION,
            image="<image>\nFind an image caption describing the given image.",
            text=f"\n{WORDS.strip()}",
            both=f"<image>\n{_RELATED}{WORDS.strip()}",
            composed=f"<image>\n{_QUESTION}{CHANGE.strip()}",
        )
        | {
            "query image, task": _ONEVISION.replace("{}", f"<image>\n{TASK}"),
            "query text, task": _ONEVISION.replace("{}", f"\n{TASK} {WORDS.strip()}"),
            "composed, task": _ONEVISION.replace("{}", f"<image>\n{TASK} {CHANGE.strip()}"),
        },
        squashed=(1344, 1344),
    ),
    "llave": Recipe(
        "llava_onevision_qwen2",
        _mmeb({name: text and _LLAVE.replace("{}", text) for name, text in _VLM2VEC.items()}, _LLAVE),
        right=True,
    ),
    "mme5": Recipe(
        "mllama",
        _texts(
            "{}",
            image=f"{_MME5}Represent the given image.\n",
            text=WORDS,
            both=f"{_MME5}{_RELATED}{WORDS}\n",
            query_text=f"{WORDS}\n",
            composed=f"{_MME5}{_QUESTION}{CHANGE}\n",
        )
        | {
            "query image, task": f"{_MME5}{TASK}\n",
            "query text, task": f"{TASK} {WORDS}\n",
            "composed, task": f"{_MME5}{TASK} {CHANGE}\n",
        },
        right=True,
    ),
    "embeddinggemma-2": Recipe(
        "embedding_gemma2",
        _texts(
            "{}",
            image="title: none | text: <|image|>",
            text=f"title: none | text: {WORDS}",
            both=f"title: none | text: <|image|>{WORDS}",
            query_image="task: search result | query: <|image|>",
            query_text=f"task: search result | query: {WORDS}",
            composed=f"task: search result | query: <|image|>{CHANGE}",
        )
        | {
            "query image, task": f"task: {TASK} | query: <|image|>",
            "query text, task": f"task: {TASK} | query: {WORDS}",
            "composed, task": f"task: {TASK} | query: <|image|>{CHANGE}",
        },
        mean=True,
    ),
    "instructcir": Recipe(
        "llava_phi3",
        _texts(
            "<s><|user|>\n{}<|end|>\n<|assistant|>\n",
            image="<image>\n Describe this image in one word:",
            text=f"{WORDS}\nSummary above sentence in one word:",
            both=f"<image>\n{WORDS}\nSummary above image and sentence in one word:",
            composed=f'<image>Modify this image with "{CHANGE}", desribe modified image in one word:',
        ),
    ),
}


@pytest.fixture(scope="session")
def embedders(
    folders: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], MLLMEmbedder]:
    place = tmp_path_factory.mktemp("small")

    def load(name: str) -> MLLMEmbedder:
        recipe = RECIPES[name]
        preset = small_copy(name, place, resize={"to": list(SMALL)}) if recipe.squashed else name
        return MLLMEmbedder.from_pretrained(folders(recipe.kind), preset=preset, dtype="float32", device="cpu")

    return cache(load)


@pytest.mark.parametrize("name", RECIPES)
def test_texts_and_tokens_are_the_authors(
    name: str, folders: Callable[[str], Path], embedders: Callable[[str], MLLMEmbedder]
) -> None:
    recipe, inputs = RECIPES[name], embedders(name).item_processor
    plain = recipe.reference(folders(recipe.kind))
    for asked, item in ITEMS.items():
        text = recipe.texts.get(asked)
        if text is None:
            with pytest.raises(DataError, match="no place for the task"):
                inputs.render(item)
            continue
        assert inputs.render(item) == text, asked
        # a start token that the text holds is not written twice
        bare = text.removeprefix("<s>")
        assert inputs([item])["input_ids"][0].tolist() == plain.ids(bare, item.images), asked


@pytest.mark.parametrize("name", RECIPES)
def test_vectors_are_those_of_the_recipe(
    name: str, folders: Callable[[str], Path], embedders: Callable[[str], MLLMEmbedder]
) -> None:
    """Alone, in a batch where beginnings are shared, and packed."""
    recipe, embedder = RECIPES[name], embedders(name)
    plain = recipe.reference(folders(recipe.kind))
    asked = [(item, text.removeprefix("<s>")) for key, item in ITEMS.items() if (text := recipe.texts.get(key))]
    items = [item for item, _ in asked]
    wanted = np.stack([plain.vector(text, item.images, mean=recipe.mean) for item, text in asked])
    assert (wanted @ wanted.T < 1 - 1e-4).sum() > len(items)  # or all would be alike, and nothing shown
    np.testing.assert_allclose(np.concatenate([embedder.encode([item]) for item in items]), wanted, **CLOSE)
    np.testing.assert_allclose(embedder.encode(items), wanted, **CLOSE)
    if embedder.family.packs:
        np.testing.assert_allclose(embedder.encode(items, packed=True), wanted, **CLOSE)
    mask = embedder.item_processor([Document(text="red"), Document(text=WORDS)])["attention_mask"]
    assert mask[0, -1 if recipe.right else 0] == 0 and mask[1].all()


@pytest.mark.parametrize("name", RECIPES)
def test_pictures_are_squashed_as_the_authors_do_it(name: str) -> None:
    squashed = RECIPES[name].squashed
    assert catalog.preset(name).settings.resize == (Resize(to=squashed) if squashed else None)


MMEB_CIRR = "Given an image, find a similar everyday image with the described changes:"
MMEB_FASHIONIQ = "Find an image to match the fashion image and style note:"
_E5V_STYLE = " in one word based on its style:"
# preset, benchmark -> its gallery's pictures and its composed queries, as rendered
BENCHMARKS = {
    ("e5-v", "cirr"): (
        _LLAMA3.replace("{}", "<image>\n Describe this image in one word:"),
        RECIPES["e5-v"].texts["composed"],
    ),
    **{
        ("e5-v", f"fashioniq/{category}"): (
            _LLAMA3.replace("{}", f"<image>\n Describe this {word}{_E5V_STYLE}"),
            _LLAMA3.replace(
                "{}", f"<image> change the style of this {word} to {CHANGE}\n Desribe this modified {word}{_E5V_STYLE}"
            ),
        )
        for category, word in (("dress", "dress"), ("shirt", "shirt"), ("toptee", "shirt"))
    },
    **{
        (name, benchmark): (
            frame.replace("{}", "Represent the given image.\n"),
            frame.replace("{}", f"{task} {CHANGE}\n"),
        )
        for name, frame in (
            ("vlm2vec-llava-next", "<image>\n{}"),
            ("unime-llava-1.6", "<image>\n{}"),
            ("llave", _LLAVE.replace("{}", "<image>\n{}")),
            ("mme5", _MME5 + "{}"),
        )
        for benchmark, task in (("cirr", MMEB_CIRR), ("fashioniq", MMEB_FASHIONIQ))
    },
    # whose white space at the end is taken off
    ("unime-v2-llava-onevision", "cirr"): (
        _ONEVISION.replace("{}", "<image>\nRepresent the given image."),
        _ONEVISION.replace("{}", f"<image>\n{MMEB_CIRR} {CHANGE.strip()}"),
    ),
}


@pytest.mark.parametrize(("name", "benchmark"), BENCHMARKS, ids="/".join)
def test_benchmarks_are_asked_as_the_authors_ask_them(
    name: str, benchmark: str, embedders: Callable[[str], MLLMEmbedder]
) -> None:
    preset = catalog.preset(name)
    prompts = worded(preset.settings.prompts, benchmark, preset.benchmarks[benchmark])
    inputs = embedders(name).with_prompts(prompts).item_processor
    gallery, query = BENCHMARKS[name, benchmark]
    assert inputs.render(Document(WIDE)) == gallery
    assert inputs.render(Query(WIDE, CHANGE)) == query


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("royokong/e5-v", "e5-v"),
        ("TIGER-Lab/VLM2Vec-LLaVa-Next", "vlm2vec-llava-next"),
        ("BAAI/BGE-VL-MLLM-S1", "bge-vl-mllm"),
        ("BAAI/BGE-VL-MLLM-S2", "bge-vl-mllm"),
        ("BAAI/BGE-VL-v1.5-zs", "bge-vl-mllm"),
        ("BAAI/BGE-VL-v1.5-mmeb", "bge-vl-mllm"),
        ("DeepGlint-AI/UniME-LLaVA-1.6-7B", "unime-llava-1.6"),
        ("DeepGlint-AI/UniME-LLaVA-OneVision-7B", "unime-llava-onevision"),
        ("TianchengGu/UniME-V2-LLaVA-OneVision-8B", "unime-v2-llava-onevision"),
        ("intfloat/mmE5-mllama-11b-instruct", "mme5"),
        ("google/embeddinggemma-2", "embeddinggemma-2"),
        ("zhibinlan/LLaVE-7B", "llave"),
        ("uta-smile/instructcir_llava_phi35_clip224_lp", "instructcir"),
    ],
)
def test_a_model_is_found_by_its_hub_id(model: str, name: str) -> None:
    found: Any = catalog.preset_of(model)
    assert found.name == name and all(one.licence for one in found.models)


def test_start_tokens_stand_where_the_authors_have_them(embedders: Callable[[str], MLLMEmbedder]) -> None:
    """The tokenizer writes one, mmE5's words write another behind the picture, and its processor one before texts."""
    for name, count in (("mme5", 2), ("e5-v", 1), ("bge-vl-mllm", 1), ("instructcir", 1)):
        inputs = embedders(name).item_processor
        start = inputs.processor.tokenizer.bos_token_id
        for item in (Document(WIDE), Document(text=WORDS), Query(WIDE, CHANGE)):
            assert (inputs([item])["input_ids"] == start).sum() == count, (name, item.role)


def test_a_pad_token_that_ends_turns_too_is_told_apart_by_the_mask(folders: Callable[[str], Path]) -> None:
    """E5-V's pads are what ends a turn, and stand in the middle of each of its prompts."""
    folder = folders("llava_next_llama3")
    embedder = MLLMEmbedder.from_pretrained(folder, preset="e5-v", dtype="float32", device="cpu")
    items = [Document(text="red"), Document(text=WORDS), Document(WIDE), Query(HIGH, CHANGE)]
    wanted = embedder.encode(items)
    embedder.processor.tokenizer.pad_token = "<|eot_id|>"
    padded = embedder.item_processor(items[:2])["input_ids"][0]
    assert padded[0] == embedder.processor.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    np.testing.assert_allclose(embedder.encode(items), wanted, **CLOSE)


@pytest.mark.parametrize("name", ["e5-v", "instructcir"])
def test_files_of_a_time_when_models_counted_a_pictures_tokens_load(
    name: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    """As E5-V's and InstructCIR's are: their processors say nothing of patches."""
    folder = shutil.copytree(folders(RECIPES[name].kind), tmp_path / "old")
    (folder / "processor_config.json").unlink()
    pixels = folder / "preprocessor_config.json"
    kind = "LlavaProcessor" if name == "instructcir" else "LlavaNextProcessor"
    pixels.write_text(json.dumps(json.loads(pixels.read_text()) | {"processor_class": kind}))
    items = [ITEMS["gallery image"], ITEMS["composed of another"], ITEMS["gallery text"]]
    new, old = (
        MLLMEmbedder.from_pretrained(place, preset=name, dtype="float32", device="cpu").encode(items)
        for place in (folders(RECIPES[name].kind), folder)
    )
    np.testing.assert_array_equal(new, old)


def test_llave_takes_the_line_break_behind_a_closed_turn(embedders: Callable[[str], MLLMEmbedder]) -> None:
    inputs = embedders("llave").item_processor
    ids = inputs([Query(WIDE, CHANGE)])["input_ids"][0].tolist()
    assert inputs.processor.tokenizer.convert_ids_to_tokens(ids[-2:]) == ["<|im_end|>", "Ċ"]


def test_a_saved_model_keeps_its_form(embedders: Callable[[str], MLLMEmbedder], tmp_path: Path) -> None:
    """Prompts with and without a task, the squashing of pictures, the side of padding."""
    for name in ("bge-vl-mllm", "mme5"):
        embedder = embedders(name)
        embedder.save_pretrained(tmp_path / name)
        again = MLLMEmbedder.from_pretrained(tmp_path / name, dtype="float32", device="cpu")
        items = [ITEMS["query image, task"], ITEMS["composed"]]
        assert again.settings.prompts == embedder.settings.prompts
        np.testing.assert_array_equal(again.encode(items), embedder.encode(items))
