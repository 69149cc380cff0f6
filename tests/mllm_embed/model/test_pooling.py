"""Mean pooling over what the user gave, and rows that hold several inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mllm_embed import Document, MLLMEmbedder, PromptSet, Query
from mllm_embed.errors import ConfigError
from mllm_embed.model.packing import ROW, pack


@pytest.fixture
def pooled(tiny_llava: Path) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", pooling="mean")


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (Document(text="a red hat"), "a red hat"),
        (Query(image="0.png", instruction="in one word"), "in one word"),  # words that the prompt itself holds
        (Query(image="0.png", instruction=' "quoted" '), '"quoted"'),
        (Query(image=["0.png", "1.png"], instruction="both"), "both"),
        (Document(image="0.png", text="a flag"), "a flag"),
        (Document(image="0.png"), ""),
        (Query(text="a red hat", instruction="as a cap"), "a red hatas a cap"),  # and nothing of what lies between
    ],
)
def test_content_is_pictures_and_words(pooled: MLLMEmbedder, data: Path, item: Query | Document, words: str) -> None:
    named = [str(data / "images" / name) for name in item.images]
    given = {**vars(item), "image": named or None}
    batch = pooled.item_processor([type(item)(**given), type(item)(**given)])
    ids, content = batch["input_ids"][0], batch["content_mask"][0].bool()
    image = pooled.processor.image_token_id
    assert (ids[content] == image).sum() == (ids == image).sum() == 16 * len(item.images)
    chosen = pooled.processor.tokenizer.convert_ids_to_tokens(ids[content & (ids != image)])
    text = "".join(chosen).replace("Ġ", " ")
    # where the words begin as the prompt goes on after them, it may be cut a token later, at both ends
    assert sorted(words) == sorted(text)


def test_mean_is_the_mean_of_the_chosen_states(pooled: MLLMEmbedder, data: Path) -> None:
    items = [Query(data / "images/0.png", "make it red"), Query(data / "images/1.png", "and a good deal longer")]
    batch = pooled.item_processor(items)
    content = batch["content_mask"]
    hidden = pooled.model.backbone(**{k: v for k, v in batch.items() if k != "content_mask"}).last_hidden_state
    for row, vector in enumerate(pooled.encode(items)):
        states = [hidden[row, at] for at in range(hidden.shape[1]) if content[row, at]]
        mean = torch.stack(states).mean(0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).detach().numpy(), atol=1e-6)


def test_the_prompt_alone_is_not_in_the_mean(pooled: MLLMEmbedder) -> None:
    """With attention that looks back only, words at the start do not know which prompt comes after them."""
    other = PromptSet(name="other", image="", composed="{instruction}", text="{text}\nand another ending of the prompt")
    first, second = pooled.encode(["a red hat"]), pooled.with_prompts(other).encode(["a red hat"])
    np.testing.assert_allclose(first, second, atol=0.05)
    last = MLLMEmbedder(pooled.model, pooled.processor, pooled.settings)
    assert last.encode(["a red hat"]).tolist() == first.tolist()


def test_settings_of_pooling_and_attention_travel(tiny_llava: Path, tmp_path: Path) -> None:
    made = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", pooling="mean", bidirectional=True)
    made.save_pretrained(tmp_path / "out")
    loaded = MLLMEmbedder.from_pretrained(tmp_path / "out", dtype="float32")
    np.testing.assert_array_equal(loaded.encode(["a red hat", "one"]), made.encode(["a red hat", "one"]))
    with pytest.raises(ConfigError, match="pooling 'middle' is not known; use one of last, mean, "):
        MLLMEmbedder.from_pretrained(tiny_llava, pooling="middle")
    with pytest.raises(ConfigError, match="bidirectional is True or False, not 'no'"):
        MLLMEmbedder.from_pretrained(tiny_llava, bidirectional="no")  # type: ignore[arg-type]


def test_packed_rows_hold_every_token_once_and_in_order(embedder: MLLMEmbedder) -> None:
    batch = embedder.item_processor([Document(text="hat " * count) for count in (1, 40, 10, 2, 50, 30)])
    rows, places = pack(batch, embedder.model.base)
    mask = batch["attention_mask"].bool()
    assert torch.equal(rows["input_ids"].flatten()[places], batch["input_ids"][mask])
    assert places.tolist() == sorted(set(places.tolist()))
    positions = [at for length in mask.sum(1).tolist() for at in range(length)]
    assert rows["position_ids"].flatten()[places].tolist() == positions
    assert rows["input_ids"].shape[1] <= ROW and rows["input_ids"].numel() < batch["input_ids"].numel()
