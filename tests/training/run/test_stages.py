"""Whole runs on the tiny model: they learn, leave what they promise, and a stopped run ends like an unstopped one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from mllm_embed import MLLMEmbedder
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.saving.settings import read_settings
from mllm_embed.training.cli import main
from mllm_embed.training.recipe.config import Recipe
from mllm_embed.training.recipe.recipe_files import load_recipe
from mllm_embed.training.run import stage_run, stages
from mllm_embed.training.run import trainer as trainer_module
from mllm_embed.training.run.stages import run_recipe


@pytest.fixture
def recipe(tiny_llava: Path, data: Path, tmp_path: Path) -> Path:
    """Both stages with every role, dropout on, bfloat16 off."""
    stage = {"data": str(data), "batch_size": 4, "learning_rate": 1e-2, "steps": 6, "save_steps": 2}
    stage["chunk_tokens"] = 4096  # not to be found out in each of many runs
    values = {
        "model": str(tiny_llava),
        "output": str(tmp_path / "run"),
        "bf16": False,
        "lora": {"rank": 4, "dropout": 0.1},
        "stages": {
            "captions": stage
            | {"rows": "pairs", "terms": [{"query": "image", "positive": "caption", "symmetric": True}]},
            "instructions": stage
            | {
                "rows": "triplets",
                "per_image": 2,
                "terms": [
                    {"query": "composed", "positive": "target_image", "negatives": ["query_image"]},
                    {"query": "composed", "positive": "target_text", "negatives": ["source_text"]},
                ],
            },
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "recipe.yaml"


def _weights(run: Path) -> dict[str, np.ndarray]:
    state = load_file(run / "instructions" / "adapter_model.safetensors")
    return {name: tensor.numpy() for name, tensor in state.items()}


@pytest.mark.slow
def test_both_stages_learn_and_leave_adapters(recipe: Path, tiny_llava: Path, data: Path, tmp_path: Path) -> None:
    assert main([str(recipe), "--override", "stages.captions.steps=40"]) == 0
    run = tmp_path / "run"
    log = _log(run)
    losses = [row["loss"] for row in log if row["stage"] == "captions" and "loss" in row]
    assert losses[-1] < 0.7 * losses[0]
    assert {"loss/composed-target_image", "accuracy/composed-target_text"} <= {key for row in log for key in row}
    assert not any("thoughts" in key for row in log for key in row)  # which nothing here has
    assert list(run.rglob("events.out.tfevents*"))
    first, second = (
        MLLMEmbedder.from_pretrained(tiny_llava, adapter=run / stage, dtype="float32").encode([data / "images/0.png"])
        for stage in ("captions", "instructions")
    )
    base = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32").encode([data / "images/0.png"])
    assert np.abs(first - base).max() > 1e-3 and np.abs(second - first).max() > 1e-3


def test_each_adapter_has_a_card_that_tells_its_training(recipe: Path, data: Path, tmp_path: Path) -> None:
    run_recipe(load_recipe(recipe))
    first, second = ((tmp_path / "run" / stage / "README.md").read_text() for stage in ("captions", "instructions"))
    assert "| stage | captions |" in first and "| stage | captions | instructions |" in second
    assert "halves, 8 pairs" in first and "halves, 8 triplets" in second and "| length | 6 steps | 6 steps |" in second
    assert json.loads((tmp_path / "run/run.json").read_text())["data"][str(data)][:12] in first
    assert "composed -> target_image (hard negatives: query_image)" in second and "rank 4" in second
    assert str(tmp_path) not in first + second


def _log(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


class _Stop(Exception):
    pass


STOPS = [("captions", 3), ("instructions", 0), ("instructions", 5)]
FROZEN = [
    "stages.instructions.terms=[{query: composed, positive: target_image, frozen: true}, {query: [composed_text, "
    "source_text], positive: [target_text, source_text], frozen: true, symmetric: true, same_side: true}]",
    "stages.instructions.matryoshka=[16, 32]",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "how"),
    [*((stop, how) for stop in STOPS for how in ("float32", "bfloat16")), (("instructions", 3), "frozen")],
    ids=str,
)
def test_a_stopped_run_ends_like_an_unstopped_one(
    recipe: Path, bf16_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: tuple[str, int], how: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)  # so that a bfloat16 base stays one
    overrides = {"float32": [], "bfloat16": [f"model={bf16_llava}", "bf16=true"], "frozen": FROZEN}[how]
    run_recipe(load_recipe(recipe, [*overrides, f"output={tmp_path / 'whole'}"]))
    stopped = load_recipe(recipe, [*overrides, f"output={tmp_path / 'stopped'}"])
    with monkeypatch.context() as patch:
        original = trainer_module.ContrastiveTrainer.compute_loss

        def interrupted(self, *args, **kwargs):
            if (self.stage, self.state.global_step) == (stopped.stages[stop[0]], stop[1]):
                raise _Stop
            return original(self, *args, **kwargs)

        patch.setattr(trainer_module.ContrastiveTrainer, "compute_loss", interrupted)
        with pytest.raises(_Stop):
            run_recipe(stopped)
    with (stopped.output / "log.jsonl").open("a") as log:
        log.write('{"stage": "instr')  # as a full disk leaves it
    run_recipe(stopped)
    whole, resumed = _weights(tmp_path / "whole"), _weights(tmp_path / "stopped")
    assert whole.keys() == resumed.keys()
    for name in whole:
        np.testing.assert_array_equal(resumed[name], whole[name], err_msg=name)
    steps = [(row["stage"], row["step"], row.get("loss")) for row in _log(tmp_path / "stopped")]
    assert steps == [(row["stage"], row["step"], row.get("loss")) for row in _log(tmp_path / "whole")]


@pytest.mark.slow
def test_the_same_recipe_twice_gives_the_same_adapter_and_another_seed_another(recipe: Path, tmp_path: Path) -> None:
    runs = {name: tmp_path / name for name in ("a", "b", "c")}
    for name, run in runs.items():
        run_recipe(load_recipe(recipe, [f"output={run}", f"seed={int(name == 'c')}"]))
    a, b, c = (_weights(run) for run in runs.values())
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert any(not np.array_equal(a[name], c[name]) for name in a)


def test_a_bf16_base_trains_without_autocast(recipe: Path, bf16_llava: Path, tmp_path: Path) -> None:
    run_recipe(load_recipe(recipe, [f"model={bf16_llava}", "bf16=false"]))
    assert all(np.isfinite(weight).all() for weight in _weights(tmp_path / "run").values())


def test_a_truncated_picture_ends_a_small_run_with_one_sentence(recipe: Path, data: Path) -> None:
    picture = data / "images/2.png"
    picture.write_bytes(picture.read_bytes()[:60])
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"max_unreadable 0.01 allows.*images/2.png cannot be read") as caught:
            run_recipe(load_recipe(recipe, [f"workers={workers}"]))
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_unreadable_rows_are_replaced_and_listed(recipe: Path, data: Path, tmp_path: Path) -> None:
    picture = data / "images/2.png"
    picture.write_bytes(picture.read_bytes()[:60])
    patience = [f"stages.{stage}.max_unreadable=0.9" for stage in ("captions", "instructions")]
    runs = {workers: tmp_path / str(workers) for workers in (0, 2)}
    for workers, output in runs.items():
        run_recipe(load_recipe(recipe, [*patience, f"workers={workers}", f"output={output}"]))
        lost = [json.loads(line) for line in (output / "unreadable.jsonl").read_text().splitlines()]
        assert all("images/2.png cannot be read" in row["reason"] and row["source"] == str(data) for row in lost)
        shown = [json.loads(line) for file in ("pairs", "triplets") for line in (data / f"{file}.jsonl").open()]
        assert {row["id"] for row in lost} == {
            row["id"] for row in shown if "images/2.png" in (row["image"], row.get("target_image"))
        }
    one, other = (_weights(output) for output in runs.values())
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("damage", "message"),
    [("{", "run.json is damaged"), ("{}", "run.json is damaged"), (None, "is a file; give a folder")],
)
def test_a_damaged_output_is_named(recipe: Path, tmp_path: Path, damage: str | None, message: str) -> None:
    if damage is None:
        (tmp_path / "run").write_text("")
    else:
        (tmp_path / "run").mkdir()
        (tmp_path / "run/run.json").write_text(damage)
    with pytest.raises(ConfigError, match=message):
        run_recipe(load_recipe(recipe))


@pytest.mark.slow
def test_changed_data_does_not_continue_a_run(recipe: Path, data: Path) -> None:
    run_recipe(load_recipe(recipe))
    with (data / "pairs.jsonl").open("a") as file:
        file.write(json.dumps({"id": "new", "image": "images/0.png", "caption": "one more"}) + "\n")
    with pytest.raises(ConfigError, match="data that has changed"):
        run_recipe(load_recipe(recipe))


@pytest.mark.slow
def test_another_recipe_does_not_continue_a_run(recipe: Path) -> None:
    run_recipe(load_recipe(recipe))
    with pytest.raises(ConfigError, match=r"holds a run of another recipe .lora.rank: 4, now 8"):
        run_recipe(load_recipe(recipe, ["lora.rank=8"]))


def test_a_row_without_a_role_is_named(recipe: Path, data: Path) -> None:
    path = data / "triplets.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    del rows[3]["source_text"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="row 't3' has no source_text"):
        run_recipe(load_recipe(recipe))


def test_too_few_rows_for_a_batch(recipe: Path) -> None:
    with pytest.raises(DataError, match="fewer than batch_size 64"):
        run_recipe(load_recipe(recipe, ["stages.captions.batch_size=64"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.yaml"], "nowhere.yaml does not exist"),
        (["demo", "--override", "lerning_rate=1"], "unknown key 'lerning_rate'"),
        (["demo", "--override", "stages.captions.data=EMPTY"], "EMPTY"),
        (["demo", "--override", "model=nowhere/at/all", "--override", "stages.captions.data=DATA"], "nowhere/at/all"),
    ],
)
def test_the_command_ends_with_a_sentence_and_code_2(
    words: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "EMPTY").mkdir()
    words = [w.replace("EMPTY", str(tmp_path / "EMPTY")).replace("DATA", str(data)) for w in words]
    words += ["--override", f"output={tmp_path / 'out'}", "--override", f"stages.instructions.data={data}"]
    words += ["--override", "stages.captions.batch_size=4", "--override", "stages.instructions.batch_size=4"]
    assert main(words) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("error: ") and message in told
    assert not (tmp_path / "out").exists()


def test_help_teaches() -> None:
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-m", "training", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert "examples:" in done.stdout and "temperature" in done.stdout and "per_image" in done.stdout


def test_keys_reach_the_optimiser_and_the_adapter(tiny_llava: Path, data: Path, tmp_path: Path, monkeypatch) -> None:
    seen = []
    real = stage_run.ContrastiveTrainer.train

    def train(self, *args, **kwargs):
        seen.append(self.args)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(stage_run.ContrastiveTrainer, "train", train)
    stage = {
        "data": data, "rows": "pairs", "batch_size": 4, "steps": 1, "schedule": "linear", "warmup": 0.25,
        "weight_decay": 0.125, "learning_rate": 0.5, "terms": [{"query": "image", "positive": "caption"}],
    }  # fmt: skip
    recipe = Recipe(
        model=str(tiny_llava), output=tmp_path / "run", bf16=False, stages={"captions": stage}, pooling="mean",
        bidirectional=True, max_tokens=512,
    )  # fmt: skip
    settings = read_settings(stages.run_recipe(recipe))
    assert settings.pooling == "mean" and settings.bidirectional and settings.max_tokens == 512
    (used,) = seen
    assert (used.lr_scheduler_type, used.warmup_steps, used.weight_decay) == ("linear", 0.25, 0.125)
    assert used.learning_rate == 0.5


def test_a_weight_is_a_share_of_the_loss(tiny_llava: Path, data: Path, tmp_path: Path) -> None:
    def first_loss(weight: float) -> float:
        term = {"query": "image", "positive": "caption", "weight": weight}
        stage = {"data": data, "rows": "pairs", "batch_size": 4, "steps": 1, "terms": [term]}
        output = tmp_path / str(weight)
        stages.run_recipe(Recipe(model=str(tiny_llava), output=output, bf16=False, stages={"captions": stage}))
        return json.loads((output / "log.jsonl").read_text().splitlines()[0])["loss"]

    assert first_loss(3.0) == pytest.approx(3 * first_loss(1.0), rel=1e-3)
