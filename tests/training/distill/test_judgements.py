"""Lists of rows judged by a re-ranker once, and taught: what is trained, and what a killed run does not repeat."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mllm_embed import DataFolder, Document, MLLMEmbedder, Reranker
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.training.data.folder import read_rows
from mllm_embed.training.distill import judgements
from mllm_embed.training.false_negatives.keys import ItemKeys, as_told
from mllm_embed.training.recipe.config import Recipe
from mllm_embed.training.recipe.stage_keys.terms import Term
from mllm_embed.training.run.stages import run_recipe

TERM = {"query": "composed", "positive": "target_image", "negatives": ["hard_negative"], "judged": True}
T = 0.5


@pytest.fixture
def listed(data: Path) -> Path:
    """The data, whose rows but one bring one, two or three hard negatives; one of these cannot be read."""
    rows = [json.loads(line) for line in (data / "triplets.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows[1:], 1):
        row["negative_image"] = [f"images/{(number + step) % 8}.png" for step in range(1, 2 + number % 3)]
    (data / "images/torn.png").write_bytes((data / "images/0.png").read_bytes()[:60])
    rows[2]["negative_image"][0] = "images/torn.png"
    (data / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data


def _recipe(model: Path, data: Path, output: Path, **stage: object) -> Recipe:
    keys = {"data": data, "rows": "triplets", "terms": [TERM], "batch_size": 8, "steps": 1, "learning_rate": 1e-2}
    keys |= {"judge": {"temperature": T}, "temperature": 0.1, "max_unreadable": 0.5, "warmup": 0.0} | stage
    lora = {"rank": 4, "dropout": 0.0}
    return Recipe(model=str(model), output=output, bf16=False, lora=lora, stages={"one": keys}, trained_on=False)


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_a_step_teaches_what_the_reranker_says_of_each_list(
    tiny_llava: Path, listed: Path, tmp_path: Path, weight: float
) -> None:
    rows = read_rows(DataFolder.open(listed, pictures=False), listed, "triplets", ["composed", "target_image"])
    Image.new("RGB", (32, 32), "grey").save(listed / "images/torn.png")  # else its row is replaced
    embedder = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32")
    reranker = Reranker.from_pretrained(tiny_llava, dtype="float32")
    losses = []
    for row in rows:
        listing = [row.roles["target_image"], *row.hard_negatives]
        query, *candidates = torch.from_numpy(embedder.encode([row.roles["composed"], *listing], show_progress=False))
        cosines = torch.stack(candidates) @ query
        said = torch.tensor(reranker.scores(row.roles["composed"], listing))
        taught, own = ((said + weight * cosines) / T).softmax(0), (cosines / 0.1).softmax(0)
        losses.append((taught * (taught / own).log()).sum())
    run_recipe(_recipe(tiny_llava, listed, tmp_path / "run", judge={"temperature": T, "weight": weight}))
    lines = map(json.loads, (tmp_path / "run/log.jsonl").read_text().splitlines())
    logged = next(line for line in lines if "loss" in line)
    assert logged["loss/composed-target_image-judged"] == pytest.approx(float(torch.stack(losses).mean()), abs=1e-4)
    assert logged["unjudged/composed-target_image-judged"] == 0
    assert max(losses) > 1e-3


def test_what_was_judged_is_not_asked_again(
    tiny_llava: Path, listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read_rows(DataFolder.open(listed, pictures=False), listed, "triplets", ["composed", "target_image"])
    reranker, key, path = Reranker.from_pretrained(tiny_llava, dtype="float32"), ItemKeys(as_told), tmp_path / "judged"
    lists = judgements.Lists(rows, [Term(**TERM)], None, key)
    monkeypatch.setattr(judgements, "BLOCK", 3)
    asked: list[int] = []
    real = Reranker.scores_of

    def counted(self, listed, **options):
        asked.append(sum(len(candidates) for _, candidates in listed))
        if stops == len(asked):
            raise KeyboardInterrupt
        return real(self, listed, **options)

    def judged(count: int) -> judgements.Judgements:
        visited, device = np.arange(count), torch.device("cpu")
        return judgements.judge(lists, visited, lambda: reranker, path, device, lambda: None)

    monkeypatch.setattr(Reranker, "scores_of", counted)
    # rows 3 to 5, of which none is torn, are interrupted
    (listed / "images/torn.png").write_bytes((listed / "images/7.png").read_bytes())
    stops = 2
    with pytest.raises(KeyboardInterrupt):
        judged(6)
    stops, first = 0, asked[0]
    judged(6)  # goes on
    found = judged(8)  # as more steps do
    distinct = [dict.fromkeys([row.roles["target_image"], *row.hard_negatives]) for row in rows]
    assert first + sum(asked[2:]) == len(found.pairs) == sum(map(len, distinct)) and len(asked) == 4
    for row, candidates in zip(rows, distinct, strict=True):
        query = torch.tensor(key(row.roles["composed"]))
        scores = found.of(query, torch.tensor(list(map(key, candidates))))
        assert scores.tolist() == pytest.approx(reranker.scores(row.roles["composed"], list(candidates)), abs=1e-4)
    assert found.of(query, query).isnan()


def test_what_cannot_be_read_is_left_out_of_its_list(tiny_llava: Path, listed: Path) -> None:
    reranker = Reranker.from_pretrained(tiny_llava, dtype="float32")
    rows = read_rows(DataFolder.open(listed, pictures=False), listed, "triplets", ["composed"])
    query, candidates = rows[2].roles["composed"], list(rows[2].hard_negatives)
    whole = [query, [rows[2].roles["target_image"], *candidates[1:]]]
    found = judgements._scores(reranker, [(query, [whole[1][0], *candidates]), (query, whole[1])])
    assert [score == score for score in found[0]] == [True, False, *[True] * (len(candidates) - 1)]
    assert [score for score in found[0] if score == score] == pytest.approx(found[1], abs=1e-5)


def test_other_judgements_and_lists_that_change_are_refused(
    tiny_llava: Path, other_llava: Path, listed: Path, tmp_path: Path
) -> None:
    path = tmp_path / "judged.safetensors"
    one, other = (Reranker.from_pretrained(model, dtype="float32").provenance for model in (tiny_llava, other_llava))
    judgements._write(path, judgements.Judgements.none(), one)
    found, by = judgements._read(path)
    assert not len(found.pairs)
    judgements._check_same(by, one, path)
    with pytest.raises(ConfigError, match="holds judgements of another re-ranker .*give that one, or remove the file"):
        judgements._check_same(by, other, path)
    for stage, message in (
        ({"judge": None}, "needs a judge"),
        ({"mine": {"every": 1}}, "mine makes other ones while it trains"),
        ({"terms": [TERM | {"judged": False}]}, "judge is for terms with judged: true, and there is none"),
        ({"terms": [TERM | {"negatives": []}]}, r"has negatives: \[hard_negative\]"),
        ({"terms": [TERM | {"symmetric": True}]}, "takes no bank, taught, symmetric or same_side"),
    ):
        with pytest.raises(ValueError, match=message):
            _recipe(tiny_llava, listed, tmp_path / "run", **stage)
    assert Document(text="a").key != Document(text="b").key


def test_a_task_that_a_judge_has_no_place_for_is_told(tiny_llava: Path, listed: Path, tmp_path: Path) -> None:
    prompts = {"image": "x", "composed": "{task} {instruction}", "text": "{text}"}
    recipe = _recipe(tiny_llava, listed, tmp_path / "run", query_task="Find the picture.")
    with pytest.raises(DataError, match="re-ranker's prompt has no place for the task 'Find the picture.'"):
        run_recipe(recipe.model_copy(update={"prompts": prompts}))
