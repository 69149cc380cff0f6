"""The optimiser of a stage: rates of parts, how rates rise and fall, and that each optimiser goes on to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from mllm_embed.errors import ConfigError
from mllm_embed.model.families import Family
from mllm_embed.training.loss.temperature import Temperature
from mllm_embed.training.plan.plan import describe, make_plan
from mllm_embed.training.recipe.config import Recipe
from mllm_embed.training.recipe.optimizers import OPTIMIZERS, state_bytes
from mllm_embed.training.recipe.stage import Stage
from mllm_embed.training.report.run_log import read_log
from mllm_embed.training.run import trainer as trainer_module
from mllm_embed.training.run.checkpoints import checkpoint_bytes
from mllm_embed.training.run.optimizer import parameter_groups, share_at
from mllm_embed.training.run.stages import run_recipe

TERM = {"query": "image", "positive": "caption"}
SCHEDULES = ("cosine", "linear", "constant_with_warmup")


@pytest.fixture
def recipe(tiny_llava: Path, data: Path, tmp_path: Path) -> Callable[..., Recipe]:
    def make(name: str = "run", lora: dict[str, Any] | None = None, **keys: Any) -> Recipe:
        stage = {"data": data, "rows": "pairs", "batch_size": 4, "terms": [TERM], "steps": 4, "save_steps": 1}
        return Recipe(
            model=str(tiny_llava), output=tmp_path / name, bf16=False, lora={"rank": 4, "dropout": 0.0} | (lora or {}),
            stages={"one": stage | {"learning_rate": 1e-3} | keys},
        )  # fmt: skip

    return make


def _lines(run: Path) -> list[dict[str, Any]]:
    return [line for line in read_log(run / "log.jsonl") if "learning_rate" in line]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_step_of_a_run_has_rate_0(recipe: Callable[..., Recipe], tmp_path: Path, schedule: str) -> None:
    """As logged: every step has a line here, since it has a checkpoint."""
    run_recipe(recipe(schedule=schedule, warmup=0.5, steps=5))
    lines = _lines(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    shares = [line["learning_rate"] / 1e-3 for line in lines]
    half = {"cosine": 2 / 3, "linear": 2 / 3, "constant_with_warmup": 1}[schedule]
    last = {"cosine": 1 / 3, "linear": 1 / 3, "constant_with_warmup": 1}[schedule]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1, half, last])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("steps", "warm_up"), [(1, 0), (1, 1), (2, 1), (10, 0), (10, 1), (10, 9), (10, 10), (500, 25)])
def test_rates_rise_to_the_peak_and_fall_to_a_share_of_it(schedule: str, steps: int, warm_up: int) -> None:
    shares = [share_at(schedule, step, steps, warm_up) for step in range(1, steps + 1)]
    peak, length = max(warm_up, 1), steps - max(warm_up, 1) + 1
    assert shares[:peak] == pytest.approx([step / peak for step in range(1, peak + 1)])
    assert shares[peak - 1] == 1 and shares[peak - 1 :] == sorted(shares[peak - 1 :], reverse=True)
    assert shares[-1] == pytest.approx(1 if schedule == "constant_with_warmup" else 1 / length)
    assert min(shares) >= min(1 / peak, 1 / length) - 1e-12


class _Encoder(nn.Module):
    """What Trainer trains, by the names that count: a layer of each part and the temperature."""

    def __init__(self) -> None:
        super().__init__()
        parts = ("language_model", "visual", "merger")
        self.model = nn.ModuleDict({part: nn.Linear(2, 2) for part in parts})
        self.temperature = Temperature(0.05, (0.01, 0.1))


def test_parts_with_a_rate_of_their_own_are_groups_of_their_own(data: Path) -> None:
    keys = {"data": data, "rows": "pairs", "terms": [TERM], "weight_decay": 0.1}
    encoder, decayed = _Encoder(), [f"model.{part}.weight" for part in ("language_model", "visual", "merger")]

    def groups(**more: Any) -> dict[str, tuple[float | None, float, int]]:
        found = parameter_groups(encoder, Stage(**keys, **more), decayed, Family())
        assert [group["name"] for group in found[:2]] == ["", ""]  # as they always were: checkpoints know them by place
        assert sum(len(group["params"]) for group in found) == 7
        return {
            f"{group['name']} {group['weight_decay']:g}": (group.get("lr"), len(group["params"])) for group in found
        }

    learned = {"learn_temperature": [0.01, 0.1]}
    assert groups(**learned) == {" 0.1": (None, 3), " 0": (None, 3), "temperature 0": (0.02, 1)}
    rates = {"temperature": 0.5, "projector": 0.25, "vision": 0.125}
    assert groups(**learned, rates=rates) == {
        " 0.1": (None, 1), " 0": (None, 1), "temperature 0": (0.5, 1),
        "projector 0.1": (0.25, 1), "projector 0": (0.25, 1), "vision 0.1": (0.125, 1), "vision 0": (0.125, 1),
    }  # fmt: skip


def _learned(rate: float, queries: torch.Tensor, targets: torch.Tensor, steps: int = 300) -> float:
    """The temperature that a stage with the default schedule learns on vectors that stay as they are."""
    temperature, draw = Temperature(0.05, (0.01, 0.1)), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(temperature.parameters(), lr=rate, weight_decay=0.0)
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = rate * share_at("cosine", step, steps, math.ceil(0.05 * steps))
        rows = torch.randperm(len(queries), generator=draw)[:64]
        optimizer.zero_grad()
        _loss(queries[rows], targets[rows], temperature()).backward()
        optimizer.step()
    return temperature().item()


def _loss(queries: torch.Tensor, targets: torch.Tensor, temperature: torch.Tensor | float) -> torch.Tensor:
    return F.cross_entropy(queries @ targets.T / temperature, torch.arange(len(queries)))


def test_a_learned_temperature_reaches_its_best_value(data: Path) -> None:
    stage = Stage(data=data, rows="pairs", terms=[TERM], learn_temperature=[0.01, 0.1])
    (group,) = (g for g in parameter_groups(_Encoder(), stage, [], Family()) if g["name"] == "temperature")
    torch.manual_seed(0)
    targets = F.normalize(torch.randn(512, 32), dim=-1)
    queries = F.normalize(targets + 2.5 * torch.randn(512, 32) / 32**0.5, dim=-1)
    batches = list(zip(queries.split(64), targets.split(64), strict=True))
    grid = [0.01 * 1.03**step for step in range(78)]
    best = min(grid, key=lambda value: sum(_loss(*batch, value).item() for batch in batches))
    assert 0.06 < best < 0.09
    assert _learned(group["lr"], queries, targets) == pytest.approx(best, rel=0.05)
    # at the rate of the adapter, which it shared, it stays where it starts
    assert _learned(stage.learning_rate, queries, targets) == pytest.approx(0.05, rel=0.03)


def test_rates_of_parts_are_logged_and_reach_them(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """A part of a vanishing rate stays where it was, beside others that learn."""
    keys = {"learn_temperature": [0.01, 0.1], "schedule": "constant_with_warmup", "warmup": 0.0, "steps": 2}
    still = {"projector": 1e-30, "vision": 1e-30}

    def moved(name: str, rates: dict[str, float]) -> set[str]:
        adapter = run_recipe(recipe(name, lora={"vision": True}, **keys, rates=rates))
        updates = load_file(adapter / "adapter_model.safetensors").items()
        return {key.split(".")[2] for key, tensor in updates if "lora_B" in key and tensor.abs().max() > 1e-9}

    assert moved("own", still) == {"language_model"}
    assert moved("same", {}) == {"language_model", "vision_tower"}
    (line, *_) = _lines(tmp_path / "own")
    assert line["learning_rate"] == 1e-3
    assert {name: line[name] for name in line if name.startswith("learning_rate/")} == {
        "learning_rate/temperature": 0.02, "learning_rate/projector": 1e-30, "learning_rate/vision": 1e-30,
    }  # fmt: skip
    assert {name for name in _lines(tmp_path / "same")[0] if name.startswith("learning_rate/")} == {
        "learning_rate/temperature"
    }


@pytest.mark.parametrize(
    ("lora", "keys", "message"),
    [
        ({}, {"rates": {"temperature": 0.1}}, "the temperature is fixed; give learn_temperature too"),
        ({"projector": False}, {"rates": {"projector": 0.1}}, "lora.projector is false; leave it out"),
    ],
)
def test_a_rate_of_what_does_not_learn_is_refused(
    recipe: Callable[..., Recipe], lora: dict, keys: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(lora=lora, **keys)


def test_a_rate_of_a_tower_that_is_frozen_is_refused(recipe: Callable[..., Recipe]) -> None:
    asked = recipe("never", rates={"vision": 0.1})
    for refuse in (run_recipe, make_plan):
        with pytest.raises(ConfigError, match="the tower is frozen; give lora.vision too"):
            refuse(asked)


class _Stop(Exception):
    pass


@pytest.mark.parametrize("name", ["adamw_8bit", "adafactor", "lion_8bit"])
def test_a_stopped_run_ends_like_an_unstopped_one_and_takes_what_is_planned(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip("bitsandbytes")
    keys = {"optimizer": name, "steps": 2, "learn_temperature": [0.01, 0.1], "max_grad_norm": 0.5}
    whole = load_file(run_recipe(recipe("whole", **keys)) / "adapter_model.safetensors")
    stopped = recipe("stopped", **keys)
    real = trainer_module.ContrastiveTrainer.compute_loss

    def interrupted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 1:
            raise _Stop
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(_Stop):
        patch.setattr(trainer_module.ContrastiveTrainer, "compute_loss", interrupted)
        run_recipe(stopped)
    resumed = load_file(run_recipe(stopped) / "adapter_model.safetensors")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    last = tmp_path / "whole/checkpoints/one/checkpoint-2"
    saved = torch.load(last / "optimizer.pt", weights_only=True)
    trained = load_file(last / "trainable.safetensors").values()
    kept = [value for state in saved["state"].values() for value in _tensors(state)]
    # beside moments: counters of steps, tables of what 8 bits stand for
    small = sum(tensor.nbytes for tensor in kept if tensor.numel() in (1, 256))
    assert 0 <= sum(tensor.nbytes for tensor in kept) - state_bytes(name, [p.shape for p in trained]) <= small
    planned, adamw = (checkpoint_bytes(trained, optimizer) for optimizer in (name, "adamw"))
    assert sum(path.stat().st_size for path in last.iterdir()) <= planned < adamw


def _tensors(state: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors that an optimiser saves of a parameter; bitsandbytes has those of 8 bits in a dict of their own."""
    nested = [value for value in state.values() if isinstance(value, dict)]
    return [value for part in (state, *nested) for value in part.values() if torch.is_tensor(value)]


def test_a_gradient_is_cut_to_max_grad_norm_or_not_at_all(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    real = torch.optim.AdamW.step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients])).item())
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    for name, most in (("short", 0.01), ("free", 0.0)):
        run_recipe(recipe(name, steps=1, max_grad_norm=most))
    told = [_lines(tmp_path / name)[0]["grad_norm"] for name in ("short", "free")]
    assert told[0] == told[1] > 0.01
    assert norms == pytest.approx([0.01, told[1]], rel=1e-3)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"optimizer": "paged_adamw_8bit"}, "moves moments between GPU and RAM, and there is no GPU; take adamw_8bit"),
        ({"optimizer": "paged_adamw_32bit"}, "there is no GPU; take adamw"),
        ({"optimizer": "adafactor", "deepspeed": "zero2"}, "AdamW's alone here; take adamw, or no deepspeed"),
    ],
)
def test_an_optimiser_that_cannot_do_what_it_is_for_is_refused_before_anything_is_loaded(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    deepspeed = keys.pop("deepspeed", None)
    made = recipe(**keys).model_copy(update={"deepspeed": deepspeed, "model": "nobody/nothing"})
    for refuse in (run_recipe, make_plan):
        with pytest.raises(ConfigError, match=message):
            refuse(made)


@pytest.mark.usefixtures("uncounted")
def test_the_plan_counts_what_the_optimiser_keeps(recipe: Callable[..., Recipe]) -> None:
    plans = {}
    for name in ("adamw", "paged_adamw_8bit"):
        made = recipe(optimizer=name, lora={"rank": 64}).model_copy(update={"output": Path("unwritten")})
        plans[name] = make_plan(made, memory=24)
        assert OPTIMIZERS[name].words in describe(made, plans[name])
    adamw, paged = (plan.stages["one"].moments for plan in plans.values())
    assert plans["adamw"].total - plans["paged_adamw_8bit"].total == adamw - paged
    assert adamw == 8 * plans["adamw"].counts.trainable and paged < adamw / 2


def test_what_an_optimiser_keeps_of_a_matrix() -> None:
    """A number of a matrix of 64 x 128, in bytes, as seen in the states of the installed packages."""
    found = {name: optimizer.state_bytes((64, 128)) / 8192 for name, optimizer in OPTIMIZERS.items()}
    assert found == {
        "adamw": 8, "adamw_8bit": 2.03125, "paged_adamw_32bit": 8, "paged_adamw_8bit": 2.03125,
        "adafactor": 0.09375, "lion_32bit": 4, "lion_8bit": 1.015625,
    }  # fmt: skip
