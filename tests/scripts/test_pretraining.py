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

import base_model
import scene_talk
import scenes

NOUNS = ["apple", "bed", "clown", "drum", "egg"]


@pytest.fixture(scope="module")
def model_and_tokenizer() -> tuple[torch.nn.Module, object]:
    torch.manual_seed(0)
    tokenizer = base_model.build_tokenizer(scene_talk.corpus(NOUNS))
    return base_model.build_model(tokenizer).eval(), tokenizer


def _answer_logits(model: torch.nn.Module, tokenizer: object, talk: list, pixels: torch.Tensor) -> torch.Tensor:
    """[answer tokens, vocabulary] of one row."""
    rows = scene_talk.branches(tokenizer, [talk])
    asked = rows.pop("labels")[:, 1:] != -100
    with torch.no_grad():
        return model(pixel_values=pixels, use_cache=False, **rows).logits[:, :-1][asked]


def test_a_packed_row_equals_its_questions_alone(model_and_tokenizer: tuple) -> None:
    model, tokenizer = model_and_tokenizer
    rng = random.Random(0)
    talk = scene_talk.questions(rng, scenes.sample_scene(rng, NOUNS), NOUNS, 4)
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
    processor = base_model.build_processor(tokenizer)
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


def test_a_noun_points_to_the_cell_that_shows_it(model_and_tokenizer: tuple) -> None:
    """`mentions` finds the scene's things in questions alone; the loss is small where attention is there."""
    _, tokenizer = model_and_tokenizer
    scene = scenes.Scene((scenes.Thing(1, "apple", "large"), scenes.Thing(8, "drum", "small")), "snow")
    talk = [("replace the drum with a bed", "a large apple at the top"), ("Where is the apple?", "at the top")]
    rows = scene_talk.branches(tokenizer, [talk])
    mentioned = scene_talk.mentions(tokenizer, rows, [scene])
    words = [tokenizer.decode(rows["input_ids"][0, position]) for position in mentioned[:, 1]]
    assert sorted(zip(words, mentioned[:, 2:].tolist(), strict=True)) == [(" apple", [1, 0]), (" drum", [8, 1])]
    head = pretrain_base.PointingHead(8)
    hidden = torch.randn(1, rows["input_ids"].shape[1], 8)
    attention = torch.zeros(1, rows["input_ids"].shape[1], 6, 6)
    for _, position, cell, _ in mentioned.tolist():
        row, column = divmod(cell, 3)
        attention[0, position, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 0.25
    assert head(hidden, attention.flatten(2), mentioned)[0] == 0
    assert head(hidden, attention.roll(2, dims=2).flatten(2), mentioned)[0] > 10
    assert [loss.item() for loss in head(hidden, attention.flatten(2), mentioned[:0])] == [0, 0]


def test_a_stopped_run_goes_on_with_the_next_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"seen": 64, "pictures": 2, "batch": 2, "edits": 2, "seed": 0}
    sprites = Path(pretrain_base.__file__).parent / "assets" / "sprites"
    args = argparse.Namespace(sprites=sprites, output=tmp_path / "base", **sizes)

    def stop(self: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pretrain_base.Pretraining, "answering", stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain_base.Pretraining(args).run()
    log = args.output / "pretraining.jsonl"
    before = log.read_text()
    assert [json.loads(line)["phase"] for line in before.splitlines()] == ["seeing"]
    pretrain_base.Pretraining(args).run()
    assert log.read_text().startswith(before)
    phases = [json.loads(line)["phase"] for line in log.read_text().splitlines()]
    assert phases == ["seeing", "answering"]
