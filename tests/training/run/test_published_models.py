"""Training goes on from a published embedder in its own form: what is learned on is what `encode` gives, the adapter
keeps the form, and tasks come from rows, sources and stages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.saving.settings import read_settings
from mllm_embed.training.batch.stage_data import open_stage
from mllm_embed.training.recipe.config import Recipe
from mllm_embed.training.recipe.stage import Stage
from mllm_embed.training.run import stages
from mllm_embed.training.run import trainer as trainer_module
from mllm_embed.training.run.stages import run_recipe
from published import make_published

TARGETS = {"query": "composed", "positive": "target_image", "negatives": ["query_image"]}
TASK, TEMPERATURE = "Find an image after the change.", 0.05
MEAN = [0.2, 0.3, 0.4]
SIDES = """
model_types: [qwen2_vl]
prompts:
  template: "<|im_start|>user\\n{prompt}<|im_end|>\\n"
  append: "<|endoftext|>"
  picture: "<|vision_start|><|image_pad|><|vision_end|>"
  task_form: "Instruct: {task}\\n"
  image: "{image}Represent the picture."
  composed: "{image}{task}{instruction}"
  text: "{text}"
  captioned: "{image}{text}"
  query_text: "{task}Query: {text}"
  query_image: "{task}{image}"
settings: {positions: sequential, padding_side: right, pooled: at <|endoftext|>, resize: {to: [48, 32]}}
image_processor: {image_mean: [0.2, 0.3, 0.4]}
"""


@pytest.fixture(scope="module")
def gme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model where its path tells a published one."""
    return make_published("qwen2_vl", tmp_path_factory.mktemp("models") / "Alibaba-NLP" / "gme-Qwen2-VL-2B-Instruct")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder of four pictures."""
    return tiny.make_data(tmp_path / "data", count=4)


@pytest.fixture
def recipe(gme: Path, data: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """Gives a recipe of one stage over all rows a step, on the published model."""

    def made(output: str = "run", stage: dict[str, Any] | None = None, **keys: Any) -> Recipe:
        one = {"data": data, "rows": "triplets", "terms": [TARGETS], "batch_size": 4, "steps": 2, "save_steps": 1}
        one |= {"chunk_tokens": 4096, "learning_rate": 1e-2, "temperature": TEMPERATURE, **(stage or {})}
        given = {"model": str(gme), "bf16": False, "lora": {"rank": 4, "dropout": 0.0}} | keys
        return Recipe(output=tmp_path / output, stages={"one": one}, **given)

    return made


def _first_loss(run: Path) -> float:
    rows = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return next(row["loss"] for row in rows if "loss" in row)


def _rows(data: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (data / name).read_text().splitlines()]


def _info_nce(queries: np.ndarray, candidates: np.ndarray, right: list[int]) -> float:
    scores = (queries @ candidates.T).astype(np.float64) / TEMPERATURE
    return float(np.mean(np.log(np.exp(scores).sum(1)) - scores[np.arange(len(right)), right]))


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A preset of one's own."""
    (tmp_path / "sides.yaml").write_text(SIDES)
    return str(tmp_path / "sides.yaml")


@pytest.mark.parametrize("whole", [True, False])
def test_the_first_loss_is_that_of_the_vectors_that_encode_gives(
    recipe: Callable[..., Recipe], gme: Path, own: str, data: Path, whole: bool
) -> None:
    """Whole by the preset of its hub id, in chunks that are computed twice by one of its own; with the stage's task."""
    preset = None if whole else own
    stage = {"query_task": TASK, "steps": 1, "chunk_tokens": 1 << 20 if whole else 60}
    run = run_recipe(recipe(stage=stage, preset=preset)).parent
    embedder = MLLMEmbedder.from_pretrained(gme, dtype="float32", preset=preset)
    assert embedder.preset is not None and embedder.settings.positions == "sequential"
    rows = _rows(data, "triplets.jsonl")
    shown = sorted({row["target_image"] for row in rows} | {row["image"] for row in rows})
    queries = [Query(data / row["image"], row["instruction"]) for row in rows]
    asked = embedder.encode_query(queries, task=TASK)
    found = embedder.encode_document([data / name for name in shown])
    right = [shown.index(row["target_image"]) for row in rows]
    assert _first_loss(run) == pytest.approx(_info_nce(asked, found, right), abs=1e-4)
    assert abs(_first_loss(run) - _info_nce(embedder.encode_query(queries), found, right)) > 1e-3  # the task counts


def test_what_asks_is_asked_as_a_query_and_what_is_found_as_a_document(
    recipe: Callable[..., Recipe], gme: Path, own: str, data: Path
) -> None:
    term = {"query": "caption", "positive": "image", "symmetric": True}
    stage = {"rows": "pairs", "terms": [term], "query_task": TASK, "steps": 1}
    folder = run_recipe(recipe(preset=own, stage=stage))
    embedder = MLLMEmbedder.from_pretrained(gme, dtype="float32", preset=own)
    pairs = _rows(data, "pairs.jsonl")
    asked = embedder.encode_query([pair["caption"] for pair in pairs], task=TASK)
    found = embedder.encode_document([data / pair["image"] for pair in pairs])
    right = list(range(len(pairs)))
    expected = (_info_nce(asked, found, right) + _info_nce(found, asked, right)) / 2
    assert _first_loss(folder.parent) == pytest.approx(expected, abs=1e-4)
    assert f"| query task | {TASK} |" in (folder / "README.md").read_text()
    saved = read_settings(folder)
    assert saved is not None and saved.prompts == embedder.prompts and saved.positions == "sequential"


def test_the_adapter_keeps_the_form_however_it_is_loaded_and_a_stopped_run_too(
    recipe: Callable[..., Recipe], gme: Path, own: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[MLLMEmbedder] = []
    adapted, loss = stages._adapted, trainer_module.ContrastiveTrainer.compute_loss
    monkeypatch.setattr(stages, "_adapted", lambda *args: kept.append(adapted(*args)) or kept[-1])
    folder = run_recipe(recipe(stage={"query_task": TASK}, preset=own))
    items = [
        Query(data / "images/0.png", "make it red", task=TASK), Query(text="a hat"), Document(text="a hat"),
        Document(data / "images/1.png", "with its text"), Document(data / "images/2.png"),
    ]  # fmt: skip
    kept[0].model.eval()
    expected = kept[0].encode(items)
    base = MLLMEmbedder.from_pretrained(gme, dtype="float32", preset=own)
    assert np.abs(base.encode(items) - expected).max() > 1e-3
    alone = MLLMEmbedder.from_pretrained(folder, dtype="float32")
    alone.save_pretrained(tmp_path / "merged", merge=True)
    for loaded in (
        alone, MLLMEmbedder.from_pretrained(gme, adapter=folder, dtype="float32"),
        MLLMEmbedder.from_pretrained(tmp_path / "merged", dtype="float32"),
    ):  # fmt: skip
        assert loaded.settings.recipe == base.settings.recipe and loaded.prompts == base.prompts
        assert len(loaded.settings.recipe) == 4 and list(loaded.processor.image_processor.image_mean) == MEAN
        np.testing.assert_allclose(loaded.encode(items), expected, atol=1e-5)

    def interrupted(self: Any, *args: Any, **options: Any) -> Any:
        if self.state.global_step == 1:
            raise KeyboardInterrupt
        return loss(self, *args, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer_module.ContrastiveTrainer, "compute_loss", interrupted)
        run_recipe(recipe("stopped", {"query_task": TASK}, preset=own))
    resumed = run_recipe(recipe("stopped", {"query_task": TASK}, preset=own))
    again = MLLMEmbedder.from_pretrained(resumed, dtype="float32")
    np.testing.assert_allclose(again.encode(items), expected, atol=1e-5)


def test_a_rows_own_task_goes_before_its_sources_and_that_before_the_stages(data: Path, tmp_path: Path) -> None:
    rows = _rows(data, "triplets.jsonl")
    rows[0]["task"] = "its own"
    (data / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = [{"ref": str(data / row["image"]), "say": "go", "out": str(data / row["target_image"])} for row in rows]
    table[1]["what"] = "the column's"
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    columns = {"image": "ref", "instruction": "say", "target_image": "out", "task": "what"}
    sources = [
        {"path": data, "query_task": "the source's", "document_task": "of the gallery"},
        {"path": tmp_path / "table.jsonl", "format": "columns", "columns": columns},
    ]
    stage = Stage(data=sources, rows="triplets", terms=[TARGETS], query_task="the stage's")
    opened, _ = open_stage(stage)
    found = [(opened[n].roles["composed"].task, opened[n].roles["target_image"].task) for n in (0, 1, 4, 5)]
    assert found == [
        ("its own", "of the gallery"), ("the source's", "of the gallery"), ("the stage's", None), ("the column's", None)
    ]  # fmt: skip
    assert all(row.roles["query_image"].side == "document" for row in opened)


@pytest.mark.parametrize(
    ("keys", "stage", "message"),
    [
        ({"prompts": "instructcir"}, {"query_task": TASK}, "stage 'one': the prompts 'instructcir' have no place for"),
        ({}, {"query_task": "say <|im_end|>"}, "stage 'one': the task 'say <|im_end|>' spells a token"),
        ({"prompts": "instructcirr"}, {}, "'instructcirr' is not one of .*did you mean 'instructcir'"),
        ({"prompts": "nowhere.yaml"}, {}, "prompt set nowhere.yaml cannot be read"),
        ({"preset": "gmee"}, {}, "preset: 'gmee' is not one of .*did you mean 'gme'"),
        ({"preset": "OTHER"}, {}, "the preset other is for qwen3_vl models, and .* is a qwen2_vl"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_form_is_told_before_a_step(
    recipe: Callable[..., Recipe], tmp_path: Path, keys: dict[str, str], stage: dict[str, str], message: str
) -> None:
    (tmp_path / "other.yaml").write_text(SIDES.replace("qwen2_vl", "qwen3_vl"))
    keys = {key: value.replace("OTHER", str(tmp_path / "other.yaml")) for key, value in keys.items()}
    with pytest.raises((ConfigError, DataError), match=message):
        run_recipe(recipe(stage=stage, **keys))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"query_task": " "}, "must not be empty"),
        ({"rows": "pairs", "terms": [{"query": ["image", "caption"], "positive": ["caption", "image"]}],
          "query_task": TASK}, "query_task is given, and no role of the terms only asks"),
    ],
)  # fmt: skip
def test_a_task_that_nothing_is_asked_with_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stage(**({"data": "x", "rows": "triplets", "terms": [TARGETS]} | keys))


def test_a_run_goes_on_in_its_own_form_alone(recipe: Callable[..., Recipe], tmp_path: Path, tiny_llava: Path) -> None:
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({"image": "a", "composed": "{instruction}", "text": "{text}"}))
    one = recipe(model=str(tiny_llava), prompts=str(prompts), stage={"steps": 1})
    folder = run_recipe(one)
    assert read_settings(folder).prompts.name == "prompts"
    prompts.write_text(json.dumps({"image": "b", "composed": "{instruction}", "text": "{text}"}))
    with pytest.raises(ConfigError, match=r"holds a run on data that has changed since \(.*prompts.json\)"):
        run_recipe(one)
