"""Presets of embedders built on Qwen's models: what they render, to the letter, and their vectors against a plain
reference.

The texts are written out here from the authors' code, as each preset's `sources` name it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

import published
from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.errors import DataError
from mllm_embed.inputs.resize import with_picture_settings
from mllm_embed.presets import catalog
from mllm_embed.presets.preset import worded
from published_reference import Reference, small_copy

CLOSE = {"atol": 1e-5, "rtol": 0}
TASK, CHANGE, WORDS = "Find a fashion image.", " make it red ", "a red word, above the sentence"
SEEN = "<|vision_start|><|image_pad|><|vision_end|>"
SMALL = {"shortest_edge": 512, "longest_edge": 4096}
HIGH, WIDE = reversed(published.two_pictures())
# what each preset is asked, by a name of its own
ITEMS: dict[str, Query | Document] = {
    "gallery image": Document(WIDE),
    "gallery text": Document(text=WORDS),
    "gallery image and text": Document(WIDE, WORDS),
    "query image": Query(WIDE),
    "query text": Query(text=WORDS),
    "composed": Query(WIDE, CHANGE),
    "composed of another": Query(HIGH, CHANGE),
    "composed with a task": Query(WIDE, CHANGE, task=TASK),
    "query text with a task": Query(text=WORDS, task=TASK),
}


def _rounded(picture: Image.Image) -> Image.Image:
    height, width = smart_resize(picture.height, picture.width, factor=16, min_pixels=1024, max_pixels=2**20)
    return picture.resize((width, height))


def _squashed(picture: Image.Image) -> Image.Image:
    return picture.resize((80, 48))


def _not_tiny(picture: Image.Image) -> Image.Image:
    return picture.resize((56, 48)) if min(picture.size) < 40 else picture


ROUNDED = {"factor": 16, "min_pixels": 1024, "max_pixels": 2**20}
SQUASHED, NOT_TINY = {"to": [80, 48]}, {"under": 40, "under_to": [56, 48]}


@dataclass(frozen=True)
class Recipe:
    """A preset's facts, written out.

    Args:
        kind: of tiny model.
        texts: what is rendered of each of `ITEMS`; None where the preset has no place for the task.
        resize, resized: in the small copy of the preset, and the same done by hand.
        sequential, both_ways, mean, behind: as of `Reference.vector`.
        words_first: whether words come before pictures, so that what is asked of one picture shares no beginning.
        right: whether it pads on the right.
    """

    kind: str
    texts: dict[str, str | None]
    resize: dict[str, Any] | None = None
    resized: Callable[[Image.Image], Image.Image] | None = None
    sequential: bool = False
    both_ways: bool = False
    mean: bool = False
    right: bool = False
    words_first: bool = False
    behind: tuple[int, ...] = field(default=(), repr=False)


def _texts(frame: str, **texts: str | None) -> dict[str, str | None]:
    """Put texts into a frame, where {} is; their names are those of `ITEMS` with _ for spaces. What is not given is as
    its like: queries as the gallery, one picture's text as another's."""
    named = {
        name.replace("_", " "): None if text is None else frame.replace("{}", text) for name, text in texts.items()
    }
    named.setdefault("query image", named["gallery image"])
    named.setdefault("query text", named["gallery text"])
    named["composed of another"] = named["composed"]
    return named


def _gme(system: str = "You are a helpful assistant.") -> str:
    turns = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{{}}<|im_end|>\n<|im_start|>assistant\n"
    return turns + "<|endoftext|>"


_GME_TEXTS = _texts(
    _gme(),
    gallery_image=SEEN,
    gallery_text=WORDS,
    gallery_image_and_text=SEEN + WORDS,
    composed=SEEN + CHANGE,
) | {
    "composed with a task": _gme(TASK).replace("{}", SEEN + CHANGE),
    "query text with a task": _gme(TASK).replace("{}", WORDS),
}
_CHAT = _gme().removesuffix("<|endoftext|>")
_QWEN3 = (
    "<|im_start|>system\nRepresent the user's input.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
_ONE_WORD = "Summarize above image and sentence in one word: "
_MMEB = {
    "gallery_text": WORDS,
    "composed_with_a_task": f"<|image_pad|>\n{TASK} {CHANGE}\n",
    "query_text_with_a_task": f"{TASK} {WORDS}\n",
}
_RELATED = f"<|image_pad|>\nRepresent the given image with related text information: {WORDS}\n"
_QUESTION = "Represent the given image with the following question: " + CHANGE
_VLM2VEC_TEXTS = _texts(
    "{}",
    gallery_image="<|image_pad|> Represent the given image.",
    gallery_image_and_text=_RELATED,
    composed="<|image_pad|> " + _QUESTION,
    **_MMEB,
)
_OMNI = "<|vision_bos|><|IMAGE|><|vision_eos|>"
RECIPES = {
    "gme": Recipe("qwen2_vl", _GME_TEXTS, ROUNDED, _rounded, sequential=True, right=True),
    "ops-mm-embedding": Recipe("qwen2_vl", _GME_TEXTS, ROUNDED, _rounded),
    "rzenembed": Recipe(
        "qwen2_vl",
        _texts(
            _gme(),
            gallery_image=SEEN + "Represent the given image.",
            gallery_text=WORDS,
            gallery_image_and_text=SEEN + WORDS,
            query_image=SEEN,
            composed=SEEN + CHANGE,
            composed_with_a_task=SEEN + TASK + CHANGE,
            query_text_with_a_task=TASK + WORDS,
        ),
        ROUNDED, _rounded, sequential=True, right=True,
    ),
    "qwen3-vl-embedding": Recipe(
        "qwen3_vl",
        _texts(
            _QWEN3,
            gallery_image=SEEN,
            gallery_text=WORDS,
            gallery_image_and_text=SEEN + WORDS,
            composed=SEEN + CHANGE,
        )
        | {
            "composed with a task": _QWEN3.replace("Represent the user's input.", TASK).replace("{}", SEEN + CHANGE),
            "query text with a task": _QWEN3.replace("Represent the user's input.", TASK).replace("{}", WORDS),
        },
        ROUNDED, _rounded, right=True,
    ),
    "lamra-ret": Recipe(
        "qwen2_vl",
        _texts(
            _CHAT,
            gallery_image=SEEN + "\nSummarize above image in one word: ",
            gallery_text=WORDS + "\nSummarize above sentence in one word: ",
            gallery_image_and_text=SEEN + WORDS + "\n" + _ONE_WORD,
            composed=SEEN + CHANGE + "\n" + _ONE_WORD,
            composed_with_a_task=f"{SEEN}{TASK} {CHANGE}\n{_ONE_WORD}",
            query_text_with_a_task=f"{TASK} {WORDS}\nSummarize above sentence in one word: ",
        ),
        ROUNDED, _rounded, sequential=True,
        behind=(30, 31, 32, 33),  # the authors' text goes on with <emb> and more
    ),
    "vlm2vec-qwen2-vl": Recipe("qwen2_vl", _VLM2VEC_TEXTS, SQUASHED, _squashed, sequential=True),
    "vlm2vec-v2": Recipe("qwen2_vl", _VLM2VEC_TEXTS, NOT_TINY, _not_tiny, sequential=True),
    "b3": Recipe(
        "qwen2_vl",
        _texts(
            "{}",
            gallery_image="<|image_pad|>\nRepresent the given image.\n",
            gallery_image_and_text=_RELATED,
            query_text=WORDS + "\n",
            composed=f"<|image_pad|>\n{_QUESTION}\n",
            **_MMEB,
        ),
        NOT_TINY, _not_tiny, sequential=True,
    ),
    "unime-v2-qwen2-vl": Recipe(
        "qwen2_vl",
        _texts(
            "{}",
            gallery_image="<|image_pad|> Find an image caption describing the given image.",
            gallery_image_and_text=_RELATED,
            composed=f"<|image_pad|>\n{_QUESTION}\n",
            **_MMEB,
        ),
        SQUASHED, _squashed, sequential=True,
    ),
    "moca": Recipe(
        "qwen2_5_vl",
        _texts(
            "{}",
            gallery_image=SEEN + "Represent the given image.\n",
            gallery_image_and_text=_RELATED.replace("<|image_pad|>", SEEN),
            query_text=WORDS + "\n",
            composed=SEEN + _QUESTION + "\n",
            **_MMEB | {"composed_with_a_task": f"{SEEN}\n{TASK} {CHANGE}\n"},
        ),
        both_ways=True, mean=True, right=True,
    ),
    "lco-embedding": Recipe(
        "qwen2_5_omni",
        _texts(
            _CHAT,
            gallery_image=_OMNI + "\nSummarize the above image in one word:",
            gallery_text=WORDS + "\nSummarize the above text in one word:",
            gallery_image_and_text=WORDS + _OMNI + "\nSummarize the above in one word:",
            composed=CHANGE + _OMNI + "\nSummarize the above in one word:",
            composed_with_a_task=None,
            query_text_with_a_task=None,
        ),
        ROUNDED, _rounded, words_first=True,
    ),
    "e5-omni": Recipe(
        "qwen2_5_omni",
        _texts(
            _gme(),
            gallery_image=_OMNI,
            gallery_text=WORDS,
            gallery_image_and_text=WORDS + _OMNI,
            query_text="Query: " + WORDS,
            composed="Query: " + CHANGE + _OMNI,
            composed_with_a_task=None,
            query_text_with_a_task=None,
        ),
        ROUNDED, _rounded, words_first=True,
    ),
    "eager-embed": Recipe(
        "qwen3_vl",
        _texts(
            "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<|endoftext|>",
            gallery_image=SEEN,
            gallery_text=WORDS,
            gallery_image_and_text=WORDS + SEEN,
            query_text="Query: " + WORDS,
            composed="Query: " + CHANGE + SEEN,
            composed_with_a_task=None,
            query_text_with_a_task=None,
        ),
        SQUASHED, _squashed, words_first=True,
    ),
    "unite": Recipe(
        "qwen2_vl",
        _texts(
            _gme(),
            gallery_image=SEEN + "\nSummary above image in one word:",
            gallery_text=WORDS + "\nSummary above sentence in one word:",
            gallery_image_and_text=SEEN + WORDS + "\nSummary above sentence and image in one word:",
            composed=SEEN + CHANGE + "\nSummary above sentence and image in one word:",
            composed_with_a_task=None,
            query_text_with_a_task=None,
        ),
        ROUNDED, _rounded, sequential=True,
    ),
}  # fmt: skip
RECIPES["lamra-ret-qwen2.5-vl"] = replace(RECIPES["lamra-ret"], kind="qwen2_5_vl", sequential=False)


@pytest.fixture(scope="session")
def embedders(
    folders: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], MLLMEmbedder]:
    place = tmp_path_factory.mktemp("small")

    def load(name: str) -> MLLMEmbedder:
        recipe = RECIPES[name]
        file = small_copy(name, place, resize=recipe.resize, image_processor={"size": SMALL})
        return MLLMEmbedder.from_pretrained(folders(recipe.kind), preset=file, dtype="float32", device="cpu")

    return cache(load)


@pytest.mark.parametrize("name", RECIPES)
def test_texts_and_tokens_are_the_authors(
    name: str, folders: Callable[[str], Path], embedders: Callable[[str], MLLMEmbedder]
) -> None:
    recipe, inputs = RECIPES[name], embedders(name).item_processor
    plain = Reference(folders(recipe.kind), {"size": SMALL}, recipe.resized)
    for asked, item in ITEMS.items():
        text = recipe.texts[asked]
        if text is None:
            with pytest.raises(DataError, match="no place for the task"):
                inputs.render(item)
        else:
            assert inputs.render(item) == text, asked
            assert inputs([item])["input_ids"][0].tolist() == plain.ids(text, item.images), asked


@pytest.mark.parametrize("name", RECIPES)
def test_vectors_are_those_of_the_recipe(
    name: str, folders: Callable[[str], Path], embedders: Callable[[str], MLLMEmbedder]
) -> None:
    """Alone, in a batch where beginnings are shared, and packed."""
    recipe, embedder = RECIPES[name], embedders(name)
    plain = Reference(folders(recipe.kind), {"size": SMALL}, recipe.resized)
    how = {"sequential": recipe.sequential, "both_ways": recipe.both_ways, "mean": recipe.mean}
    asked = [(item, text) for key, item in ITEMS.items() if (text := recipe.texts[key]) is not None]
    items = [item for item, _ in asked]
    wanted = np.stack([plain.vector(text, item.images, behind=recipe.behind, **how) for item, text in asked])
    cosines = wanted @ wanted.T
    assert (cosines < 1 - 1e-4).sum() > len(items)  # or all would be alike, and nothing shown
    np.testing.assert_allclose(np.concatenate([embedder.encode([item]) for item in items]), wanted, **CLOSE)
    shown = embedder.plan([item for item in items if item.images])
    assert any(step.shared for step in shown.steps) == (not recipe.both_ways and not recipe.words_first)
    np.testing.assert_allclose(embedder.encode(items), wanted, **CLOSE)
    np.testing.assert_allclose(embedder.encode(items, packed=True), wanted, **CLOSE)


@pytest.mark.parametrize("name", RECIPES)
def test_padding_is_on_the_authors_side(name: str, embedders: Callable[[str], MLLMEmbedder]) -> None:
    queries = [Query(WIDE, "red"), Query(WIDE, "red, and longer than the other")]
    mask = embedders(name).item_processor(queries)["attention_mask"]
    first, last = mask[:, 0].all().item(), mask[:, -1].all().item()
    assert (first, last) == ((True, False) if RECIPES[name].right else (False, True))


def test_positions_matter_where_they_are_sequential(
    folders: Callable[[str], Path], embedders: Callable[[str], MLLMEmbedder]
) -> None:
    """So a newer transformers, which finds the grid of a bare placeholder too, gives other vectors without a word."""
    text = RECIPES["vlm2vec-v2"].texts["composed"]
    other = Reference(folders("qwen2_vl"), {"size": SMALL}, _not_tiny).vector(text, [WIDE])
    ours = embedders("vlm2vec-v2").encode([ITEMS["composed"]])[0]
    assert float(ours @ other.numpy()) < 1 - 1e-4


@pytest.mark.parametrize(("task", "written"), [(" Find it ", "Find it."), ("Find it:", "Find it:"), ("找。", "找。")])
def test_an_instruction_of_qwen3_ends_in_punctuation(
    embedders: Callable[[str], MLLMEmbedder], task: str, written: str
) -> None:
    text = embedders("qwen3-vl-embedding").item_processor.render(Query(text="a", task=task))
    assert text.startswith(f"<|im_start|>system\n{written}<|im_end|>\n")


def test_rzenembed_takes_an_instruction_for_a_text_of_the_gallery(embedders: Callable[[str], MLLMEmbedder]) -> None:
    text = embedders("rzenembed").item_processor.render(Document(text="a", task="Read: "))
    assert text == _gme().replace("{}", "Read: a")


# what becomes of pictures of 90 x 61, 20 x 400 and 1920 x 1080 pixels, by the authors' own functions
SIZES = {
    "gme": [(560, 392), (140, 1680), (1316, 728)],
    "rzenembed": [(560, 392), (140, 1680), (1316, 728)],
    "unite": [(560, 392), (140, 1680), (1316, 728)],
    "ops-mm-embedding": [(560, 392), (112, 2016), (1316, 728)],
    "qwen3-vl-embedding": [(96, 64), (32, 384), (1792, 992)],
    "lamra-ret": [(84, 56), (28, 392), (644, 336)],
    "lamra-ret-qwen2.5-vl": [(84, 56), (28, 392), (644, 336)],
    "vlm2vec-qwen2-vl": [(980, 980)] * 3,
    "vlm2vec-v2": [(84, 56), (56, 56), (1316, 728)],
    "b3": [(84, 56), (56, 56), (1316, 728)],
    "unime-v2-qwen2-vl": [(1344, 1344)] * 3,
    "moca": [(560, 392), (112, 2016), (1176, 672)],
    "lco-embedding": [(84, 56), (28, 392), (1316, 728)],
    "e5-omni": [(84, 56), (28, 392), (1932, 1092)],
    "eager-embed": [(768, 768)] * 3,
}
# the settings that the bases are published with
BASES = {
    "qwen2_vl": {"size": {"shortest_edge": 3136, "longest_edge": 12845056}},
    "qwen3_vl": {"size": {"shortest_edge": 65536, "longest_edge": 16777216}, "patch_size": 16},
}


@pytest.mark.parametrize("name", SIZES)
def test_pictures_become_as_large_as_with_the_authors(name: str) -> None:
    recipe = catalog.preset(name)
    base = BASES.get(recipe.model_types[0], BASES["qwen2_vl"])
    model = SimpleNamespace(image_processor=Qwen2VLImageProcessorPil(**base))
    pictures = with_picture_settings(model, recipe.image_processor).image_processor
    sizes = []
    for given in ((90, 61), (20, 400), (1920, 1080)):
        size = recipe.settings.resize.size(*given) if recipe.settings.resize else given
        height, width = smart_resize(
            size[1], size[0], factor=pictures.patch_size * pictures.merge_size,
            min_pixels=pictures.size["shortest_edge"], max_pixels=pictures.size["longest_edge"],
        )  # fmt: skip
        sizes.append((width, height))
    assert sizes == SIZES[name]


MMEB = {
    "cirr": "Given an image, find a similar everyday image with the described changes:",
    "fashioniq": "Find an image to match the fashion image and style note:",
}
SIMILAR = "I'm looking for a similar everyday image with the described changes."


@pytest.mark.parametrize("benchmark", MMEB)
@pytest.mark.parametrize(
    ("name", "mark"),
    [("vlm2vec-qwen2-vl", ""), ("vlm2vec-v2", ""), ("b3", ""), ("unime-v2-qwen2-vl", ""), ("moca", SEEN)],
)
def test_benchmarks_are_asked_as_in_mmeb(
    name: str, mark: str, benchmark: str, embedders: Callable[[str], MLLMEmbedder]
) -> None:
    embedder, preset = embedders(name), catalog.preset(name)
    inputs = embedder.with_prompts(worded(embedder.prompts, benchmark, preset.benchmarks[benchmark])).item_processor
    mark = mark or "<|image_pad|>"
    assert inputs.render(Query(WIDE, "is red")) == f"{mark}\n{MMEB[benchmark]} is red\n"
    assert inputs.render(Document(WIDE)) == f"{mark}\nRepresent the given image.\n"


@pytest.mark.parametrize(
    ("benchmark", "task"),
    [
        ("circo", SIMILAR), ("cirr", SIMILAR), ("genecis", SIMILAR),
        ("genecis/focus_attribute", "I'm looking for an image with the same attributes as described."),
    ],
)  # fmt: skip
def test_benchmarks_are_asked_as_in_lamra(benchmark: str, task: str, embedders: Callable[[str], MLLMEmbedder]) -> None:
    embedder, wording = embedders("lamra-ret"), catalog.preset("lamra-ret").benchmarks[benchmark]
    inputs = embedder.with_prompts(worded(embedder.prompts, benchmark, wording)).item_processor
    assert inputs.render(Query(WIDE, "is red")) == _CHAT.replace("{}", f"{SEEN}{task} is red\n{_ONE_WORD}")
    assert inputs.render(Document(WIDE)) == RECIPES["lamra-ret"].texts["gallery image"]
