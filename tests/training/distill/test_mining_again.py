"""Mining while a stage trains: the negatives are those of the model as it is, and a stop changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mllm_embed import Document, MLLMEmbedder
from mllm_embed.errors import DataError
from mllm_embed.model.lora import LoraSpec, add_lora
from mllm_embed.training.batch.stage_data import open_stage, order_of, rows_of_steps
from mllm_embed.training.cli import main
from mllm_embed.training.data.source import DataSource
from mllm_embed.training.distill.right_answers import right_answers
from mllm_embed.training.distributed.gradient_caching import BatchEncoder
from mllm_embed.training.false_negatives.keys import as_told
from mllm_embed.training.mining.mine import QuestionVectors, mine
from mllm_embed.training.mining.negatives import Rules
from mllm_embed.training.mining.questions import Questions
from mllm_embed.training.mining.rows import RowsToMine
from mllm_embed.training.recipe.config import Recipe
from mllm_embed.training.recipe.stage import Stage
from mllm_embed.training.run import trainer as trainer_module
from mllm_embed.training.run.stage.stage_trainer import read_weights
from mllm_embed.training.run.stages import run_recipe
from tiny import make_data

TERM = {"query": "composed", "positive": "target_image", "negatives": ["hard_negative"]}
MINE = {"every": 2, "count": 2, "ceiling": 1.0}


class _Stop(Exception):
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("again") / "data", 12)


@pytest.fixture(scope="module")
def train(data: Path, tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trains one stage that mines, and gives the folder of the run."""
    root = tmp_path_factory.mktemp("runs")

    def run(name: str, workers: int = 0, **keys: Any) -> Path:
        stage = {"data": data, "rows": "triplets", "terms": [TERM], "batch_size": 4, "steps": 5, "save_steps": 1,
                 "mine": MINE, "learning_rate": 3e-2}  # fmt: skip
        recipe = Recipe(
            model=str(tiny_llava), output=root / name, bf16=False, workers=workers,
            lora={"rank": 4, "dropout": 0.1}, stages={"one": stage | keys},
        )  # fmt: skip
        run_recipe(recipe)
        return recipe.output

    return run


@pytest.fixture(scope="module")
def whole(train: Callable[..., Path]) -> Path:
    """A run that nothing happened to."""
    return train("whole")


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def negatives_of(path: Path) -> dict[int, list[dict[str, Any]]]:
    return {line["row"]: line["negatives"] for line in lines_of(path)[1:]}


def assert_same(one: Path, other: Path) -> None:
    names = ("one/adapter_model.safetensors", "checkpoints/one/checkpoint-5/trainable.safetensors")
    for first, second in ((load_file(one / name), load_file(other / name)) for name in names):
        assert first.keys() == second.keys()
        assert [name for name in first if not np.array_equal(first[name].numpy(), second[name].numpy())] == []
    home = "checkpoints/one"
    assert [(one / home / f"mined-{at}.jsonl").read_bytes() for at in (0, 2, 4)] == [
        (other / home / f"mined-{at}.jsonl").read_bytes() for at in (0, 2, 4)
    ]
    steps = [[(line["step"], line["loss"]) for line in lines_of(run / "log.jsonl") if "loss" in line]
             for run in (one, other)]  # fmt: skip
    assert steps[0] == steps[1]


def test_each_stretch_has_the_negatives_of_the_model_as_it_is(whole: Path, data: Path, tiny_llava: Path) -> None:
    home = whole / "checkpoints/one"
    assert sorted(path.name for path in home.glob("mined-*")) == ["mined-0.jsonl", "mined-2.jsonl", "mined-4.jsonl"]
    assert not list(home.glob("mining-*"))
    logged = [line for line in lines_of(whole / "log.jsonl") if "mining_seconds" in line]
    assert [line["step"] for line in logged] == [0, 2, 4] and logged[0]["mined_candidates"] == 8
    found = negatives_of(home / "mined-4.jsonl")
    assert 0 < logged[2]["mined_negatives"] <= 2 and -1 <= logged[2]["mined_similarity"] <= 1
    assert len(found) == 12
    assert "up to 2 a row, mined by the model itself every 2 steps" in (whole / "one/README.md").read_text()
    # a new adapter changes nothing: at first the negatives are those that the base finds
    command = ["mine", str(data), "--model", str(tiny_llava), "--output", str(whole / "base.jsonl")]
    assert main([*command, "--device", "cpu", "--dtype", "float32", "--count", "2", "--ceiling", "1"]) == 0
    wanted, first = negatives_of(whole / "base.jsonl"), negatives_of(home / "mined-0.jsonl")
    assert first and all(first[row] == wanted[row] for row in first)
    later = negatives_of(home / "mined-4.jsonl")
    assert any(later[row] != wanted[row] for row in later)
    # and at step 4 those that its checkpoint finds
    embedder = MLLMEmbedder.from_pretrained(tiny_llava, device="cpu", dtype="float32")
    add_lora(embedder.model, LoraSpec(rank=4), embedder.family)
    read_weights(home / "checkpoint-4", BatchEncoder(embedder.model).trainable())
    rows = RowsToMine.open([DataSource(path=data)], "triplets")
    questions = Questions.of(rows, "composed", "target_image")
    vectors = [embedder.encode(list(items)) for items in (questions.queries, questions.gallery)]
    found = mine(questions, QuestionVectors(*vectors, {}, {}), Rules(2, ceiling=1)).negatives.places[questions.query]
    named = [[questions.gallery[place].images[0].relative_to(data) for place in row if place >= 0] for row in found]
    assert {row: [Path(entry["image"]) for entry in entries] for row, entries in later.items()} == {
        row: named[row] for row in later
    }


def test_the_rows_of_a_step_bring_what_was_mined_last(whole: Path, data: Path) -> None:
    stage = Stage(data=data, rows="triplets", terms=[TERM], batch_size=4, mine=MINE, steps=5)
    rows, _ = open_stage(stage)
    order = order_of(stage, rows, 0, 1)
    seen: list[int] = []
    for epoch in range(2):
        order.set_epoch(epoch)
        seen += order.order().tolist()
    for first, last in ((0, 2), (2, 4), (1, 5)):
        assert set(rows_of_steps(order, 4, first, last)) == set(seen[4 * first : 4 * last])
    # each logged step saw the two negatives of each of its rows, or fewer where rows share one
    logged = [line for line in lines_of(whole / "log.jsonl") if "loss" in line]
    assert all(line["negatives/composed-target_image"] > 3 for line in logged)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["between two minings", "while it mines", "in a worker's run"])
def test_a_stopped_run_ends_like_an_unstopped_one(
    whole: Path, train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    name, calls = f"stopped {moment}", []
    loss, encode = trainer_module.ContrastiveTrainer.compute_loss, MLLMEmbedder.encode

    def stop_in_loss(self: Any, *args: Any, **options: Any) -> Any:
        if self.state.global_step == 3:
            raise _Stop
        return loss(self, *args, **options)

    def stop_in_mining(self: Any, *args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 4:  # queries and candidates of step 0, queries of step 2
            raise _Stop
        return encode(self, *args, **options)

    with monkeypatch.context() as patch:
        if moment == "while it mines":
            patch.setattr(MLLMEmbedder, "encode", stop_in_mining)
        else:
            patch.setattr(trainer_module.ContrastiveTrainer, "compute_loss", stop_in_loss)
        with pytest.raises(_Stop):
            train(name)
    assert_same(whole, train(name, workers=2 if moment == "in a worker's run" else 0))


def test_fewer_candidates_are_drawn_and_hold_what_is_right(train: Callable[..., Path], data: Path) -> None:
    run = train("few", mine=MINE | {"candidates": 3, "also": ["query_image"]}, steps=1)
    for line in lines_of(run / "checkpoints/one/mined-0.jsonl")[1:]:
        rows = [json.loads(row) for row in (data / "triplets.jsonl").read_text().splitlines()]
        assert rows[line["row"]]["target_image"] not in [entry.get("image") for entry in line["negatives"]]


def test_too_few_candidates_are_told(train: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="stage 'one': mine: skip 0 and count 30 ask for more than the 8 distinct"):
        train("none", mine=MINE | {"count": 30})


def test_what_may_be_mined_has_its_twins_though_no_term_has_its_role(tmp_path: Path) -> None:
    """A reference picture that is the target of a row under another name is no hard negative of that row."""
    for name, colour in (("0.png", "red"), ("1.png", "blue"), ("twin.png", "red"), ("q.png", "green")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / name)
    rows = [{"image": image, "source_text": "a hat", "instruction": "make it red", "target_image": target}
            for image, target in (("q.png", "0.png"), ("twin.png", "1.png"))]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = Stage(
        data=DataSource(path=tmp_path / "rows.jsonl", format="columns", columns={name: name for name in rows[0]}),
        rows="triplets", batch_size=2, mine=MINE | {"also": ["query_image"]},
        terms=[{"query": "composed_text", "positive": "target_image", "negatives": ["hard_negative"]}],
    )  # fmt: skip
    known = right_answers("one", stage, open_stage(stage)[0], as_told, tmp_path / "right", torch.device("cpu"))
    target, twin, other = (known.key(Document(image=tmp_path / name)) for name in ("0.png", "twin.png", "1.png"))
    assert target == twin != other


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"terms": [{"query": "composed", "positive": "target_image"}]}, "no term lists hard_negative in its neg"),
        ({"terms": [TERM | {"bank": True}]}, "mine goes with no bank"),
        ({"mine": {"every": 2, "count": 9, "depth": 5}}, "depth 5 must be at least skip and count together, 9"),
        ({"mine": {"every": 2, "query": "caption"}}, "role 'caption' is none that rows: triplets ask"),
        ({"mine": {"every": 2, "also": ["query_image"]}, "guide": {}}, "with a guide, .* roles of the terms alone"),
        ({"mine": {"every": 2, "positive": "target_text"}, "guide": {}}, "with a guide, `positive` and `also` are"),
    ],
)
def test_what_does_not_fit_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stage(**({"data": "x", "rows": "triplets", "terms": [TERM], "mine": MINE} | keys))
