"""What is right for a query in any row of a stage is its negative nowhere: in no batch, in no bank, under no name."""

from __future__ import annotations

import io
import json
import math
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from mllm_embed import Document, Query
from mllm_embed.errors import ModelError
from mllm_embed.training.data import DataSource, TrainingRow
from mllm_embed.training.data.numbers import Turn, number_of
from mllm_embed.training.data.open import open_rows
from mllm_embed.training.false_negatives.keys import ItemKeys, as_told
from mllm_embed.training.false_negatives.known import Relations, known_answers
from mllm_embed.training.false_negatives.near_twins import near_twins, same_picture
from mllm_embed.training.false_negatives.twins import NO_TWINS, content_twins
from mllm_embed.training.loss.losses import BatchIndices, KnownRight, LossOptions, contrast
from mllm_embed.training.recipe.recipe_files import load_recipe
from mllm_embed.training.recipe.sides import Sides
from mllm_embed.training.recipe.stage_keys.terms import Term
from mllm_embed.training.run import trainer as trainer_module
from mllm_embed.training.run.stages import run_recipe
from toy.scenes import KINDS, Painter, sample_edit, sample_scene

KEY = ItemKeys(as_told)
SPRITES = Path(__file__).parents[3] / "scripts" / "assets" / "sprites"


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


TERM = {"query": ["composed"], "positive": ["target_image"]}


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


def test_twins_are_found_by_content(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one, other = rng.bytes(20_000), rng.bytes(20_000)
    middle = one[:10_000] + b"x" + one[10_001:]  # of the same size, and alike at both ends
    contents = {"a": one, "b": one, "c": other, "d": middle, "e": one[:9], "f": other, "g": one[:9], "h": b"alone"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    names = [str(tmp_path / name) for name in (*contents, "missing")]
    twins = content_twins([*names, names[0]])
    called = {name: twins.name_of(name) for name in names}
    groups = {frozenset(Path(n).name for n in names if called[n] == called[name]) for name in names}
    assert groups == {frozenset(group) for group in ("ab", "cf", "d", "eg", "h", ["missing"])}
    assert called[names[3]] == names[3]
    keys = ItemKeys(as_told, twins)
    assert keys(Document(image=names[0])) == keys(Document(image=Path(names[1]))) != keys(Document(image=names[3]))
    assert keys(Query(image=names[2], instruction="x")) == keys(Query(image=names[5], instruction="x"))


@pytest.fixture
def triplets(data: Path) -> Callable[[list[dict[str, Any]]], None]:
    """Writes the triplets of the data folder: the keys that matter of each."""

    def write(rows: list[dict[str, Any]]) -> None:
        whole = ({"id": f"t{number}", "instruction": "make it red", **row} for number, row in enumerate(rows))
        (data / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in whole))

    return write


def _recipe(model: Path, data: Path, folder: Path, **stage: Any) -> Path:
    term = {"query": "composed", "positive": "target_image"}
    values = {
        "model": str(model), "output": str(folder / "run"), "bf16": False, "lora": {"rank": 4, "dropout": 0.0},
        "stages": {"one": {"data": str(data), "rows": "triplets", "batch_size": 2, "steps": 3, "save_steps": 1,
                           "chunk_tokens": 4096, "warmup": 0.0, "terms": [term], **stage}},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder / "recipe.yaml"


def _figures(recipe: Path, name: str) -> list[float]:
    log = recipe.parent / "run" / "log.jsonl"
    rows = map(json.loads, log.read_text().splitlines())
    return [row[key] for row in rows for key in row if key.startswith(name)]


def test_a_second_answer_of_another_batch_is_left_out(
    tiny_llava: Path, data: Path, triplets: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows 0 to 2 ask the same, and row 3 answers with what one of them does: no negative of the other two either."""
    answers = ["images/4.png", "images/5.png", "images/6.png", "images/5.png"]
    asks = ["images/0.png", "images/0.png", "images/0.png", "images/1.png"]
    triplets([{"image": image, "target_image": target} for image, target in zip(asks, answers, strict=True)])
    for known, negatives in (("stage", {0.0, 0.5}), ("batch", {0.0, 1.0})):
        recipe = _recipe(tiny_llava, data, tmp_path / known, known_answers=known, epochs=3, steps=None)
        run_recipe(load_recipe(recipe))
        told = "1 queries have more than one right answer" in capsys.readouterr().out
        assert told == (known == "stage")
        # an epoch has a batch of two of the first three, and one of row 3 and the other
        assert set(_figures(recipe, "negatives/")) == negatives
        assert (0.5 in _figures(recipe, "left_out/")) == (known == "stage")


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
    recipe = _recipe(tiny_llava, data, tmp_path, terms=[term], batch_size=3, steps=1, known_answers=known)
    run_recipe(load_recipe(recipe, [f"stages.one.data={json.dumps([source])}"]))
    assert _figures(recipe, "negatives/") == pytest.approx([(1 + 2 + 2) / 3], abs=1e-3)
    assert _figures(recipe, "left_out/") == pytest.approx([1 / 3], abs=1e-3)


def test_a_picture_under_two_names_is_one_candidate_of_a_bank(
    tiny_llava: Path, data: Path, triplets: Callable, tmp_path: Path
) -> None:
    shutil.copy(data / "images/5.png", data / "images/again.png")
    rows = [("images/0.png", "images/5.png"), ("images/0.png", "images/again.png"), ("images/1.png", "images/6.png"),
            ("images/2.png", "images/7.png")]  # fmt: skip
    triplets([{"image": image, "target_image": target} for image, target in rows])
    term = {"query": "composed", "positive": "target_image", "bank": True}
    bank = _recipe(tiny_llava, data, tmp_path / "bank", terms=[term], batch_size=4, steps=1)
    batch = _recipe(tiny_llava, data, tmp_path / "batch", batch_size=4, steps=1)
    for recipe in (bank, batch):
        run_recipe(load_recipe(recipe))
    inputs = load_file(tmp_path / "bank/run/checkpoints/one/bank-0.safetensors")["inputs"]
    assert len(inputs) == 3
    for name in ("accuracy/", "negatives/", "loss/"):
        assert _figures(bank, name) == pytest.approx(_figures(batch, name), abs=1e-4)
    (tmp_path / "bank/run/checkpoints/one/right_answers.safetensors").write_bytes(b"spoilt")
    shutil.rmtree(tmp_path / "bank/run/one")
    with pytest.raises(ModelError, match=r"right_answers.safetensors is damaged; remove .*/checkpoints/one to train"):
        run_recipe(load_recipe(bank))


def test_a_picture_saved_again_as_jpeg_is_one_answer_and_an_edit_is_none(tmp_path: Path) -> None:
    """Scenes that nobody has seen, and every kind of edit of each."""
    painter, rng = Painter(SPRITES), random.Random(99)
    names, expected = [], []
    for number in range(6):
        scene = sample_scene(rng, painter.nouns, 3)
        for quality in (100, 92, 75, 50):
            names.append(str(tmp_path / f"{number}-{quality}.jpg"))
            painter.paint(scene).save(names[-1], quality=quality, subsampling=0 if quality > 90 else 2)
        expected.append(set(names[-4:]))
        for kind in KINDS:
            edit = sample_edit(rng, scene, painter.nouns, kind)
            if edit:
                names.append(str(tmp_path / f"{number}-{kind}.png"))
                painter.paint(edit.result).save(names[-1])
    numbers = np.array([number_of(name) for name in names])
    order = np.argsort(numbers)
    twins = NO_TWINS.joined(*near_twins(numbers[order], [names[at] for at in order]))
    groups: dict[Any, set[str]] = {}
    for name in names:
        groups.setdefault(twins.name_of(name), set()).add(name)
    assert [group for group in groups.values() if len(group) > 1] == expected
    assert len(groups) > 6 * 5
    grey = Image.new("RGB", (64, 64), (120, 120, 120))
    grey.save(tmp_path / "grey.png")
    tinted = Image.new("RGB", (64, 64), (120, 120, 120))
    tinted.paste((158, 104, 104), (8, 8, 24, 24))  # as light as the rest
    tinted.save(tmp_path / "tinted.png")
    grey.resize((32, 32)).save(tmp_path / "small.png")
    assert not same_picture(tmp_path / "grey.png", tmp_path / "tinted.png")
    assert not same_picture(tmp_path / "grey.png", tmp_path / "small.png")
    assert not same_picture(tmp_path / "grey.png", tmp_path / "missing.png")


@pytest.mark.parametrize("near", [True, False])
def test_near_twins_count_as_one_answer_in_batch_and_bank(
    near: bool, tiny_llava: Path, data: Path, triplets: Callable, tmp_path: Path
) -> None:
    """Two rows ask the same and answer with one picture, once as JPEG: in the bank one candidate, in a batch right."""
    Image.open(data / "images/5.png").save(data / "images/again.jpg", quality=90)
    rows = [("images/0.png", "images/5.png"), ("images/1.png", "images/again.jpg"), ("images/2.png", "images/7.png")]
    triplets([{"image": image, "target_image": target} for image, target in rows])
    term = {"query": "composed", "positive": "target_image", "bank": True}
    for name, keys in (("batch", {}), ("bank", {"terms": [term]})):
        recipe = _recipe(tiny_llava, data, tmp_path / name, batch_size=3, steps=1, near_twins=near, **keys)
        run_recipe(load_recipe(recipe))
        assert _figures(recipe, "negatives/") == [1 if near else 2]
        assert _figures(recipe, "left_out/") == pytest.approx([2 / 3 if near and name == "batch" else 0], abs=1e-3)


@pytest.mark.parametrize("workers", [0, 1])
def test_another_paraphrase_is_read_in_each_epoch_and_the_same_after_a_stop(
    workers: int, tiny_llava: Path, data: Path, triplets: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    triplets(
        [{"image": f"images/{n}.png", "target_image": f"images/{n + 4}.png", "instruction": f"{n} a",
          "paraphrases": [f"{n} b", f"{n} c"]} for n in range(4)]
    )  # fmt: skip
    seen: list[list[str]] = []
    real = trainer_module.ContrastiveTrainer.compute_loss
    stop = [False]

    def compute_loss(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if stop[0] and self.state.global_step == 3:
            raise KeyboardInterrupt
        chunks = [(chunk["input_ids"], chunk["attention_mask"].bool()) for chunk in inputs["batch"].live]
        seen.append(sorted(str(ids[mask].tolist()) for chunk in chunks for ids, mask in zip(*chunk, strict=True)))
        return real(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(trainer_module.ContrastiveTrainer, "compute_loss", compute_loss)
    recipe = _recipe(tiny_llava, data, tmp_path / "whole", steps=None, epochs=3)
    run_recipe(load_recipe(recipe, [f"workers={workers}"]))
    epochs = [seen[start] + seen[start + 1] for start in (0, 2, 4)]
    whole = list(seen)
    assert len(seen) == 6
    for one, two in pairwise(map(set, epochs)):
        assert len(one) == 5 and len(one & two) == 1  # four queries, none of which comes again, and targets asked alike
    seen.clear()
    stop[0] = True
    stopped = _recipe(tiny_llava, data, tmp_path / "stopped", steps=None, epochs=3)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(load_recipe(stopped, [f"workers={workers}"]))
    stop[0] = False
    run_recipe(load_recipe(stopped, [f"workers={workers}"]))
    assert seen == whole
    adapters = [load_file(tmp_path / name / "run/one/adapter_model.safetensors") for name in ("whole", "stopped")]
    assert all(torch.equal(adapters[1][name], tensor) for name, tensor in adapters[0].items())


def _open(folder: Path, format: str, rows: list[dict[str, Any]], *roles: str, **source: Any) -> Any:
    path = folder / f"{format}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        for value in row.values():
            for name in value if isinstance(value, list) else [value]:
                if str(name).endswith(".png"):
                    (folder / name).write_bytes(b"looked for, not looked at")
    return open_rows([DataSource(path=path, format=format, **source)], "triplets", roles)


def test_each_of_several_answers_has_its_own_words_in_all_epochs(tmp_path: Path) -> None:
    """The words at the place of a picture are right for it, whichever of the two lists' entries an epoch reads."""
    rows = [{"image": "q.png", "instruction": "red", "target_image": ["0.png", "1.png", "2.png"],
             "target_text": ["zero", None, "two"]},
            {"image": "q.png", "instruction": "blue", "target_image": "3.png",
             "target_text": ["three", "drei"]}]  # fmt: skip
    found = _open(tmp_path, "columns", rows, "composed", "target_image", columns={name: name for name in rows[0]})
    terms = [TERM, {"query": ["target_image"], "positive": ["target_text"], "symmetric": True}]
    relations = Relations.of([Term(**term) for term in terms])
    sides = Sides(frozenset({"target_image"}), query_task="Find its words.")
    pictures = [sides.put(replace(found[0], roles={"target_image": Document(image=tmp_path / f"{number}.png")}))
                .roles["target_image"] for number in range(4)]  # fmt: skip
    expected = {(pictures[0], "zero"), (pictures[2], "two"), (pictures[3], "three"), (pictures[3], "drei")}
    pairs = {(KEY(picture), KEY(Document(text=words))) for picture, words in expected}
    asks = set(map(KEY, pictures))
    for epoch in range(3):
        turned = [sides.put(found.at_turn(row, Turn(0, epoch))) for row in range(2)]
        known = known_answers(turned, relations, KEY)
        told = set(zip(known.asked.tolist(), known.answers.tolist(), strict=True))
        assert {pair for pair in told if pair[0] in asks} == pairs
        assert {pair[::-1] for pair in told if pair[0] in {words for _, words in pairs}} == pairs


def test_all_positives_of_m_beir_are_right(tmp_path: Path) -> None:
    pool = [{"did": f"1:{n}", "txt": None, "img_path": f"{n}.png", "modality": "image"} for n in range(3)]
    pool.append({"did": "1:3", "txt": "words", "img_path": "2.png", "modality": "image,text"})
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pool))
    rows = [
        {"qid": "1:9", "query_txt": "red", "query_img_path": "q.png", "pos_cand_list": ["1:0", "1:1", "1:9", "1:3"]}
    ]
    for name in ("0.png", "1.png", "2.png"):
        (tmp_path / name).write_bytes(b"x")
    found = _open(tmp_path, "mbeir", rows, "composed", "target", pool=tmp_path / "pool.jsonl")
    targets = [Document(image=tmp_path / "0.png"), Document(image=tmp_path / "1.png"),
               Document(image=tmp_path / "2.png", text="words")]  # fmt: skip
    assert found[0].roles["target"] == targets[0]
    assert set(found[0].also_right) == {*targets[1:], Document(image=tmp_path / "2.png")}
    by_epoch = [found.at_turn(0, Turn(5, epoch)).roles["target"] for epoch in range(6)]
    assert set(by_epoch[:3]) == set(targets) and by_epoch[3:] == by_epoch[:3]
    for epoch in range(3):
        row = found.at_turn(0, Turn(5, epoch))
        assert {row.roles["target"], *row.others["target"]} == set(targets)
    assert {found.at_turn(0, Turn(seed, 0)).roles["target"] for seed in range(20)} == set(targets)


def test_all_positives_of_lists_are_right(tmp_path: Path) -> None:
    rows = [{"qry": ["find it", "show it"], "qry_image_path": "", "pos_text": ["", "a cat", ""],
             "pos_image_path": ["0.png", "", "1.png"], "neg_text": "", "neg_image_path": ""}]  # fmt: skip
    (row,) = _open(tmp_path, "mmeb", rows, "query", "target")
    assert row.roles["target"] == Document(image=tmp_path / "0.png")
    assert set(row.also_right) == {Document(text="a cat"), Document(image=tmp_path / "1.png")}
    assert {row.roles["query"], *row.also_asked} == {Query(instruction="find it"), Query(instruction="show it")}
    found = _open(tmp_path, "mmeb", rows, "query", "target_image")  # of which the words offer none
    assert {found.at_turn(0, Turn(0, epoch)).roles["target_image"].image.name for epoch in range(4)} == {
        "0.png", "1.png",
    }  # fmt: skip
    assert Document(text="a cat") in found[0].also_right


def test_every_task_and_wording_of_a_row_asks_for_its_answers(tmp_path: Path) -> None:
    rows = [
        {"image": "q.png", "instruction": ["red", "in red"], "target_image": "0.png", "task": ["Find it.", "Seek."]}
    ]
    columns = {name: name for name in rows[0]}
    found = _open(tmp_path, "columns", rows, "composed", "target_image", columns=columns)
    sides = Sides(frozenset({"composed"}), query_task="of the stage")
    expected = {(words, task) for words in ("red", "in red") for task in ("Find it.", "Seek.")}
    for epoch in range(2):
        row = sides.put(found.at_turn(0, Turn(0, epoch)))
        asked = {item for item in (row.roles["composed"], *row.also_asked) if item.role == "composed"}
        assert {(item.instruction, item.task) for item in asked} == expected
    tasks = {sides.put(found.at_turn(0, Turn(0, epoch))).roles["composed"].task for epoch in range(2)}
    assert tasks == {"Find it.", "Seek."}


def test_what_cirr_judged_as_right_as_the_target_is_no_negative(tmp_path: Path) -> None:
    names = {name: f"./{name}.png" for name in ("ref", "hard", "soft", "doubt", "wrong", "rest")}
    (tmp_path / "split.json").write_text(json.dumps(names))
    for name in names:
        (tmp_path / f"{name}.png").write_bytes(b"x")
    judged = {"hard": 1.0, "soft": 1.0, "doubt": 0.5, "wrong": -1.0, "ref": 1.0}
    rows = [{"pairid": 1, "reference": "ref", "target_hard": "hard", "target_soft": judged, "caption": "red",
             "img_set": {"members": list(names)}}]  # fmt: skip
    found = _open(tmp_path, "cirr", rows, "composed", "target_image", pool=tmp_path / "split.json", images=tmp_path)
    assert [document.image.name for document in found[0].also_right] == ["soft.png"]
    assert [document.image.name for document in found[0].hard_negatives] == ["rest.png"]
    assert {found.at_turn(0, Turn(0, epoch)).roles["target_image"].image.name for epoch in range(3)} == {"hard.png"}


def test_pictures_that_are_bytes_have_keys_by_their_bytes() -> None:
    with io.BytesIO() as file:
        Image.new("RGB", (4, 4)).save(file, "PNG")
        content = file.getvalue()
    assert KEY(Document(image=content)) == KEY(Document(image=bytes(content))) != KEY(Document(image=content[:-1]))
