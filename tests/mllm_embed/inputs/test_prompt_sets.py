"""Prompt sets as data: frames, places of pictures, tasks, and files of one's own, through the embedder."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import published
from mllm_embed import Document, MLLMEmbedder, PromptSet, Query
from mllm_embed.errors import ConfigError, DataError, ModelError
from mllm_embed.inputs.item_processor import ItemProcessor
from mllm_embed.inputs.prompts import Prompt
from mllm_embed.model.processor_loading import load_processor

PICTURE = Image.new("RGB", (40, 24), "teal")
PLAIN = {"image": "{image}", "composed": "{image}{instruction}", "text": "{text}", "captioned": "{image}{text}"}
SYSTEM = "<|user|>{system}<|end|><|user|>{prompt}<|end|><|assistant|>"


@pytest.fixture(scope="module")
def embedder(tiny_llava: Path) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(tiny_llava)


def rendered(embedder: MLLMEmbedder, item: Query | Document, **prompts: Any) -> str:
    """What an item is written as through a set of these prompts."""
    asked = embedder.with_prompts(PromptSet(**({"name": "own"} | PLAIN | prompts)))
    return asked.item_processor.render(item)


COMPOSED = Query(image=PICTURE, instruction=" make it red ")


@pytest.mark.parametrize(
    ("prompts", "item", "expected"),
    [
        ({"template": "none"}, COMPOSED, "<image>make it red"),
        ({"template": "none", "strip": False}, COMPOSED, "<image> make it red "),
        ({"template": "none", "composed": "{instruction} \n {image} [END]"}, COMPOSED, "make it red \n <image> [END]"),
        ({"template": "none", "picture": "[<image>]"}, Query(image=[PICTURE] * 2), "[<image>][<image>]"),
        ({"template": "none", "append": "<|end|>"}, Document(text="a hat"), "a hat<|end|>"),
        ({"template": "[ {prompt}\n \n"}, Document(text="a hat"), "[ a hat\n \n"),
        ({"template": SYSTEM, "system": "Be."}, Document(text="a"), "<|user|>Be.<|end|><|user|>a<|end|><|assistant|>"),
        ({}, COMPOSED, "<|user|><image>\nmake it red<|end|><|assistant|>"),
        ({"composed": "{instruction}: {image}"}, COMPOSED, "<|user|>make it red: <image>\n<|end|><|assistant|>"),
        ({"generation_prompt": False}, Document(text="a hat"), "<|user|>a hat<|end|>"),
        ({"system": "Be brief."}, Document(text="a"), "<|system|>Be brief.<|end|><|user|>a<|end|><|assistant|>"),
        ({"template": "none", "text": Prompt("{text}", append="\n")}, Document(text="a hat"), "a hat\n"),
        ({"template": "none", "query_text": "Q: {text}"}, Query(text="a hat"), "Q: a hat"),
        ({"template": "none", "query_text": "Q: {text}"}, Document(text="a hat"), "a hat"),
        ({"template": "none", "query_image": "{image} Find."}, Query(image=PICTURE), "<image> Find."),
        ({"template": "none", "query_image": "{image} Find."}, Document(image=PICTURE), "<image>"),
    ],
)  # fmt: skip
def test_a_frame_is_kept_to_the_letter(
    embedder: MLLMEmbedder, prompts: dict[str, Any], item: Query | Document, expected: str
) -> None:
    assert rendered(embedder, item, **prompts) == expected


TASKED = {"template": "none", "text": "{task}{text}", "task_form": "{task} ", "query_task": "Find it."}


@pytest.mark.parametrize(
    ("prompts", "item", "expected"),
    [
        (TASKED, Query(text="a hat"), "Find it. a hat"),
        (TASKED, Query(text="a hat", task="Find a shop."), "Find a shop. a hat"),
        (TASKED, Document(text="a hat"), "a hat"),
        (TASKED, Document(text="a hat", task="A title."), "A title. a hat"),
        (TASKED | {"text": Prompt("{task}{text}", task="Say:")}, Query(text="a hat"), "Say: a hat"),
        (TASKED | {"end_task_with": "."}, Query(text="a hat", task=" Find it "), "Find it. a hat"),
        (TASKED | {"end_task_with": "."}, Query(text="a hat", task="Find it?"), "Find it? a hat"),
        (TASKED | {"text": Prompt("{text}", "{task}\n{text}")}, Document(text="a hat"), "a hat"),
        (TASKED | {"text": Prompt("{text}", "{task}\n{text}")}, Query(text="a hat"), "Find it. \na hat"),
        ({"system": "{task}"}, Document(text="a hat"), "<|user|>a hat<|end|><|assistant|>"),
        (
            {"system": "{task}"},
            Document(text="a hat", task="Be brief."),
            "<|system|>Be brief.<|end|><|user|>a hat<|end|><|assistant|>",
        ),
    ],
)
def test_a_task_stands_where_the_set_has_a_place_for_it(
    embedder: MLLMEmbedder, prompts: dict[str, Any], item: Query | Document, expected: str
) -> None:
    assert rendered(embedder, item, **prompts) == expected


def test_a_task_of_a_call_goes_to_all_that_have_none(embedder: MLLMEmbedder) -> None:
    asked = embedder.with_prompts(PromptSet("own", **(PLAIN | TASKED)))
    inputs = [Query(text="a hat"), Query(text="a hat", task="Find a shop."), "a hat"]
    called = asked.encode_query(inputs, task="Find a cat.")
    written = asked.encode([Query(text="a hat", task=task) for task in ("Find a cat.", "Find a shop.", "Find a cat.")])
    assert abs(called - written).max() < 1e-6 and abs(called[0] - called[1]).max() > 1e-3
    assert abs(asked.encode_document(["a hat"]) - called[:1]).max() > 1e-3


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (Query(image=PICTURE, instruction="red", task="Find it."), "'own' have no place for the task 'Find it.'"),
        (Query(text="a hat", task="Find <image> it."), "the task 'Find <image> it.' spells a token of the model's own"),
    ],
)
def test_a_task_that_would_be_lost_or_break_the_prompt_is_refused(
    embedder: MLLMEmbedder, item: Query, reason: str
) -> None:
    asked = embedder.with_prompts(PromptSet("own", **(PLAIN | TASKED)))
    with pytest.raises(DataError, match=reason):
        asked.encode([item])
    unreadable: dict[int, str] = {}
    asked.encode([item, "a hat"], unreadable=unreadable)
    assert list(unreadable) == [0]


@pytest.mark.parametrize(
    ("prompts", "reason"),
    [
        ({"composed": "{image}"}, "the composed prompt must hold {instruction} once"),
        ({"text": "{image}{text}"}, "the text prompt may hold {image} nowhere"),
        ({"template": "none", "image": "Describe."}, "the image prompt must hold {image} where pictures stand"),
        ({"template": "[INST]"}, "has the template '\\[INST\\]'; give chat"),
        ({"template": "{task} {prompt}"}, "may hold {task} in its words"),
        ({"text": "{task}{text}", "system": "{task}"}, "may hold {task} once"),
        ({"task_form": "task"}, "task_form must hold {task} once"),
        ({"task_form": "{image} {task}"}, "task_form must hold {task} once, and no other mark"),
        ({"image": "{image} {text}"}, "the image prompt may not hold {text}"),
        ({"captioned": "{image} {text} {instruction}"}, "the captioned prompt may not hold {instruction}"),
        ({"picture": "{text}"}, "may hold {text} in its words"),
        ({"image": None}, "prompts.image is null, not a text"),
        ({"append": None}, "prompts.append is null, not a text"),
        ({"strip": "no"}, 'prompts.strip is "no", not true or false'),
        ({"text": {"word": "{text}"}}, "prompts.text.word is no key of it"),
        ({"text": Prompt(3)}, "prompts.text.words is 3, not a text"),  # type: ignore[arg-type]
        ({"template": "none", "system": "Be brief."}, "has a system message, and a template without {system}"),
        ({"text": Prompt("{text}", "find {text}")}, "must hold {task} once in words_with_task, and then nowhere else"),
        ({"text": Prompt("{task}{text}", "{task} {text}")}, "must hold {task} once in words_with_task"),
        ({"text": Prompt("{text}", "{task}")}, "the text prompt must hold {text} once"),
    ],
)
def test_a_set_whose_marks_are_amiss_is_refused(prompts: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        PromptSet(**({"name": "own"} | PLAIN | prompts))


def _chat(part: str = "{{ part.text }}", which: str = "messages") -> str:
    """A chat template, with how it writes a part that is a text."""
    return (
        "{% for m in " + which + " %}<|user|>{% for part in m.content %}{% if part.type == 'image' %}<image>"
        "{% else %}" + part + "{% endif %}{% endfor %}<|end|>{% endfor %}"
    )  # fmt: skip


FIRST = (
    "{% for m in messages %}{% for part in m.content if part.type == 'image' %}<image>{% endfor %}"
    "{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}{% endfor %}"
)
LAST = (
    "{% for m in messages %}{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    "{% for part in m.content if part.type == 'image' %}<image>{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "prompts", "reason"),
    [
        (_chat(which="messages if m.role == 'user'"), {"system": "Be brief."}, "leaves out, or changes, 'Be brief.'"),
        (None, {"system": "Be brief."}, "leaves out, or changes, 'Be brief.'"),
        (_chat("{{ part.text | trim }}"), {"composed": "{image}: {instruction} "}, "leaves out, or changes, ': {instr"),
        (
            _chat("{{ part.text if m.content | length == 1 }}"),
            {"query_image": "{image} Describe."},
            "leaves out, or changes, ' Describe.'",
        ),
        (FIRST, {"composed": "{instruction}: {image}"}, "puts pictures elsewhere than the prompts 'own' do in '{instr"),
        (
            FIRST,
            {"composed": "A {image}: {instruction}"},
            "puts pictures elsewhere than the prompts 'own' do in 'A {im",
        ),
        (LAST, {"query_image": "Describe."}, "puts pictures elsewhere"),
    ],
)
def test_a_chat_template_that_loses_or_moves_what_is_asked_is_refused(
    tiny_llava: Path, template: str | None, prompts: dict[str, Any], reason: str
) -> None:
    processor = load_processor(str(tiny_llava))
    processor.chat_template = processor.tokenizer.chat_template = template
    item = Query(PICTURE) if "query_image" in prompts else COMPOSED
    with pytest.raises(ModelError, match=re.escape(reason)):
        ItemProcessor(processor, PromptSet(**({"name": "own"} | PLAIN | prompts))).render(item)


def test_pictures_that_a_model_would_take_for_one_are_refused(tmp_path: Path) -> None:
    """Since Qwen2-VL numbers tokens by where a picture begins; sequential positions know no pictures."""
    model = MLLMEmbedder.from_pretrained(published.make_published("qwen2_vl", tmp_path / "model"))
    pictures = Query(image=[PICTURE, PICTURE.rotate(90, expand=True)], instruction="red")
    bare = PromptSet("own", **PLAIN, template="none")
    with pytest.raises(ConfigError, match="put pictures next to each other with nothing between them"):
        model.with_prompts(bare).encode([pictures, Query(image=pictures.image, instruction="blue")])
    apart = replace(bare, picture="<|vision_start|><|image_pad|><|vision_end|>")
    assert np.isfinite(model.with_prompts(apart).encode([pictures, Document(PICTURE)])).all()
    own = MLLMEmbedder.from_pretrained(tmp_path / "model", prompts=bare, positions="sequential")
    assert np.isfinite(own.encode([pictures, Document(PICTURE)])).all()


def test_a_model_is_saved_though_one_of_its_prompts_is_refused(tiny_llava: Path, tmp_path: Path) -> None:
    embedder = MLLMEmbedder.from_pretrained(tiny_llava)
    embedder.processor.chat_template = embedder.processor.tokenizer.chat_template = FIRST
    behind = embedder.with_prompts(PromptSet(**({"name": "own"} | PLAIN | {"composed": "{instruction}: {image}"})))
    behind.save_pretrained(tmp_path / "saved")
    again = MLLMEmbedder.from_pretrained(tmp_path / "saved")
    assert (again.encode(["a hat"]) == behind.encode(["a hat"])).all()
    with pytest.raises(ModelError, match="puts pictures elsewhere"):
        again.encode([COMPOSED])


def test_prompts_are_given_in_every_way_alike(embedder: MLLMEmbedder) -> None:
    """To a set, a mapping as it stands in a file; to an embedder that is loaded, the name of a set."""
    assert PromptSet("own", **(PLAIN | {"text": {"words": "{text}"}})).text == Prompt("{text}")
    legacy = embedder.with_prompts("instructcir-legacy")
    assert legacy.prompts.name == "instructcir-legacy" and "desribe" in legacy.item_processor.render(COMPOSED)


def test_a_start_token_comes_once(tmp_path: Path) -> None:
    """Whether a text writes it or the tokenizer adds it, a question in the model's own chat among them."""
    processor = load_processor(str(published.make_published("llava_next_mistral", tmp_path / "model")))
    items = ItemProcessor(processor, PromptSet("own", **PLAIN, template="none"))
    for text in ("a hat", "<s>a hat"):
        batch = items.batch([text], [[]])["input_ids"][0].tolist()
        assert batch == items.tokens([text])[0] == items.spans(text)[0] and batch.count(1) == 1
    for frame in ({"text": Prompt("{text}", template="<s>{prompt}")}, {"composed_text": "<s>{text}{instruction}"}):
        mixed = ItemProcessor(processor, PromptSet(**({"name": "own", "template": "none"} | PLAIN | frame)))
        with pytest.raises(ConfigError, match="prompts for composed_text and for text one begins with <s>"):
            mixed([Query(text="a", instruction="b")])


def test_a_file_of_ones_own_is_saved_with_the_model(tiny_llava: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        'template: none\nimage: "{image} "\ncomposed: {words: "{image}{instruction}", append: "\\n"}\n'
        'text: "{text}"\ncaptioned: "{image}{text}"\n'
    )
    own = MLLMEmbedder.from_pretrained(tiny_llava, prompts=tmp_path / "own.yaml")
    assert own.item_processor.render(Query(image=PICTURE, instruction="red")) == "<image>red\n"
    own.save_pretrained(tmp_path / "saved")
    again = MLLMEmbedder.from_pretrained(tmp_path / "saved")
    assert again.prompts == own.prompts and again.provenance["settings"]["prompts"] == own.prompts.to_dict()
    (tmp_path / "own.json").write_text(json.dumps(own.prompts.to_dict()))
    assert MLLMEmbedder.from_pretrained(tiny_llava, prompts=str(tmp_path / "own.json")).prompts == own.prompts


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("image: [1]", "no prompts.composed"),
        ('image: "{image}"\ncomposed: "{instruction}"\ntext: "{text}"\nextra: 1', "prompts.extra is no key of it"),
        ('image: "{image}"\ncomposed: "{instruction}"\ntext: {word: "{text}"}', "prompts.text.word is no key of it"),
        ('image: "{image}"\ncomposed: "{instruction}"\ntext: "{text}"\nstrip: 3', "prompts.strip is 3, not true"),
        ('image: "{image}"\ncomposed: "{instruction}"\ntext: "{text}"\nappend:', "prompts.append is null, not a text"),
        ('image: "{image}"\ncomposed: "{instruction}"\ntext: "{text}"\nstrip:', "prompts.strip is null, not true"),
        ("- image", "holds no keys with values"),
        ("image: {", "is not valid YAML: line 1"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_prompts_is_named(tiny_llava: Path, tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "own.yaml").write_text(content)
    with pytest.raises(ConfigError, match=f"own.yaml.*{reason}"):
        MLLMEmbedder.from_pretrained(tiny_llava, prompts=tmp_path / "own.yaml")
    with pytest.raises(ConfigError, match="gone.yaml cannot be read: No such file"):
        MLLMEmbedder.from_pretrained(tiny_llava, prompts=tmp_path / "gone.yaml")
    with pytest.raises(ConfigError, match="'instructcri' is not one of .*did you mean 'instructcir'"):
        MLLMEmbedder.from_pretrained(tiny_llava, prompts="instructcri")
