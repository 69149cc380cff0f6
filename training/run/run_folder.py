"""The folder of a run: run.json says what made it, one adapter folder a stage, checkpoints of the stage under way."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any

from torch import Tensor

from mllm_embed.errors import ConfigError
from mllm_embed.files import check_space, write_json
from mllm_embed.model.lora import ADAPTER_CONFIG
from mllm_embed.saving.provenance import changes
from mllm_embed.saving.versions import versions

from ..recipe.config import Recipe
from .checkpoints import CHECKPOINT, KEPT_CHECKPOINTS, checkpoint_bytes, clear

RUN_FILE = "run.json"
_GIT_SECONDS = 10


def check_output(recipe: Recipe, data: dict[str, str]) -> list[str]:
    """Return the stages of `recipe` that are finished in its output folder, in order.

    `data` maps to its fingerprint each data folder, "teacher", and each preset and file of prompts. Raise ConfigError
    when the folder holds something else: a file, a damaged run.json, a run of another recipe or on other data, a later
    stage without the one before it.
    """
    output = recipe.output
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output: {output} is a file; give a folder")
    path = output / RUN_FILE
    if path.is_file():
        _check_same(path, _described(recipe, data))
    finished = list(takewhile(lambda name: _is_finished(output / name), recipe.stages))
    # each stage goes on from the one before it: one beyond a gap was trained from an adapter that is gone
    for name in list(recipe.stages)[len(finished) :]:
        if _is_finished(output / name):
            missing = list(recipe.stages)[len(finished)]
            raise ConfigError(f"{output} holds stage '{name}' but not '{missing}' before it; remove {output / name}")
    return finished


def write_run(recipe: Recipe, data: dict[str, str]) -> None:
    """Write run.json where there is none yet."""
    if not (recipe.output / RUN_FILE).is_file():
        record = {"commit": _commit(), "versions": versions(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        write_json(recipe.output / RUN_FILE, _described(recipe, data) | record)


def clear_leftovers(recipe: Recipe) -> None:
    """Remove what a process that was killed left half-written."""
    for pattern in (".*.tmp", *(f".{name}-*" for name in recipe.stages)):
        for path in recipe.output.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in recipe.stages:
        home = recipe.checkpoints_of(name)
        clear(home)
        for path in (*home.glob(".*.tmp"), *home.glob(".best-*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def check_stage_space(recipe: Recipe, stage: str, trainable: Iterable[Tensor]) -> None:
    """Raise DataError where the output's disk has no room for what a stage and those after it will yet write there.

    That is as many checkpoints as are kept and the one that is written beside them, less those that are there, and an
    adapter for each stage.
    """
    home, stages = recipe.checkpoints_of(stage), list(recipe.stages)
    size = checkpoint_bytes(trainable)
    there = sum(path.stat().st_size for path in home.glob(f"{CHECKPOINT}*/*"))
    adapters = len(stages) - stages.index(stage)
    # an adapter is a third of a checkpoint, which holds two moments beside it
    needed = max((KEPT_CHECKPOINTS + 1) * size - there, size) + adapters * (size // 3)
    check_space(recipe.output, needed, f"stage '{stage}' (its checkpoints and the adapters)")


def _is_finished(stage: Path) -> bool:
    return (stage / ADAPTER_CONFIG).is_file()


def _described(recipe: Recipe, data: dict[str, str]) -> dict[str, Any]:
    # what may differ when a run goes on: it changes nothing of what is trained
    described = recipe.model_dump_json(
        exclude={"output": True, "workers": True, "stages": {"__all__": {"max_unreadable"}}}
    )
    return {"recipe": json.loads(described), "data": data}


def _check_same(path: Path, wanted: dict[str, Any]) -> None:
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        changed = list(changes(recorded["recipe"], wanted["recipe"]))
        other_data = [name for name in wanted["data"] if recorded["data"].get(name) != wanted["data"][name]]
        other_data += recorded["data"].keys() - wanted["data"].keys()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged; remove {path.parent} or choose another output") from error
    if changed or other_data:
        recipe, other = "; ".join(changed[:3]), ", ".join(other_data[:3])
        why = f"of another recipe ({recipe})" if changed else f"on data that has changed since ({other})"
        raise ConfigError(f"{path.parent} holds a run {why}; choose another output or remove that folder")


def _commit() -> str | None:
    """Return the commit of the clone that this file is part of; None for an installed package."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists() or not shutil.which("git"):
        return None
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=here, timeout=_GIT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
