"""More steps for a finished stage: as if the recipe had said so from the start, and nothing lost on the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mllm_embed.errors import ConfigError
from mllm_embed.training.recipe.recipe_files import load_recipe
from mllm_embed.training.report.run_log import read_log
from mllm_embed.training.run import stage_run
from mllm_embed.training.run import trainer as trainer_module
from mllm_embed.training.run.stages import run_recipe
from tiny import make_data

pytestmark = pytest.mark.slow
TERMS = [{"query": "composed", "positive": "target_image", "negatives": ["query_image"]}]


@pytest.fixture(scope="module")
def recipe(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage of pairs before the one that is given more, with dropout, a learned temperature and a validation."""
    folder = tmp_path_factory.mktemp("more")
    data = str(make_data(folder / "halves"))
    first = {
        "data": data, "rows": "pairs", "batch_size": 4, "steps": 1, "learning_rate": 1e-2,
        "terms": [{"query": "image", "positive": "caption"}],
    }  # fmt: skip
    second = {
        "data": data, "rows": "triplets", "batch_size": 4, "epochs": 1.5, "save_steps": 2, "learning_rate": 1e-2,
        "warmup": 0.4, "learn_temperature": [0.01, 0.2], "terms": TERMS,
        "evaluate": {"data": data, "every": 2},
    }  # fmt: skip
    values = {
        "model": str(tiny_llava), "output": str(folder / "long"), "bf16": False, "lora": {"rank": 4, "dropout": 0.1},
        "stages": {"captions": first, "instructions": second},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def long(recipe: Path) -> Path:
    """The folder of a run that had three parts from the start."""
    return run_recipe(load_recipe(recipe, ["stages.instructions.more_steps=[3, 2]"])).parent


@pytest.fixture(scope="module")
def short(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was finished without more."""
    folder = tmp_path_factory.mktemp("short") / "run"
    return run_recipe(load_recipe(recipe, [f"output={folder}"])).parent


def _state(run: Path) -> dict[str, torch.Tensor]:
    home = run / "checkpoints/instructions"
    last = max(home.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    optimizer = torch.load(last / "optimizer.pt", weights_only=True)["state"]
    moments = {f"{key}/{number}": value for number, kept in optimizer.items() for key, value in kept.items()}
    adapter = load_file(run / "instructions/adapter_model.safetensors")
    best = load_file(home / "best/trainable.safetensors")
    return adapter | load_file(last / "trainable.safetensors") | moments | {f"best.{k}": v for k, v in best.items()}


def _assert_same(one: Path, other: Path) -> None:
    first, second = _state(one), _state(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    kept = [[{key: row.get(key) for key in ("stage", "step", "loss", "learning_rate", "recall@1")} for row in
             read_log(run / "log.jsonl")] for run in (one, other)]  # fmt: skip
    assert kept[0] == kept[1]


def _steps(run: Path) -> int:
    return max(int(path.name.split("-")[1]) for path in (run / "checkpoints/instructions").glob("checkpoint-*"))


def test_a_finished_stage_that_is_given_more_ends_as_a_run_that_had_it_from_the_start(
    recipe: Path, long: Path, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(short, run)
    before = (run / "instructions/adapter_model.safetensors").read_bytes()
    more = [f"output={run}", "stages.instructions.more_steps=[3]"]
    first = _steps(run)

    class Stop(Exception):
        pass

    original = trainer_module.ContrastiveTrainer.compute_loss

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == first + 2:
            raise Stop
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.ContrastiveTrainer, "compute_loss", interrupted)
        with pytest.raises(Stop):
            run_recipe(load_recipe(recipe, more))
    assert (run / "instructions/adapter_model.safetensors").read_bytes() == before, "the finished adapter stays"
    with pytest.raises(ConfigError, match=r"stages.instructions.more_steps: \[3\], now \[\]"):
        run_recipe(load_recipe(recipe, more[:1]))
    with pytest.raises(ConfigError, match=r"stages.instructions.more_steps: \[3\], now \[2, 2\]"):
        run_recipe(load_recipe(recipe, [*more[:1], "stages.instructions.more_steps=[2, 2]"]))
    run_recipe(load_recipe(recipe, more))
    assert _steps(run) == first + 3
    stamp = (run / "instructions/adapter_model.safetensors").stat().st_mtime_ns
    run_recipe(load_recipe(recipe, more))
    assert (run / "instructions/adapter_model.safetensors").stat().st_mtime_ns == stamp, "finished, and not repeated"
    run_recipe(load_recipe(recipe, [*more[:1], "stages.instructions.more_steps=[3, 2]"]))
    _assert_same(long, run)


def test_each_part_has_a_schedule_of_its_own(long: Path, recipe: Path) -> None:
    stage = load_recipe(recipe).stages["instructions"]
    rates = [row["learning_rate"] for row in read_log(long / "log.jsonl") if row["stage"] == "instructions"
             and "learning_rate" in row]  # fmt: skip
    # parts of 3, 3 and 2 steps, with 2, 2 and 1 to warm up: each begins below the peak, and ends at half of it
    assert rates == pytest.approx([share * stage.learning_rate for share in (1 / 2, 1, 1 / 2, 1 / 2, 1 / 2, 1 / 2)])


def test_a_longer_recipe_is_told_of_more_steps(recipe: Path, short: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"epochs: 1.5, now 3.0.*train it on as it was, with stages.instructions.more"
    ):
        run_recipe(load_recipe(recipe, [f"output={short}", "stages.instructions.epochs=3"]))


def test_a_stage_that_another_went_on_from_is_given_none(recipe: Path, short: Path) -> None:
    with pytest.raises(ConfigError, match="stages.captions.more_steps: stage 'instructions' went on from it already"):
        run_recipe(load_recipe(recipe, [f"output={short}", "stages.captions.more_steps=[1]"]))


def test_without_its_checkpoints_nothing_is_silently_begun_anew(recipe: Path, short: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(short, run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ConfigError, match="there is none in .*checkpoints/instructions; train a new run"):
        run_recipe(load_recipe(recipe, [f"output={run}", "stages.instructions.more_steps=[1]"]))


def test_a_run_of_a_version_without_a_key_goes_on(
    recipe: Path, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(short, run)
    record = json.loads((run / "run.json").read_text())
    for stage in record["recipe"]["stages"].values():
        del stage["more_steps"], stage["max_cosine"]
    del record["recipe"]["seed"]
    (run / "run.json").write_text(json.dumps(record))
    monkeypatch.setattr(stage_run.StageRun, "train", lambda *_: pytest.fail("all stages are finished"))
    run_recipe(load_recipe(recipe, [f"output={run}"]))
