"""What a run survives: a kill at any moment, damage, a full disk, a scheduler's SIGTERM."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mllm_embed.errors import DataError
from mllm_embed.training import checkpoints, run_folder, stages
from mllm_embed.training import trainer as trainer_module
from mllm_embed.training.checkpoints import is_whole, last_checkpoint
from mllm_embed.training.cli import main
from mllm_embed.training.config import load_recipe
from mllm_embed.training.stages import run_recipe

ROOT = Path(__file__).resolve().parents[2]
TERMS = [
    {"query": "composed", "positive": "target_image", "negatives": ["query_image"]},
    {"query": "composed", "positive": "target_text", "negatives": ["source_text"], "bank": True},
]


@pytest.fixture
def recipe(tiny_llava: Path, data: Path, tmp_path: Path) -> Path:
    """All that a run keeps from one step to the next: dropout, AdamW, a learned temperature, a bank, chunks."""
    stage = {
        "data": str(data), "rows": "triplets", "batch_size": 4, "steps": 5, "save_steps": 2, "learning_rate": 1e-2,
        "chunk_tokens": 60, "learn_temperature": [0.01, 0.2], "terms": TERMS,
    }  # fmt: skip
    values = {
        "model": str(tiny_llava), "output": str(tmp_path / "run"), "bf16": False, "stages": {"one": stage},
        "lora": {"rank": 4, "dropout": 0.1},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "recipe.yaml"


class _Stop(Exception):
    pass


def _stop_at(patch: pytest.MonkeyPatch, step: int, stop=_Stop) -> None:
    """Raise in the loss of a step."""
    original = trainer_module.ContrastiveTrainer.compute_loss

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == step:
            raise stop
        return original(self, *args, **kwargs)

    patch.setattr(trainer_module.ContrastiveTrainer, "compute_loss", interrupted)


def _state(run: Path) -> dict[str, torch.Tensor]:
    """The adapter, and all that the last checkpoint holds: the temperature and the optimiser's moments too."""
    last = run / "checkpoints/one/checkpoint-5"
    optimizer = torch.load(last / "optimizer.pt", weights_only=True)["state"]
    moments = {f"{key}/{number}": value for number, kept in optimizer.items() for key, value in kept.items()}
    return load_file(run / "one/adapter_model.safetensors") | load_file(last / "trainable.safetensors") | moments


def _assert_same(one: Path, other: Path) -> None:
    first, second = _state(one), _state(other)
    assert first.keys() == second.keys() and any("temperature" in name for name in first)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize(("workers", "accumulation"), [(0, 1), (1, 1), (0, 2)])
def test_a_stopped_run_keeps_everything_between_two_steps(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, accumulation: int
) -> None:
    real = stages.TrainingArguments
    monkeypatch.setattr(
        stages, "TrainingArguments", lambda **values: real(**values, gradient_accumulation_steps=accumulation)
    )
    run_recipe(load_recipe(recipe, [f"workers={workers}"]))
    stopped = load_recipe(recipe, [f"output={tmp_path / 'stopped'}", f"workers={workers}"])
    with monkeypatch.context() as patch:
        _stop_at(patch, 3)
        with pytest.raises(_Stop):
            run_recipe(stopped)
    assert Path(last_checkpoint(tmp_path / "stopped/checkpoints/one")).name == "checkpoint-2"
    run_recipe(stopped)
    _assert_same(tmp_path / "run", tmp_path / "stopped")


def test_damage_at_the_last_checkpoint_is_passed_over(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_recipe(load_recipe(recipe))
    home = tmp_path / "stopped/checkpoints/one"
    stopped = load_recipe(recipe, [f"output={tmp_path / 'stopped'}"])
    with monkeypatch.context() as patch:
        _stop_at(patch, 4)
        with pytest.raises(_Stop):
            run_recipe(stopped)
    assert sorted(path.name for path in home.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    whole = (home / "checkpoint-4/optimizer.pt").read_bytes()
    for damage in (whole[:-9], bytes([whole[0]]) + bytes([whole[1] ^ 1]) + whole[2:]):
        (home / "checkpoint-4/optimizer.pt").write_bytes(damage)
        assert last_checkpoint(home) == str(home / "checkpoint-2")
        assert "checkpoint-4 is damaged" in capsys.readouterr().err
    for missing in ("rng_state.pth", "seal.json"):
        shutil.copytree(home / "checkpoint-2", tmp_path / missing)
        (tmp_path / missing / missing).unlink()
        assert is_whole(home / "checkpoint-2") and not is_whole(tmp_path / missing)
    run_recipe(stopped)
    _assert_same(tmp_path / "run", tmp_path / "stopped")


def test_a_run_killed_between_its_last_step_and_its_adapter_trains_no_further(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_recipe(load_recipe(recipe))
    shutil.copytree(tmp_path / "run", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped/one")
    for left in ("stopped/.one-x1/new", "stopped/checkpoints/one/.unfinished/checkpoint-5"):
        (tmp_path / left).mkdir(parents=True)
    with monkeypatch.context() as patch:
        _stop_at(patch, 5)
        run_recipe(load_recipe(recipe, [f"output={tmp_path / 'stopped'}"]))
    _assert_same(tmp_path / "run", tmp_path / "stopped")
    assert not list((tmp_path / "stopped").rglob(".*"))


@pytest.mark.parametrize("victim", ["save_file", "torch.save", "publish"])
def test_a_disk_that_fills_up_in_a_checkpoint_leaves_the_one_before(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    full = OSError(28, "No space left on device")
    real = torch.save if victim == "torch.save" else getattr(trainer_module, victim)
    at_step = {"count": 0}

    def write(*args, **kwargs):
        at_step["count"] += 1
        if at_step["count"] > (3 if victim == "torch.save" else 1):  # the second checkpoint
            raise full
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("torch.save" if victim == "torch.save" else f"{trainer_module.__name__}.{victim}", write)
        with pytest.raises(DataError, match=r"cannot write .*checkpoint-4 \(.*No space left.*make room") as told:
            run_recipe(load_recipe(recipe))
    assert "\n" not in str(told.value)
    home = tmp_path / "run/checkpoints/one"
    assert last_checkpoint(home) == str(home / "checkpoint-2") and not list(home.glob(".unfinished"))
    run_recipe(load_recipe(recipe))
    run_recipe(load_recipe(recipe, [f"output={tmp_path / 'whole'}"]))
    _assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_stage_without_room_for_its_checkpoints_does_not_start(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run_recipe(load_recipe(recipe))
    real = sum(path.stat().st_size for path in (run / "checkpoints/one/checkpoint-5").iterdir())
    parameters = load_file(run / "checkpoints/one/checkpoint-5/trainable.safetensors").values()
    said = checkpoints.checkpoint_bytes(parameters)
    assert real <= said < real + checkpoints.OVERHEAD
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 2**20, 2**20)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: usage)
    assert main([str(recipe), "--override", f"output={tmp_path / 'other'}"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: stage 'one'") and "MiB on the disk of" in told and "which has 1.0 MiB free" in told
    assert not (tmp_path / "other/checkpoints/one").glob("checkpoint-*") or not list((tmp_path / "other").rglob("*.pt"))


def test_room_is_looked_for_before_each_checkpoint(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(trainer_module, "check_room", lambda folder, needed, what: seen.append((needed, what)))
    monkeypatch.setattr(run_folder, "check_room", lambda folder, needed, what: seen.append((needed, what)))
    run_recipe(load_recipe(recipe))
    (first, _), *later = seen
    assert len(later) == 3 and {what for _, what in later} == {"a checkpoint"}
    size = later[0][0]
    assert first == 3 * size + size // 3


def test_at_sigterm_the_command_writes_a_checkpoint_and_the_same_command_goes_on(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = trainer_module.ContrastiveTrainer.compute_loss
    before = signal.getsignal(signal.SIGTERM)

    def signalled(self, *args, **kwargs):
        if self.state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.ContrastiveTrainer, "compute_loss", signalled)
        assert main([str(recipe)]) == 143
    assert capsys.readouterr().err.splitlines()[-1] == "stopped by SIGTERM; the same command goes on"
    assert signal.getsignal(signal.SIGTERM) == before
    assert Path(last_checkpoint(tmp_path / "run/checkpoints/one")).name == "checkpoint-3"
    assert main([str(recipe)]) == 0
    run_recipe(load_recipe(recipe, [f"output={tmp_path / 'whole'}"]))
    _assert_same(tmp_path / "run", tmp_path / "whole")


def test_killed_runs_leave_what_unkilled_ones_do(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/kill_runs.py", "--kills", "2", "--output", str(tmp_path / "kills")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all" in done.stdout and "to the bit" in done.stdout
