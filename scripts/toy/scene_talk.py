"""What a base model is asked about scenes, and how several questions on one scene share a row.

Token by token a row is the scene, then each question with its answer; an attention mask keeps the questions from seeing
each other, so that the scene is computed once.
"""

from __future__ import annotations

import random

import torch

from .base_model import IMAGE_TOKENS, PICTURE, TURN, USER
from .scenes import SIZES, Scene, Thing, article, caption, place, sample_edit, sample_scene

NUMBERS = ("one thing", "two things", "three things")


def questions(
    rng: random.Random, scene: Scene, nouns: list[str], edits: int, forbidden: set[Scene] = frozenset()
) -> list[tuple[str, str]]:
    """Return (question, answer) pairs on one picture: some facts, and what `edits` changes would give, never a test's.

    Adding a thing or changing the background takes no search for what is meant, so those are asked half as often.
    """
    pairs = [_fact(rng, scene, thing) for thing in rng.sample(scene.things, min(2, len(scene.things)))]
    if rng.random() < 0.3:
        pairs.append((rng.choice(("Describe this image.", "What does the image show?")), caption(scene)))
    count = len(pairs) + edits
    while len(pairs) < count:
        edit = sample_edit(rng, scene, nouns)
        if edit.result in forbidden or (edit.kind in ("add", "background") and rng.random() < 0.5):
            continue
        ask = rng.choice(
            ('Modify this image with "{}", describe modified image.', "After this change: {}. What is shown?")
        )
        pairs.append((ask.replace("{}", edit.instruction), caption(edit.result)))
    return pairs


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
    for _ in range(20_000):
        scene = sample_scene(rng, nouns)
        texts += [text for pair in questions(rng, scene, nouns, 3) for text in pair] + [caption(scene, rng)]
    return (
        texts + ["Describe this image in one word: Summary above sentence in one word: describe modified image"] * 2000
    )


def branches(tokenizer, talks: list[list[tuple[str, str]]]) -> dict[str, torch.Tensor]:
    """Return rows [scene | question, answer | question, answer ...] with a mask that parts the questions.

    Returns input_ids, position_ids, labels [B, L] (labels -100 outside answers) and attention_mask [B, 1, L, L] float,
    0 where a token may look.
    """
    texts = [USER + PICTURE] * len(talks)
    texts += [text for talk in talks for asked, answer in talk for text in (asked + TURN, answer + "<|end|>")]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    image = tokenizer.convert_tokens_to_ids("<image>")
    prefixes = [
        [t for token in next(encoded) for t in [token] * (IMAGE_TOKENS if token == image else 1)] for _ in talks
    ]
    rows = []
    for prefix, talk in zip(prefixes, talks, strict=True):
        ids, positions, owners, labels = list(prefix), list(range(len(prefix))), [0] * len(prefix), [-100] * len(prefix)
        for number in range(1, len(talk) + 1):
            asked, answered = next(encoded), next(encoded)
            ids += asked + answered
            positions += range(len(prefix), len(prefix) + len(asked) + len(answered))
            owners += [number] * (len(asked) + len(answered))
            labels += [-100] * len(asked) + answered
        rows.append((ids, positions, owners, labels))
    length = max(len(ids) for ids, *_ in rows)
    pads = (tokenizer.pad_token_id, 0, -1, -100)
    ids, positions, owners, labels = (
        torch.tensor([row[i] + [pads[i]] * (length - len(row[i])) for row in rows]) for i in range(4)
    )
    visible = (owners[:, :, None] == owners[:, None, :]) | (owners[:, None, :] == 0)
    visible &= torch.ones(length, length, dtype=torch.bool).tril()
    # additive: eager attention adds the mask to its scores, so a boolean one would hide nothing, the answers included
    mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    return {"input_ids": ids, "position_ids": positions, "attention_mask": mask[:, None], "labels": labels}


def mentions(tokenizer, rows: dict[str, torch.Tensor], scenes: list[Scene]) -> torch.Tensor:
    """Return where a question names a thing of its scene.

    Returns [M, 4] int64: row, position of the noun's last token, the thing's cell, and its size as a place in SIZES.
    """
    found = []
    nouns = sorted({noun for scene in scenes for noun in scene.nouns})
    spelled = dict(
        zip(nouns, tokenizer([f" {noun}" for noun in nouns], add_special_tokens=False)["input_ids"], strict=True)
    )
    asked = rows["input_ids"].masked_fill(rows["labels"] != -100, -1).tolist()
    for row, (tokens, scene) in enumerate(zip(asked, scenes, strict=True)):
        for thing in scene.things:
            noun = spelled[thing.noun]
            ends = range(len(noun), len(tokens) + 1)
            ends = [end for end in ends if tokens[end - len(noun) : end] == noun]
            found += [(row, end - 1, thing.cell, SIZES.index(thing.size)) for end in ends]
    return torch.tensor(found).reshape(-1, 4)
