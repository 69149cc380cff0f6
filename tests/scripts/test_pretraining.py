"""Questions that share a picture's prefix in one row are answered as if each stood alone."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import pretrain_base
import pytest
import torch
from torch.nn import functional as F

import scenes

NOUNS = ["apple", "bed", "clown", "drum", "egg"]


@pytest.fixture(scope="module")
def model_and_tokenizer() -> tuple[torch.nn.Module, object]:
    torch.manual_seed(0)
    tokenizer = pretrain_base.build_tokenizer(NOUNS)
    return pretrain_base.build_model(tokenizer).eval(), tokenizer


def _answer_logits(model: torch.nn.Module, tokenizer: object, talk: list, pixels: torch.Tensor) -> torch.Tensor:
    """[answer tokens, vocabulary] of one row."""
    rows = pretrain_base.branches(tokenizer, [talk])
    asked = rows.pop("labels")[:, 1:] != -100
    with torch.no_grad():
        return model(pixel_values=pixels, use_cache=False, **rows).logits[:, :-1][asked]


def test_a_packed_row_equals_its_questions_alone(model_and_tokenizer: tuple) -> None:
    model, tokenizer = model_and_tokenizer
    rng = random.Random(0)
    talk = pretrain_base.questions(rng, scenes.sample_scene(rng, NOUNS), NOUNS, 4)
    pixels = torch.randn(1, 3, 96, 96)
    packed = _answer_logits(model, tokenizer, talk, pixels)
    alone = torch.cat([_answer_logits(model, tokenizer, [pair], pixels) for pair in talk])
    torch.testing.assert_close(packed, alone, atol=1e-4, rtol=1e-4)


def test_an_answer_does_not_see_itself(model_and_tokenizer: tuple) -> None:
    """What stands later in a row, the answer's own next words included, changes nothing before it."""
    model, tokenizer = model_and_tokenizer
    pixels = torch.randn(1, 3, 96, 96)
    one, other = (
        _answer_logits(model, tokenizer, [("What is at the top?", f"a large {noun}")], pixels)
        for noun in ("bed", "egg")
    )
    assert torch.allclose(one[:3], other[:3], atol=1e-5)
    assert not torch.allclose(one[3], other[3], atol=1e-3)


def test_a_stock_model_reads_the_same_prompt(model_and_tokenizer: tuple) -> None:
    """A question through the processor's chat template gives the logits that the pretraining trained."""
    model, tokenizer = model_and_tokenizer
    processor = pretrain_base.build_processor(tokenizer)
    content = [{"type": "image"}, {"type": "text", "text": "Describe this image."}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    pixels = torch.randn(1, 3, 96, 96)
    ids = tokenizer(prompt.replace("<image>", "<image>" * 36), add_special_tokens=False, return_tensors="pt")[
        "input_ids"
    ]
    with torch.no_grad():
        stock = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits[0, -1]
    trained = _answer_logits(model, tokenizer, [("Describe this image.", "a bed")], pixels)[0]
    assert F.cosine_similarity(stock, trained, dim=0) > 1 - 1e-5


def test_a_picture_is_bound_to_the_noun_that_it_shows() -> None:
    """The loss is small where a cell's tokens point to their noun's embedding, and large where to another's."""
    rng = random.Random(3)
    nouns = {noun: torch.randn(256, generator=torch.Generator().manual_seed(at)) for at, noun in enumerate(NOUNS)}
    scene = scenes.sample_scene(rng, NOUNS, count=2)
    tokens = torch.zeros(1, 6, 6, 256)
    for thing in scene.things:
        row, column = divmod(thing.cell, 3)
        tokens[0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = nouns[thing.noun]
    right = pretrain_base.binding_loss(tokens.flatten(1, 2), [scene], nouns)
    swapped = dict(zip(nouns, reversed(nouns.values()), strict=True))
    assert right < 0.01 < 1 < pretrain_base.binding_loss(tokens.flatten(1, 2), [scene], swapped)


def test_a_stopped_run_goes_on_with_the_next_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"vision_pictures": 64, "captions": 2, "pictures": 2, "bound": 2, "batch": 2, "questions": 2, "seed": 0}
    sprites = Path(pretrain_base.__file__).parent / "assets" / "sprites"
    args = argparse.Namespace(sprites=sprites, output=tmp_path / "base", **sizes)

    def stop(self: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pretrain_base.Pretraining, "telling", stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain_base.Pretraining(args).run()
    log = args.output / "pretraining.jsonl"
    before = log.read_text()
    assert [json.loads(line)["phase"] for line in before.splitlines()] == ["seeing", "reading"]
    pretrain_base.Pretraining(args).run()
    assert log.read_text().startswith(before)
    assert [json.loads(line)["phase"] for line in log.read_text().splitlines()][2:] == ["telling", "binding"]
