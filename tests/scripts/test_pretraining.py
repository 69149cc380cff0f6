"""The toy's pretraining: its rows, its heads, and runs that are stopped and go on."""

from __future__ import annotations

import json
import random
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

import pretrain_base
from mllm_embed import MLLMEmbedder, Query
from toy import base_model, running, scene_talk, scenes
from toy.pretraining import heads, phases
from toy.scene_talk import ON_CAPTION, ON_PICTURE, Question

NOUNS = ["apple", "bed", "clown", "drum", "egg"]
SUBJECTS = scene_talk.Subjects(NOUNS)
PICTURE = base_model.USER + base_model.PICTURE


@pytest.fixture(scope="module")
def model_and_tokenizer() -> tuple[torch.nn.Module, object]:
    torch.manual_seed(0)
    tokenizer = base_model.build_tokenizer(scene_talk.corpus(NOUNS))
    return base_model.build_model(tokenizer).eval(), tokenizer


def _hidden(model: torch.nn.Module, rows: scene_talk.Rows, pixels: torch.Tensor | None) -> torch.Tensor:
    with torch.no_grad():
        return model.model(pixel_values=pixels, use_cache=False, **rows.inputs).last_hidden_state


def _answer_logits(model: torch.nn.Module, tokenizer: object, talk: list, pixels: torch.Tensor) -> torch.Tensor:
    """[answer tokens, vocabulary] of one row."""
    rows = scene_talk.branches(tokenizer, [PICTURE], [[Question("fact", *pair) for pair in talk]])
    hidden = _hidden(model, rows, pixels)
    return model.lm_head(hidden[:, :-1][rows.labels[:, 1:] != -100])


@pytest.mark.parametrize("form", [ON_PICTURE, ON_CAPTION], ids=["picture", "caption"])
def test_a_packed_row_equals_its_questions_alone(model_and_tokenizer: tuple, form: scene_talk.Form) -> None:
    model, tokenizer = model_and_tokenizer
    rng = random.Random(0)
    scene = scenes.sample_scene(rng, NOUNS)
    talk = list(scene_talk.questions(rng, scene, SUBJECTS, form))
    begun = scene_talk.given(scene, form, rng)
    pixels = torch.randn(1, 3, 96, 96) if form.picture else None
    packed = scene_talk.branches(tokenizer, [begun], [talk])
    together = _hidden(model, packed, pixels)[0]
    for number, question in enumerate(talk, 1):
        row = scene_talk.branches(tokenizer, [begun], [[question]])
        alone = _hidden(model, row, pixels)[0]
        torch.testing.assert_close(
            together[packed.segments[0] == number], alone[row.segments[0] == 1], atol=1e-4, rtol=1e-4
        )


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


def test_a_row_ends_before_the_question_that_is_too_long(model_and_tokenizer: tuple) -> None:
    _, tokenizer = model_and_tokenizer
    rng = random.Random(1)
    drawn = [scenes.sample_scene(rng, NOUNS) for _ in range(8)]
    talks = [list(scene_talk.questions(rng, scene, SUBJECTS, ON_PICTURE)) for scene in drawn]
    whole = scene_talk.branches(tokenizer, [PICTURE] * 8, talks)
    cut = scene_talk.branches(tokenizer, [PICTURE] * 8, talks, 200)
    length = cut.labels.shape[1]
    assert 150 < length <= 200 < whole.labels.shape[1]
    kept = cut.segments >= 0
    assert torch.equal(cut.inputs["input_ids"][kept], whole.inputs["input_ids"][:, :length][kept])
    for row in range(8):  # whole questions: each has as many tokens as in the row that has them all
        last = int(cut.segments[row].max())
        assert last < int(whole.segments[row].max())
        assert (cut.segments[row] == last).sum() == (whole.segments[row] == last).sum()


def test_nothing_is_asked_for_in_one_word() -> None:
    """The base model is to be made an embedder by the contrastive training, and by nothing else."""
    rng = random.Random(2)
    for form in (ON_PICTURE, ON_CAPTION):
        for _ in range(50):
            scene = SUBJECTS.sample(rng)
            for question in scene_talk.questions(rng, scene, SUBJECTS, form):
                assert question.answer and "one word" not in question.asked


def test_a_picture_is_bound_to_the_noun_that_it_shows() -> None:
    """The loss is small where a cell's tokens point to their noun's embedding, and large where to another's."""
    rng = random.Random(3)
    nouns = {noun: torch.randn(256, generator=torch.Generator().manual_seed(at)) for at, noun in enumerate(NOUNS)}
    scene = scenes.sample_scene(rng, NOUNS, count=2)
    tokens = torch.zeros(1, 6, 6, 256)
    for thing in scene.things:
        row, column = divmod(thing.cell, 3)
        tokens[0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = nouns[thing.noun]
    right = heads.binding_loss(tokens.flatten(1, 2), [scene], nouns)
    swapped = dict(zip(nouns, reversed(nouns.values()), strict=True))
    assert right < 0.01 < 1 < heads.binding_loss(tokens.flatten(1, 2), [scene], swapped)


def test_a_noun_points_to_the_cell_that_shows_it(model_and_tokenizer: tuple) -> None:
    """`mentions` finds the scene's things in questions alone; the loss is small where attention is there."""
    _, tokenizer = model_and_tokenizer
    scene = scenes.Scene((scenes.Thing(1, "apple", "large"), scenes.Thing(8, "drum", "small")), "snow")
    talk = [
        Question("replace", "replace the drum with a bed", "a large apple at the top"),
        Question("fact", "Where is the apple?", "at the top"),
    ]
    rows = scene_talk.branches(tokenizer, [PICTURE], [talk])
    mentioned = scene_talk.mentions(tokenizer, rows, [scene])
    words = [tokenizer.decode(rows.inputs["input_ids"][0, position]) for position in mentioned[:, 1]]
    assert sorted(zip(words, mentioned[:, 2:].tolist(), strict=True)) == [(" apple", [1, 0]), (" drum", [8, 1])]
    head = heads.PointingHead(8)
    hidden = torch.randn(1, rows.labels.shape[1], 8)
    attention = torch.zeros(1, rows.labels.shape[1], 6, 6)
    for _, position, cell, _ in mentioned.tolist():
        row, column = divmod(cell, 3)
        attention[0, position, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 0.25
    assert head(hidden, attention.flatten(2), mentioned)[0] == 0
    assert head(hidden, attention.roll(2, dims=2).flatten(2), mentioned)[0] > 10
    assert [loss.item() for loss in head(hidden, attention.flatten(2), mentioned[:0])] == [0, 0]


def test_the_last_token_of_a_change_is_asked_which_thing_is_meant(model_and_tokenizer: tuple) -> None:
    _, tokenizer = model_and_tokenizer
    rng = random.Random(6)
    before = scenes.Scene((scenes.Thing(1, "apple", "large"), scenes.Thing(8, "drum", "small")), "snow")
    place = {"apple": 1, "drum": 8}
    asked = [question for _ in range(3) for question in scene_talk.questions(rng, before, SUBJECTS, ON_PICTURE)]
    talk = [question for question in asked if question.cell >= 0]
    assert {question.kind for question in talk} >= {"remove", "replace", "move", "resize"}
    for question in talk:
        meant = [cell for noun, cell in place.items() if noun in question.asked]
        assert question.kind == "add" or [question.cell] == meant
    rows = scene_talk.branches(tokenizer, [PICTURE], [talk])
    assert rows.aimed[:, 2].tolist() == [question.cell for question in talk]
    for _, position, _ in rows.aimed.tolist():
        read = rows.inputs["input_ids"][0, : position + 1]
        assert tokenizer.decode(read).endswith(base_model.TURN)
    head = heads.AimingHead(16)
    hidden = torch.zeros(1, rows.labels.shape[1], 16)
    head.cell.weight.data, head.cell.bias.data = torch.eye(16)[:9] * 9, torch.zeros(9)
    for _, position, cell in rows.aimed.tolist():
        hidden[0, position, cell] = 1
    assert head(hidden, rows.aimed)[0] < 0.01
    assert head(hidden, rows.aimed)[1] == 1
    assert head(hidden.roll(1, dims=2), rows.aimed)[1] == 0
    assert [float(value) for value in head(hidden, rows.aimed[:0])] == [0, 0]


def test_an_answer_is_exact_when_each_of_its_tokens_is(model_and_tokenizer: tuple) -> None:
    _, tokenizer = model_and_tokenizer
    talk = [
        Question("move", "move the bed to the top", "a bed at the top"),
        Question("fact", "What is the background?", "snow"),
        Question("move", "move the egg to the top", "an egg at the top"),
    ]
    rows = scene_talk.branches(tokenizer, [PICTURE], [talk])
    asked = rows.labels[:, 1:] != -100
    right = torch.ones(int(asked.sum()), dtype=torch.bool)
    assert phases.exact(right, rows, asked) == {"answer move": 1, "answer fact": 1}
    right[2] = False  # a token of the first answer
    assert phases.exact(right, rows, asked) == {"answer move": 0.5, "answer fact": 1}
    right[-1] = False  # the end of the last
    assert phases.exact(right, rows, asked) == {"answer move": 0, "answer fact": 1}


def test_a_tokenizer_is_made_alike_again() -> None:
    one, other = (base_model.build_tokenizer(scene_talk.corpus(NOUNS)).backend_tokenizer.to_str() for _ in range(2))
    assert one == other


@pytest.fixture(scope="module")
def tokenizer() -> object:
    """The tokenizer of all sprites, made once: to make it takes longer than the steps of these tests."""
    nouns = scenes.Painter(Path(pretrain_base.__file__).parent / "assets" / "sprites").nouns
    return base_model.build_tokenizer(scene_talk.corpus(nouns))


@pytest.fixture(autouse=True)
def ready(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the script of slow tests find it."""
    if "slow" in request.keywords:
        _take(monkeypatch, request.getfixturevalue("tokenizer"))


def _take(monkeypatch: pytest.MonkeyPatch, tokenizer: object) -> None:
    """Make short work of what takes longer than the steps of these tests: the tokenizer, and Muon's five rounds for
    each matrix, which are computed in bfloat16, slowly where the processor has none."""
    monkeypatch.setattr(torch.optim, "Muon", partial(torch.optim.Muon, ns_steps=1))
    monkeypatch.setattr(pretrain_base, "corpus", lambda nouns: nouns)
    monkeypatch.setattr(pretrain_base, "build_tokenizer", lambda texts: tokenizer)


def _pretrain(monkeypatch: pytest.MonkeyPatch, output: Path, *options: str) -> int:
    words = ["pretrain_base.py", "--seen", "128", "--scenes", "6", "--batch", "2", "--tokens", "128", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", [*words, "--output", str(output), *options])
    return pretrain_base.main()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, tokenizer: object) -> Path:
    """A run that was never stopped."""
    output = tmp_path_factory.mktemp("unbroken") / "base"
    with pytest.MonkeyPatch.context() as patch:
        _take(patch, tokenizer)
        patch.setattr(pretrain_base, "LOG_EVERY", 1)
        assert _pretrain(patch, output) == 0
    return output


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "step"), [("seeing", 2), ("answering", 1), ("answering", 3)], ids=str)
def test_a_stopped_run_ends_with_the_bytes_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: Path, phase: str, step: int
) -> None:
    """Stopped within the step after the last save: what was done since is done again."""
    monkeypatch.setattr(pretrain_base, "SAVE_EVERY", 1)
    monkeypatch.setattr(pretrain_base, "LOG_EVERY", 1)
    output, original = tmp_path / "base", running.Training._step

    def stopped(self: running.Training, loss: torch.Tensor, figures: dict) -> None:
        original(self, loss, figures)
        if (self.state.phase, self.state.step) == (phase, step):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(running.Training, "_step", stopped)
        assert _pretrain(monkeypatch, output) == 130
        torch.manual_seed(99)  # another process has other random states
    monkeypatch.setattr(pretrain_base, "build_tokenizer", None)  # the saved one is what the embeddings belong to
    assert _pretrain(monkeypatch, output) == 0
    made, expected = (
        {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.suffix != ".jsonl"}
        for folder in (output, unbroken)
    )
    assert made == expected
    assert _log(output) == _log(unbroken)


def _log(output: Path) -> list[dict]:
    """The rows of the log, but for what the clock says."""
    rows = [json.loads(line) for line in (output / pretrain_base.LOG).read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.slow
def test_what_it_makes_embeds_and_is_not_made_again(
    monkeypatch: pytest.MonkeyPatch, unbroken: Path, tmp_path: Path
) -> None:
    rows = _log(unbroken)
    assert [(row["phase"], row["step"]) for row in rows[1:]] == [
        ("seeing", 1), ("seeing", 2), ("answering", 1), ("answering", 2), ("answering", 3)
    ]  # fmt: skip
    assert set(rows[-1]) >= {"answers loss", "answer fact", "aimed", "looked loss"}
    with monkeypatch.context() as patch:
        patch.setattr(running.Training, "run", None)
        assert _pretrain(monkeypatch, unbroken) == 0
    sprite = Path(pretrain_base.__file__).parent / "assets/sprites/apple.webp"
    vectors = MLLMEmbedder.from_pretrained(str(unbroken), device="cpu").encode([Query(sprite, "on snow"), "a drum"])
    assert vectors.shape == (2, 256)


@pytest.mark.slow
def test_without_heads_words_teach_the_tower_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before: dict[str, torch.Tensor] = {}
    original = base_model.build_model

    def kept(tokenizer: object) -> torch.nn.Module:
        model = original(tokenizer)
        before.update({name: value.clone() for name, value in model.state_dict().items()})
        return model

    monkeypatch.setattr(pretrain_base, "build_model", kept)
    assert _pretrain(monkeypatch, tmp_path / "base", "--without-heads") == 0
    assert [row["phase"] for row in _log(tmp_path / "base")[1:]] == ["answering"]
    made = LlavaForConditionalGeneration.from_pretrained(tmp_path / "base", dtype="float32")
    moved = {
        name for name, value in made.state_dict().items() if not torch.equal(value, before[name].bfloat16().float())
    }
    assert any("vision_tower" in name for name in moved)
    assert any("language_model.layers.4" in name for name in moved)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "--batch must be at least 2, not 0"),
        (["--seen", "63"], "--seen must be at least 64, not 63"),
        (["--scenes", "1"], "--scenes must be at least 2, not 1"),
        (["--tokens", "100"], "--tokens must be at least 128, not 100"),
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
