"""Each role's prompt, as the model gets it."""

from __future__ import annotations

import pytest

from mllm_embed import Document, MLLMEmbedder, PromptSet, Query
from mllm_embed.errors import ConfigError
from mllm_embed.inputs.item_processor import ItemProcessor
from mllm_embed.inputs.prompts import PROMPT_SETS


def test_default_prompts_with_chat_template(embedder: MLLMEmbedder) -> None:
    render = embedder.item_processor.render
    assert render(Document(image="x")) == "<|user|><image>\nDescribe this image in one word:<|end|><|assistant|>"
    assert render(Query(image="x", instruction=" make it {text} red ")) == (
        '<|user|><image>\nModify this image with "make it {text} red", describe modified image in one word:'
        "<|end|><|assistant|>"
    )
    assert render(Document(text="a hat")) == "<|user|>a hat\nSummary above sentence in one word:<|end|><|assistant|>"


def test_prompts_of_several_pictures_and_of_two_texts(embedder: MLLMEmbedder) -> None:
    render = embedder.item_processor.render
    assert render(Document(image=["x", "y"])).startswith("<|user|><image>\n<image>\nDescribe")
    assert render(Document(image="x", text="a {text}")).startswith("<|user|><image>\na {text}\nSummary above image and")
    query = Query(text="a {instruction} hat", instruction="{text}")
    assert render(query).startswith('<|user|>a {instruction} hat\nModify above sentence with "{text}", describe')


def test_legacy_set_keeps_the_released_spelling(embedder: MLLMEmbedder) -> None:
    legacy = ItemProcessor(embedder.processor, PROMPT_SETS["instructcir-legacy"])
    words = 'Modify this image with "is red", desribe modified image in one word:'
    query = Query(image="x", instruction="is red")
    assert legacy.render(query) == f"<|user|><image>\n{words}<|end|><|assistant|>"


def test_a_set_must_have_room_for_the_words() -> None:
    with pytest.raises(ConfigError, match=r"must hold {instruction}"):
        PromptSet(name="mine", image="", composed="no room", text="{text}")
