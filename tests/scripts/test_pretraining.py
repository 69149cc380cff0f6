"""Questions that share a picture's prefix in one row are answered as if each stood alone."""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import pretrain_base
from toy import base_model, scene_talk, scenes

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


@pytest.mark.slow
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


def _pretrain(monkeypatch: pytest.MonkeyPatch, output: Path, *options: str) -> int:
    words = ["pretrain_base.py", "--seen", "128", "--pictures", "6", "--batch", "2", "--edits", "2", "--output"]
    monkeypatch.setattr(sys, "argv", [*words, str(output), *options])
    return pretrain_base.main()


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "step"), [("seeing", 2), ("answering", 1), ("answering", 3)], ids=str)
def test_a_stopped_run_goes_on_where_it_last_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, step: int
) -> None:
    monkeypatch.setattr(pretrain_base, "SAVE_EVERY", 1)
    monkeypatch.setattr(pretrain_base, "LOG_EVERY", 1)
    output, log = tmp_path / "base", tmp_path / "base" / "pretraining.jsonl"
    original = pretrain_base.optimise

    def stopped(groups: list, losses: object, steps: int, start: int) -> object:
        for row in original(groups, losses, steps, start):
            if (steps, row["step"]) == ({"seeing": 2, "answering": 3}[phase], step):
                raise KeyboardInterrupt
            yield row

    with monkeypatch.context() as patch:
        patch.setattr(pretrain_base, "optimise", stopped)
        assert _pretrain(monkeypatch, output) == 130
    done = {("seeing", 2): 1, ("answering", 1): 2, ("answering", 3): 4}[phase, step]
    before = log.read_text()
    assert len(before.splitlines()) == 1 + done
    monkeypatch.setattr(pretrain_base, "build_model", None)  # the saved weights go on, no new ones
    assert _pretrain(monkeypatch, output) == 0
    assert log.read_text().startswith(before)
    rows = [json.loads(line) for line in log.read_text().splitlines()[1:]]
    assert [(row["phase"], row["step"]) for row in rows] == [
        ("seeing", 1), ("seeing", 2), ("answering", 1), ("answering", 2), ("answering", 3)
    ]  # fmt: skip


@pytest.mark.slow
def test_a_seed_makes_the_first_weights(tmp_path: Path) -> None:
    sprites = Path(pretrain_base.__file__).parent / "assets" / "sprites"
    first, same, other = (
        pretrain_base.Pretraining(
            argparse.Namespace(
                sprites=sprites, output=tmp_path / "base", seen=64, pictures=2, batch=2, edits=2, seed=seed
            )
        ).model.get_input_embeddings().weight
        for seed in (0, 0, 1)
    )  # fmt: skip
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "--batch must be at least 1, not 0"),
        (["--seen", "63"], "--seen must be at least 64, not 63"),
        (["--pictures", "1"], "--pictures must be at least 2, not 1"),
        (["--sprites", "nowhere"], "--sprites nowhere must be a folder with at least"),
    ],
)
def test_bad_options_give_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert _pretrain(monkeypatch, tmp_path / "base", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "base").exists()


def test_a_folder_that_no_such_run_made_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "thesis.txt"
    kept.write_text("years of work")
    assert _pretrain(monkeypatch, tmp_path) == 2
    assert "holds other files, which saving would remove" in capsys.readouterr().err
    (tmp_path / "pretraining.jsonl").write_text('{"settings": {"seed": 7}}\n')
    assert _pretrain(monkeypatch, tmp_path) == 2
    assert "was made with other options or sprites" in capsys.readouterr().err
    assert kept.read_text() == "years of work"
