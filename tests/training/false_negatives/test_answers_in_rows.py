"""All that a row of data has as right, and in which words it asks, epoch by epoch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mllm_embed import Document, Query
from mllm_embed.training.data import DataSource
from mllm_embed.training.data.numbers import Turn
from mllm_embed.training.data.open import open_rows
from mllm_embed.training.false_negatives.keys import ItemKeys, as_told
from mllm_embed.training.false_negatives.known import Relations, known_answers
from mllm_embed.training.recipe.recipe_files import load_recipe
from mllm_embed.training.recipe.sides import Sides
from mllm_embed.training.recipe.stage_keys.terms import Term
from mllm_embed.training.run import trainer as trainer_module
from mllm_embed.training.run.stages import run_recipe

from .stage_runs import recipe_of

KEY = ItemKeys(as_told)
TERM = {"query": ["composed"], "positive": ["target_image"]}


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
    recipe = recipe_of(tiny_llava, data, tmp_path / "whole", steps=None, epochs=3)
    run_recipe(load_recipe(recipe, [f"workers={workers}"]))
    epochs = [seen[start] + seen[start + 1] for start in (0, 2, 4)]
    whole = list(seen)
    assert len(seen) == 6
    for one, two in pairwise(map(set, epochs)):
        assert len(one) == 5 and len(one & two) == 1  # four queries, none of which comes again, and targets asked alike
    seen.clear()
    stop[0] = True
    stopped = recipe_of(tiny_llava, data, tmp_path / "stopped", steps=None, epochs=3)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(load_recipe(stopped, [f"workers={workers}"]))
    stop[0] = False
    run_recipe(load_recipe(stopped, [f"workers={workers}"]))
    assert seen == whole
    adapters = [load_file(tmp_path / name / "run/one/adapter_model.safetensors") for name in ("whole", "stopped")]
    assert all(torch.equal(adapters[1][name], tensor) for name, tensor in adapters[0].items())
