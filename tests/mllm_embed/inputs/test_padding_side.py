"""Batches that are padded on the right, as some models were trained, give the vectors of those padded on the left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import families
from mllm_embed import Document, MLLMEmbedder, Query

CLOSE = {"atol": 1e-5, "rtol": 0}


def _noise(width: int, height: int, seed: int) -> Image.Image:
    drawn = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(drawn).resize((width, height))


@pytest.fixture(scope="module")
def items() -> list[Query | Document]:
    a, b = _noise(64, 64, 0), _noise(96, 40, 1)
    return [
        Document(a), Query(a, "make it red"), Query(b, "a rather long instruction, for which others are padded"),
        Query(a, "blue"), Document(b, "a caption"), Document(text="a hat"), Document(text="a longer text than that"),
        Query(text="a hat", instruction="in blue"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "pooling", "bidirectional"),
    [
        ("mllama", "last", False),
        ("qwen2_vl", "last", False),
        ("llava_next", "last", False),
        ("qwen2_vl", "mean", True),
        ("llava", "mean", True),
        ("paligemma", "last", False),  # which makes masks of its own
        ("gemma3", "last", False),
    ],
)
def test_the_side_of_padding_changes_no_vector(
    tmp_path: Path, items: list, family: str, pooling: str, bidirectional: bool
) -> None:
    folder = families.make(family, tmp_path / family)
    left = MLLMEmbedder.from_pretrained(
        folder, dtype="float32", device="cpu", pooling=pooling, bidirectional=bidirectional
    )
    expected = left.encode(items)
    right = MLLMEmbedder(left.model, left.processor, replace(left.settings, padding_side="right"))
    assert right.processor.tokenizer.padding_side == "right"
    for pictured in (True, False):
        kind = [item for item in items if bool(item.images) is pictured]
        masks = [one.item_processor(kind)["attention_mask"] for one in (left, right)]
        assert not masks[0].all() and bool(masks[0][:, -1].all()) and bool(masks[1][:, 0].all())
        assert masks[0].sum(1).tolist() == masks[1].sum(1).tolist()
    work = right.plan(items)
    assert any(step.shared for step in work.steps) == right.model.shares_prefixes
    np.testing.assert_allclose(right.execute(work).vectors, expected, **CLOSE)
    np.testing.assert_allclose(right.encode(items, packed=True), expected, **CLOSE)
    for pictured in (True, False):
        kind = [number for number, item in enumerate(items) if bool(item.images) is pictured]
        batch = right.item_processor([items[number] for number in kind])
        np.testing.assert_allclose(right.model(**batch).detach().numpy(), expected[kind], **CLOSE)
    np.testing.assert_array_equal(left.encode(items), expected)  # which shares its processor
