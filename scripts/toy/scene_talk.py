"""What a base model is asked about scenes, and how several questions on one scene share a row.

A scene is given as a picture or as its caption. Token by token a row is the scene, then each question with its answer;
an attention mask keeps the questions from seeing each other, so that the scene is computed once. Nothing is asked for
in one word, as the embedder's prompts do: that is left to the contrastive training.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .base_model import IMAGE_TOKENS, PICTURE, TURN, USER
from .scenes import SIZES, Scene, Thing, article, caption, place, sample_edit, sample_scene

NUMBERS = ("one thing", "two things", "three things")
TEXT = "{text}\n"  # what a prompt on a text begins with
DESCRIBED = 0.75  # of the scenes, how many are described: who cannot tell a scene does not learn to tell a changed one
# Of each kind of change. The last two need no search for what is meant, and are soon learnt; what to remove is the last
ASKED = {"remove": 3, "replace": 3, "move": 2, "resize": 2, "add": 1, "background": 1}
MOST = 16  # questions on a scene; a row holds fewer


@dataclass(frozen=True)
class Form:
    """How a scene is given, and the wordings of what is asked about it."""

    picture: bool
    describe: tuple[str, ...]
    change: tuple[str, ...]


ON_PICTURE = Form(
    picture=True,
    describe=("Describe this image.", "What does the image show?"),
    change=(
        'Modify this image with "{instruction}", describe modified image.',
        "After this change: {instruction}. What is shown?",
    ),
)
ON_CAPTION = Form(
    picture=False,
    describe=("Describe the picture.", "What does the picture show?"),
    change=(
        'Modify above sentence with "{instruction}", describe modified sentence.',
        "After this change: {instruction}. What is shown?",
    ),
)


@dataclass(frozen=True)
class Question:
    """A question of some kind with its answer; `cell` is where a change puts or finds its thing, -1 for none."""

    kind: str
    asked: str
    answer: str
    cell: int = -1


@dataclass(frozen=True)
class Subjects:
    """What scenes may show.

    Attributes:
        nouns: of the things.
        forbidden: scenes that are not shown.
    """

    nouns: list[str]
    forbidden: frozenset[Scene] = frozenset()

    def sample(self, rng: random.Random) -> Scene:
        """Return a scene that is not forbidden."""
        while (scene := sample_scene(rng, self.nouns)) in self.forbidden:
            pass
        return scene


def questions(rng: random.Random, scene: Scene, subjects: Subjects, form: Form) -> Iterator[Question]:
    """Yield up to 16 questions on one scene: some facts, the scene itself, and then what changes would give."""
    facts = [
        Question("fact", *_fact(rng, scene, thing)) for thing in rng.sample(scene.things, min(2, len(scene.things)))
    ]
    yield from facts
    count = len(facts)
    if rng.random() < DESCRIBED:
        yield Question("scene", rng.choice(form.describe), caption(scene))
        count += 1
    while count < MOST:
        [kind] = rng.choices(list(ASKED), list(ASKED.values()))
        edit = sample_edit(rng, scene, subjects.nouns, kind)
        if edit is None or edit.result in subjects.forbidden:
            continue
        asked = rng.choice(form.change).replace("{instruction}", edit.instruction)
        yield Question(kind, asked, caption(edit.result), changed_cell(scene, edit.result))
        count += 1


def changed_cell(before: Scene, after: Scene) -> int:
    """Return the cell of the thing that a change is about, as it is before it or else as it is added; -1 for none."""
    things = set(before.things).difference(after.things) or set(after.things).difference(before.things)
    return next(iter(things)).cell if things else -1


def _fact(rng: random.Random, scene: Scene, thing: Thing) -> tuple[str, str]:
    where = (f"Where is the {thing.noun}?", place(thing.cell))
    size = (f"Is the {thing.noun} large or small?", thing.size)
    others = (
        (f"What is {place(thing.cell)}?", article(f"{thing.size} {thing.noun}")),
        ("How many things are there?", NUMBERS[len(scene.things) - 1]),
        ("What is the background?", scene.background),
    )
    return rng.choice((where, where, size, size, rng.choice(others)))


def corpus(nouns: list[str]) -> list[str]:
    """Return the texts whose words become the tokenizer's."""
    rng, texts = random.Random(0), []
    subjects = Subjects(nouns)
    for number in range(2_000):
        scene = sample_scene(rng, nouns)
        for question in questions(rng, scene, subjects, (ON_PICTURE, ON_CAPTION)[number % 2]):
            texts += [question.asked, question.answer]
        texts.append(caption(scene, rng))
    return texts


@dataclass
class Rows:
    """Rows [scene | question, answer | question, answer ...] for a model, and what shall come of them.

    Attributes:
        inputs: input_ids and position_ids [B, L], and attention_mask [B, 1, L, L] float, 0 where a token may look.
        labels: [B, L] int64, -100 outside answers.
        segments: [B, L] int64: 0 for the scene, then the questions' numbers; -1 for padding.
        answered: row, number and kind of each question.
        aimed: [K, 3] int64: row and position of the last token of each question about a change, and its cell.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    segments: Tensor
    answered: list[tuple[int, int, str]]
    aimed: Tensor


def given(scene: Scene, form: Form, rng: random.Random) -> str:
    """Return a scene as the beginning of a row: a picture's token, or a caption in one of two orders."""
    return USER + (PICTURE if form.picture else TEXT.replace("{text}", caption(scene, rng)))


def branches(tokenizer: Any, scenes: Sequence[str], talks: Sequence[Sequence[Question]], most: int = 10**6) -> Rows:
    """Return one row for each scene, given as `given` has it, with its questions.

    A row ends before the first question that would make it longer than `most` tokens.
    """
    texts = list(scenes)
    for question in (question for talk in talks for question in talk):
        texts += [question.asked + TURN, question.answer + "<|end|>"]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    image = tokenizer.convert_tokens_to_ids("<image>")
    prefixes = [next(encoded) for _ in scenes]
    rows, answered, aimed = [], [], []
    for number, (prefix, talk) in enumerate(zip(prefixes, talks, strict=True)):
        row = _Row([t for token in prefix for t in [token] * (IMAGE_TOKENS if token == image else 1)])
        full = False
        for question in talk:
            asked, answer = next(encoded), next(encoded)
            full = full or len(row.ids) + len(asked) + len(answer) > most
            if full:
                continue
            if question.cell >= 0:
                aimed.append((number, len(row.ids) + len(asked) - 1, question.cell))
            row.add(asked, answer)
            answered.append((number, row.questions, question.kind))
        rows.append(row)
    length = max(len(row.ids) for row in rows)
    ids = _padded([row.ids for row in rows], tokenizer.pad_token_id, length)
    positions = _padded([row.positions for row in rows], 0, length)
    segments = _padded([row.segments for row in rows], -1, length)
    labels = _padded([row.labels for row in rows], -100, length)
    inputs = {"input_ids": ids, "position_ids": positions, "attention_mask": _mask(segments)}
    return Rows(inputs, labels, segments, answered, torch.tensor(aimed, dtype=torch.long).reshape(-1, 3))


class _Row:
    """A row in the making: tokens, their positions, segments and labels."""

    def __init__(self, prefix: list[int]):
        self.prefix = len(prefix)
        self.ids, self.positions = list(prefix), list(range(len(prefix)))
        self.segments, self.labels = [0] * len(prefix), [-100] * len(prefix)
        self.questions = 0

    def add(self, asked: list[int], answer: list[int]) -> None:
        """Add a question, whose positions follow those of the scene."""
        self.questions += 1
        length = len(asked) + len(answer)
        self.ids += asked + answer
        self.positions += range(self.prefix, self.prefix + length)
        self.segments += [self.questions] * length
        self.labels += [-100] * len(asked) + answer


def _padded(rows: list[list[int]], pad: int, length: int) -> Tensor:
    return torch.tensor([row + [pad] * (length - len(row)) for row in rows])


def _mask(segments: Tensor) -> Tensor:
    """Return [B, 1, L, L] float: 0 where a token may look, which is back to the scene and to its own question."""
    length = segments.shape[1]
    visible = (segments[:, :, None] == segments[:, None, :]) | (segments[:, None, :] == 0)
    visible &= torch.ones(length, length, dtype=torch.bool).tril()
    # additive: eager attention adds the mask to its scores, so a boolean one would hide nothing, the answers included
    return torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)[:, None]


def mentions(tokenizer: Any, rows: Rows, scenes: list[Scene]) -> Tensor:
    """Return where a question names a thing of its scene.

    Returns [M, 4] int64: row, position of the noun's last token, the thing's cell, and its size as a place in SIZES.
    """
    found = []
    nouns = sorted({noun for scene in scenes for noun in scene.nouns})
    spelled = dict(
        zip(nouns, tokenizer([f" {noun}" for noun in nouns], add_special_tokens=False)["input_ids"], strict=True)
    )
    hidden = (rows.labels != -100) | (rows.segments == 0)  # answers, and a scene that is given in words
    asked = rows.inputs["input_ids"].masked_fill(hidden, -1).tolist()
    for row, (tokens, scene) in enumerate(zip(asked, scenes, strict=True)):
        for thing in scene.things:
            noun = spelled[thing.noun]
            ends = range(len(noun), len(tokens) + 1)
            ends = [end for end in ends if tokens[end - len(noun) : end] == noun]
            found += [(row, end - 1, thing.cell, SIZES.index(thing.size)) for end in ends]
    return torch.tensor(found, dtype=torch.long).reshape(-1, 4)
