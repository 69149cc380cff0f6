"""What is right for a query in any row of a stage is its negative nowhere: in no batch, and in no bank."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mllm_embed import Document, Query
from mllm_embed.training.data import TrainingRow
from mllm_embed.training.false_negatives.keys import ItemKeys, as_told
from mllm_embed.training.false_negatives.known import Relations, known_answers
from mllm_embed.training.loss.losses import BatchIndices, KnownRight, LossOptions, contrast
from mllm_embed.training.recipe.recipe_files import load_recipe
from mllm_embed.training.recipe.stage_keys.terms import Term
from mllm_embed.training.run.stages import run_recipe

from .stage_runs import figures, recipe_of

KEY = ItemKeys(as_told)
TERM = {"query": ["composed"], "positive": ["target_image"]}


def _row(name: str, query: str, target: str, **others: tuple[str, ...]) -> TrainingRow:
    roles = {"composed": Query(image=query, instruction="red"), "target_image": Document(image=target)}
    found = {role: tuple(Document(image=entry) for entry in entries) for role, entries in others.items()}
    return TrainingRow(name, query, roles, others=found)


def _right(rows: list[TrainingRow], *terms: dict[str, Any]) -> dict[int, set[int]]:
    known = known_answers(rows, Relations.of([Term(**term) for term in terms]), KEY)
    found: dict[int, set[int]] = {}
    for asks, answer in zip(known.asked.tolist(), known.answers.tolist(), strict=True):
        found.setdefault(asks, set()).add(answer)
    return found


def test_all_rows_tell_what_is_right_for_a_query() -> None:
    rows = [_row("a", "q.png", "1.png"), _row("b", "q.png", "2.png"), _row("c", "r.png", "2.png")]
    rows.append(_row("d", "s.png", "3.png", target_image=("4.png", "5.png")))
    asks = [KEY(Query(image=name, instruction="red")) for name in ("q.png", "r.png", "s.png")]
    answers = [KEY(Document(image=f"{number}.png")) for number in range(6)]
    forwards = {asks[0]: {answers[1], answers[2]}, asks[1]: {answers[2]}, asks[2]: {*answers[3:]}}
    assert _right(rows, TERM) == forwards
    backwards = {answers[1]: {asks[0]}, answers[2]: {asks[0], asks[1]}} | {answer: {asks[2]} for answer in answers[3:]}
    assert _right(rows, TERM | {"symmetric": True}) == forwards | backwards
    known = known_answers(rows, Relations.of([Term(**TERM)]), KEY)
    assert known.several == 2
    assert [set(part.tolist()) for part in known.of(np.array([asks[1], 7]))] == [{asks[1]}, {answers[2]}]


def test_two_forms_of_one_answer_say_nothing_of_other_answers() -> None:
    """A picture's own words are right for it; those of another right answer to the same query are not."""
    row = TrainingRow(
        "a", "q", {"composed": Query(image="q.png", instruction="red"), "target_image": Document(image="1.png"),
                   "target_text": Document(text="one")},
        others={"target_image": (Document(image="2.png"),), "target_text": (Document(text="two"),)},
    )  # fmt: skip
    found = _right([row], TERM, {"query": ["target_image"], "positive": ["target_text"], "symmetric": True})
    pictures, texts = ([KEY(item) for item in (row.roles[r], *row.others[r])] for r in ("target_image", "target_text"))
    assert found == {
        KEY(row.roles["composed"]): {*pictures, *texts}, pictures[0]: {texts[0]}, texts[0]: {pictures[0]},
    }  # fmt: skip


@pytest.mark.parametrize("more", [{"negatives": ["source_text"]}, {"negatives": ["query_image"]}, {"same_side": True}])
def test_what_joins_the_candidates_may_be_an_answer_in_a_form_of_no_term(more: dict[str, Any]) -> None:
    """The source caption of one row may be the target's of another, and its picture the target of a text query."""
    roles = {"composed": Query(image="q.png", instruction="red"), "target_image": Document(image="1.png"),
             "target_text": Document(text="one"), "target_captioned": Document(image="1.png", text="one")}  # fmt: skip
    found = _right([TrainingRow("a", "q", roles)], {"query": ["composed"], "positive": ["target_captioned"], **more})
    assert found == {KEY(roles["composed"]): {KEY(roles[role]) for role in roles if role != "composed"}}


def _loss(query: torch.Tensor, candidates: torch.Tensor, positive: int, out: set[int], temperature: float) -> float:
    shares = {j: math.exp(float(query @ c) / temperature) for j, c in enumerate(candidates) if j not in out}
    return -math.log(shares[positive] / sum(shares.values()))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("local", [None, [0, 2]])
def test_the_loss_leaves_out_what_is_known_by_keys(symmetric: bool, local: list[int] | None) -> None:
    """Query 0 finds candidate 1 right as well, and query 2 negative 4; backwards positive 1 finds query 0."""
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(8, 6, dtype=torch.float64), dim=-1)
    rows = None if local is None else torch.tensor(local)
    indices = BatchIndices(torch.arange(3), torch.arange(3, 6), torch.tensor([6, 7]), torch.tensor([0, 1]), rows)
    keys = torch.arange(100, 108)
    right = torch.tensor([[100, 104], [102, 107], [104, 100], [900, 103], [101, 900]]).T
    known = KnownRight(keys[:3], keys[3:6], keys[6:], right[0], right[1])
    found = contrast(vectors, indices, LossOptions(0.1), symmetric, known=known)
    out: dict[int, set[int]] = {0: {1}, 1: set(), 2: {4}}
    asked = local or [0, 1, 2]
    there = [_loss(vectors[i], vectors[3:], i, out[i], 0.1) for i in asked]
    back = [_loss(vectors[3 + i], vectors[:3], i, {0} if i == 1 else set(), 0.1) for i in asked]
    expected = (np.mean(there) + np.mean(back)) / 2 if symmetric else np.mean(there)
    assert found.loss.item() == pytest.approx(expected, abs=1e-12)
    assert found.left_out.item() == pytest.approx(np.mean([len(out[i]) for i in asked]))
    assert found.negatives.item() == pytest.approx(np.mean([4 - len(out[i]) for i in asked]))


def test_twins_in_a_batch_are_one_candidate_for_everybody_else() -> None:
    """Positives 1 and 2 are twins, and so is the negative; the one of the least number stands for all of them."""
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(7, 6, dtype=torch.float64), dim=-1)
    indices = BatchIndices(torch.arange(3), torch.arange(3, 6), torch.tensor([6]), torch.tensor([0]))
    inputs = torch.tensor([0, 1, 2, 3, 9, 5, 7])
    keys = {"query": torch.arange(3), "positive": torch.tensor([3, 50, 50]), "negatives": torch.tensor([50])}
    known = KnownRight(**keys, asked=torch.tensor([0, 1, 2]), answers=torch.tensor([3, 50, 50]))
    found = contrast(vectors, indices, LossOptions(0.1), inputs=inputs, known=known)
    candidates = vectors[3:]
    out = {0: {1, 3}, 1: {2, 3}, 2: {1, 3}}  # candidate 2, of number 5, is the one that counts for row 0
    expected = np.mean([_loss(vectors[i], candidates, i, out[i], 0.1) for i in range(3)])
    assert found.loss.item() == pytest.approx(expected, abs=1e-12) and found.negatives == 1
    # the same input, live and frozen, is no twin
    alike = contrast(vectors, indices, LossOptions(0.1), inputs=torch.tensor([0, 1, 2, 3, 5, 5, 5]), known=known)
    assert alike.negatives.item() == pytest.approx((3 + 1 + 1) / 3)


def test_keys_that_tell_nothing_new_change_no_bit() -> None:
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(6, 6), dim=-1)
    indices = BatchIndices(torch.tensor([0, 1, 0]), torch.tensor([3, 4, 5]))
    known = KnownRight(torch.tensor([0, 1, 0]), torch.tensor([3, 4, 5]), torch.zeros(0, dtype=torch.long),
                       torch.tensor([0, 0, 1]), torch.tensor([3, 5, 4]))  # fmt: skip
    plain, keyed = (contrast(vectors, indices, LossOptions(0.1), True, True, known=given) for given in (None, known))
    assert torch.equal(plain.loss, keyed.loss) and plain.left_out == keyed.left_out


def test_a_second_answer_of_another_batch_is_left_out(
    tiny_llava: Path, data: Path, triplets: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows 0 to 2 ask the same, and row 3 answers with what one of them does: no negative of the other two either."""
    answers = ["images/4.png", "images/5.png", "images/6.png", "images/5.png"]
    asks = ["images/0.png", "images/0.png", "images/0.png", "images/1.png"]
    triplets([{"image": image, "target_image": target} for image, target in zip(asks, answers, strict=True)])
    for known, negatives in (("stage", {0.0, 0.5}), ("batch", {0.0, 1.0})):
        recipe = recipe_of(tiny_llava, data, tmp_path / known, known_answers=known, epochs=3, steps=None)
        run_recipe(load_recipe(recipe))
        told = "1 queries have more than one right answer" in capsys.readouterr().out
        assert told == (known == "stage")
        # an epoch has a batch of two of the first three, and one of row 3 and the other
        assert set(figures(recipe, "negatives/")) == negatives
        assert (0.5 in figures(recipe, "left_out/")) == (known == "stage")


@pytest.mark.parametrize("known", ["stage", "batch"])
def test_a_further_answer_of_a_row_is_its_negative_in_no_batch(
    known: str, tiny_llava: Path, data: Path, tmp_path: Path
) -> None:
    """Row 0 finds what row 1 answers right as well, and lists it among its hard negatives by mistake."""
    rows = [{"image": "images/0.png", "instruction": "red", "target_image": ["images/4.png", "images/5.png"],
             "negative_image": ["images/4.png", "images/5.png", "images/7.png"]},
            {"image": "images/1.png", "instruction": "red", "target_image": "images/5.png"},
            {"image": "images/2.png", "instruction": "red", "target_image": "images/4.png"}]  # fmt: skip
    (data / "rows.jsonl").write_text("".join(json.dumps({"negative_image": None, **row}) + "\n" for row in rows))
    source = {"path": str(data / "rows.jsonl"), "format": "columns", "columns": {name: name for name in rows[0]}}
    term = {"query": "composed", "positive": "target_image", "negatives": ["hard_negative"]}
    recipe = recipe_of(tiny_llava, data, tmp_path, terms=[term], batch_size=3, steps=1, known_answers=known)
    run_recipe(load_recipe(recipe, [f"stages.one.data={json.dumps([source])}"]))
    assert figures(recipe, "negatives/") == pytest.approx([(1 + 2 + 2) / 3], abs=1e-3)
    assert figures(recipe, "left_out/") == pytest.approx([1 / 3], abs=1e-3)
