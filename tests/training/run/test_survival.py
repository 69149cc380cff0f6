"""What a run survives: a kill at any moment, damage, a full disk, a scheduler's SIGTERM."""

from __future__ import annotations

import hashlib
import json
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

from mllm_embed.errors import DataError, ModelError
from mllm_embed.training.cli import main
from mllm_embed.training.recipe.recipe_files import load_recipe
from mllm_embed.training.run import checkpoints, run_folder, stage_run
from mllm_embed.training.run import trainer as trainer_module
from mllm_embed.training.run.checkpoints import is_whole, last_checkpoint
from mllm_embed.training.run.stage import stage_trainer
from mllm_embed.training.run.stages import run_recipe
from tiny import make_data

ROOT = Path(__file__).resolve().parents[3]
TERMS = [
    {"query": "composed", "positive": "target_image", "negatives": ["query_image"]},
    {"query": "composed", "positive": "target_text", "negatives": ["source_text"], "bank": True},
]


@pytest.fixture(scope="module")
def recipe(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that a run keeps from one step to the next: dropout, AdamW, a learned temperature, a bank, chunks."""
    folder = tmp_path_factory.mktemp("survival")
    stage = {
        "data": str(make_data(folder / "halves")), "rows": "triplets", "batch_size": 4, "steps": 5, "save_steps": 2,
        "learning_rate": 1e-2, "chunk_tokens": 60, "learn_temperature": [0.01, 0.2], "terms": TERMS,
    }  # fmt: skip
    values = {
        "model": str(tiny_llava), "output": str(folder / "whole"), "bf16": False, "stages": {"one": stage},
        "lora": {"rank": 4, "dropout": 0.1},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Path:
    """The folder of a run that nothing happened to."""
    return run_recipe(load_recipe(recipe)).parent


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


@pytest.mark.slow
def test_a_stopped_run_keeps_everything_between_two_steps(
    recipe: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = load_recipe(recipe, [f"output={tmp_path / 'run'}", "workers=1"])
    with monkeypatch.context() as patch:
        _stop_at(patch, 3)
        with pytest.raises(_Stop):
            run_recipe(stopped)
    assert last_checkpoint(tmp_path / "run/checkpoints/one").name == "checkpoint-2"
    run_recipe(stopped)
    _assert_same(whole, tmp_path / "run")


@pytest.mark.slow
def test_a_stopped_run_goes_on_within_an_epoch_of_accumulated_batches(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stage_run.TrainingArguments
    monkeypatch.setattr(stage_run, "TrainingArguments", lambda **values: real(**values, gradient_accumulation_steps=2))
    run_recipe(load_recipe(recipe, [f"output={tmp_path / 'whole'}"]))
    stopped = load_recipe(recipe, [f"output={tmp_path / 'run'}"])
    with monkeypatch.context() as patch:
        _stop_at(patch, 3)
        with pytest.raises(_Stop):
            run_recipe(stopped)
    run_recipe(stopped)
    _assert_same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
def test_damage_at_the_last_checkpoint_is_passed_over(
    recipe: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "run/checkpoints/one"
    stopped = load_recipe(recipe, [f"output={tmp_path / 'run'}"])
    with monkeypatch.context() as patch:
        _stop_at(patch, 4)
        with pytest.raises(_Stop):
            run_recipe(stopped)
    assert sorted(path.name for path in home.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    content = (home / "checkpoint-4/optimizer.pt").read_bytes()
    for damage in (content[:-9], content[:1] + bytes([content[1] ^ 1]) + content[2:]):
        (home / "checkpoint-4/optimizer.pt").write_bytes(damage)
        assert last_checkpoint(home) == home / "checkpoint-2"
        assert "checkpoint-4 is damaged" in capsys.readouterr().err
    for missing in ("rng_state.pth", "seal.json"):
        shutil.copytree(home / "checkpoint-2", tmp_path / missing)
        (tmp_path / missing / missing).unlink()
        assert is_whole(home / "checkpoint-2") and not is_whole(tmp_path / missing)
    run_recipe(stopped)
    _assert_same(whole, tmp_path / "run")


@pytest.mark.parametrize("part", ["optimizer.pt", "scheduler.pt"])
def test_a_checkpoint_of_a_version_with_other_groups_is_named_with_the_cure(
    part: str, recipe: Path, whole: Path, tmp_path: Path
) -> None:
    """As they were before the temperature had a rate of its own."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "one")
    home = run / "checkpoints" / "one"
    last = last_checkpoint(home)
    assert last is not None
    state = torch.load(last / part, weights_only=True)
    if part == "optimizer.pt":
        *groups, temperature = state["param_groups"]
        groups[-1]["params"] += temperature["params"]
        state["param_groups"] = groups
    else:
        state["base_lrs"] = state["base_lrs"][:-1]
    torch.save(state, last / part)
    seal = json.loads((last / "seal.json").read_text())
    (last / "seal.json").write_text(json.dumps(seal | {part: hashlib.sha256((last / part).read_bytes()).hexdigest()}))
    with pytest.raises(ModelError, match=f"{last} is of a version .* that {run}/run.json names, or remove {home} to"):
        run_recipe(load_recipe(recipe, [f"output={run}"]))
    assert is_whole(last)


def test_a_run_killed_between_its_last_step_and_its_adapter_trains_no_further(
    recipe: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    shutil.rmtree(run / "one")
    for left in (".one-x1/new", "checkpoints/one/.unfinished/checkpoint-5"):
        (run / left).mkdir(parents=True)
    (run / ".run.json.1.tmp").write_text("")
    _stop_at(monkeypatch, 5)
    run_recipe(load_recipe(recipe, [f"output={run}"]))
    _assert_same(whole, run)
    assert not list(run.rglob(".*"))


FULL = OSError(28, "No space left on device")
TORCH_FULL = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 41344 vs 41232")  # a full tmpfs


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "before", "error"), [("save_file", 1, FULL), ("torch.save", 5, TORCH_FULL)])
def test_a_disk_that_fills_up_in_a_checkpoint_leaves_the_one_before(
    recipe: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str, before: int, error
) -> None:
    """`before`: how often it writes until the second checkpoint."""
    real, calls = (torch.save if victim == "torch.save" else stage_trainer.save_file), []

    def write(*args, **kwargs):
        calls.append(args)
        if len(calls) > before:
            raise error
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("torch.save" if victim == "torch.save" else f"{stage_trainer.__name__}.{victim}", write)
        with pytest.raises(DataError, match=r"cannot write .*checkpoint-4 \(.*\); make room and start") as told:
            run_recipe(load_recipe(recipe, [f"output={tmp_path / 'run'}"]))
    assert "\n" not in str(told.value)
    home = tmp_path / "run/checkpoints/one"
    assert last_checkpoint(home) == home / "checkpoint-2" and not list(home.glob(".unfinished"))
    run_recipe(load_recipe(recipe, [f"output={tmp_path / 'run'}"]))
    _assert_same(whole, tmp_path / "run")


def test_a_checkpoint_takes_what_is_said(whole: Path) -> None:
    last = whole / "checkpoints/one/checkpoint-5"
    real = sum(path.stat().st_size for path in last.iterdir())
    said = checkpoints.checkpoint_bytes(load_file(last / "trainable.safetensors").values(), "adamw")
    assert real <= said < real + checkpoints.OVERHEAD


def test_a_stage_without_room_for_its_checkpoints_does_not_start(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 2**20, 2**20)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: usage)
    assert main([str(recipe), "--override", f"output={tmp_path / 'run'}"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: stage 'one'") and "MiB on the disk of" in told and "which has 1.0 MiB free" in told
    assert not list((tmp_path / "run").rglob("*.pt"))


def test_room_is_looked_for_before_each_checkpoint(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for module in (stage_trainer, run_folder):
        monkeypatch.setattr(module, "check_space", lambda folder, needed, what: seen.append((needed, what)))
    run_recipe(load_recipe(recipe, [f"output={tmp_path / 'run'}"]))
    (first, _), *later = seen
    assert [what for _, what in later] == ["a checkpoint"] * 3
    size = later[0][0]
    assert first == 3 * size + (size - checkpoints.OVERHEAD) // 3 + checkpoints.OVERHEAD  # AdamW keeps two moments


@pytest.mark.slow
def test_at_sigterm_the_command_writes_a_checkpoint_and_the_same_command_goes_on(
    recipe: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = trainer_module.ContrastiveTrainer.compute_loss
    command = [str(recipe), "--override", f"output={tmp_path / 'run'}"]

    def signalled(self, *args, **kwargs):
        if self.state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **kwargs)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.ContrastiveTrainer, "compute_loss", signalled)
        assert main(command) == 143
    assert "stopped by SIGTERM; the same command goes on\n" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before
    assert last_checkpoint(tmp_path / "run/checkpoints/one").name == "checkpoint-3"
    assert main(command) == 0
    _assert_same(whole, tmp_path / "run")


@pytest.mark.skipif("SLOW_TESTS" not in os.environ, reason="a minute of starting processes: set SLOW_TESTS=1")
def test_killed_runs_leave_what_unkilled_ones_do(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/kill_runs.py", "--kills", "2", "--output", str(tmp_path / "kills")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "to the bit" in done.stdout
