"""The folder of a run: run.json says what made it, one adapter folder a stage, checkpoints of the stage under way."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Collection, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from mllm_embed.errors import ConfigError
from mllm_embed.files import check_space, read_json, write_json
from mllm_embed.model.lora import ADAPTER_CONFIG
from mllm_embed.saving.provenance import changes
from mllm_embed.saving.versions import versions

from ..recipe.form import GUIDE_PRESET, GUIDE_PROMPTS
from ..recipe.recipe_files import validated
from ..recipe.run_keys import RunKeys
from .checkpoints import CHECKPOINT, KEPT_CHECKPOINTS, adapter_bytes, checkpoint_bytes, clear

RUN_FILE = "run.json"
_GIT_SECONDS = 10
_SINCE = (GUIDE_PRESET, GUIDE_PROMPTS)  # what older runs did not note: the recipe alone says that they had it
_LENGTH = re.compile(r"stages\.([^.]+)\.(?:steps|epochs): ")


def check_output(recipe: RunKeys, data: dict[str, str]) -> list[str]:
    """Return the stages of `recipe` that are finished in its output folder, in order.

    A stage that was given more steps since is not: it goes on from its last checkpoint. `data` maps to its fingerprint
    each data folder, "teacher", and each preset and file of prompts. Raise ConfigError when the folder holds something
    else: a file, a damaged run.json, a run of another recipe or on other data, a later stage without the one before it,
    or one that went on from a stage that is to train more.
    """
    output = recipe.output
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output: {output} is a file; give a folder")
    path = output / RUN_FILE
    record = read_record(path, _described(recipe, data)) if path.is_file() else None
    known = record["more_steps"] if record else {}
    finished = list(
        takewhile(lambda name: _is_finished(output / name) and not _grown(recipe, name, known), recipe.stages)
    )
    names = list(recipe.stages)
    if len(finished) < len(names):
        _check_rest(recipe, names[len(finished)], names[len(finished) + 1 :])
    return finished


def _grown(recipe: RunKeys, name: str, known: dict[str, list[int]]) -> bool:
    """Return whether a stage has more steps than its adapter was trained for."""
    return name in known and known[name] != recipe.stages[name].more_steps


def _check_rest(recipe: RunKeys, name: str, later: Sequence[str]) -> None:
    """Raise ConfigError where a stage after `name`, the next to train, has begun: it went on from an adapter that is
    gone, or will be; and where `name` is to train more, and what it would go on from is gone."""
    is_trained, key = _is_finished(recipe.output / name), f"stages.{name}.more_steps"
    for other in later:
        if not (_is_finished(recipe.output / other) or _has_checkpoints(recipe, other)):
            continue
        both = f"{recipe.output / other} and {recipe.checkpoints_of(other)}"
        if not is_trained:
            raise ConfigError(f"{recipe.output} holds stage '{other}' but not '{name}' before it; remove {both}")
        raise ConfigError(
            f"{key}: stage '{other}' went on from it already; give more_steps to the last stage that was trained, or "
            f"remove {both} to train that one anew after it"
        )
    if is_trained and not _has_checkpoints(recipe, name):
        raise ConfigError(
            f"{key}: the stage goes on from its last checkpoint, and there is none in {recipe.checkpoints_of(name)}; "
            f"train a new run from its adapter (adapter: {recipe.output / name}), or leave more_steps out"
        )


def _has_checkpoints(recipe: RunKeys, name: str) -> bool:
    return any(recipe.checkpoints_of(name).glob(f"{CHECKPOINT}*"))


def write_run(recipe: RunKeys, data: dict[str, str]) -> None:
    """Write run.json where there is none yet, where a stage was given more steps since, and where it was written by a
    version that noted less."""
    path, described = recipe.output / RUN_FILE, _described(recipe, data)
    if not path.is_file():
        made = {"commit": _commit(), "versions": versions(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        write_json(path, described | made)
        return
    record = read_record(path, described)
    if record["recipe"]["stages"] != described["recipe"]["stages"] or record["data"] != data:
        write_json(path, record | described)


def write_finished(recipe: RunKeys, name: str) -> None:
    """Note in run.json that a stage's adapter has all the steps of the recipe."""
    path = recipe.output / RUN_FILE
    record = read_json(path, f"remove {path.parent}")
    if record.get("more_steps", {}).pop(name, None) is not None:
        write_json(path, record)


def clear_leftovers(recipe: RunKeys) -> None:
    """Remove what a process that was killed left half-written."""
    for pattern in (".*.tmp", *(f".{name}-*" for name in recipe.stages)):
        for path in recipe.output.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in recipe.stages:
        home = recipe.checkpoints_of(name)
        clear(home)
        for path in (*home.glob(".*.tmp"), *home.glob(".best-*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def check_stage_space(recipe: RunKeys, stage: str, trainable: Collection[Tensor]) -> None:
    """Raise DataError where the output's disk has no room for what a stage and those after it will yet write there.

    That is as many checkpoints as are kept and the one that is written beside them, less those that are there, and an
    adapter for each stage.
    """
    home, stages = recipe.checkpoints_of(stage), list(recipe.stages)
    size = checkpoint_bytes(trainable, recipe.stages[stage].optimizer)
    there = sum(path.stat().st_size for path in home.glob(f"{CHECKPOINT}*/*"))
    adapters = len(stages) - stages.index(stage)
    needed = max((KEPT_CHECKPOINTS + 1) * size - there, size) + adapters * adapter_bytes(trainable)
    check_space(recipe.output, needed, f"stage '{stage}' (its checkpoints and the adapters)")


def _is_finished(stage: Path) -> bool:
    return (stage / ADAPTER_CONFIG).is_file()


def _described(recipe: RunKeys, data: dict[str, str]) -> dict[str, Any]:
    # what may differ when a run goes on: it changes nothing of what is trained
    described = recipe.model_dump_json(
        exclude={"output": True, "workers": True, "trained_on": True, "stages": {"__all__": {"max_unreadable"}}}
    )
    return {"recipe": json.loads(described), "data": data}


def _completed(before: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded recipe with the defaults of keys that are younger than it, which mean what was always done."""
    try:
        recipe = validated(before | {"output": "."})
    except ValidationError:  # of a version with other keys: what differs is told
        return before
    completed: dict[str, Any] = _described(recipe, {})["recipe"]
    return completed


def read_record(path: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return what a run.json records, with "more_steps" by stage for which its adapter is trained, if it is.

    Raise ConfigError for one that is damaged, or says that the folder holds another run than `wanted`.
    """
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        trained = {name: stage.get("more_steps", []) for name, stage in recorded["recipe"]["stages"].items()}
        trained |= recorded.get("more_steps", {})
        before = _without_growth(_completed(recorded["recipe"]), wanted["recipe"])
        changed = list(changes(before, wanted["recipe"]))
        other_data = _other_data(recorded["data"], wanted["data"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged; remove {path.parent} or choose another output") from error
    if changed or other_data:
        recipe, other = "; ".join(changed[:3]), ", ".join(other_data[:3])
        why = f"of another recipe ({recipe})" if changed else f"on data that has changed since ({other})"
        raise ConfigError(
            f"{path.parent} holds a run {why}; choose another output or remove that folder{_cure(changed)}"
        )
    return recorded | {"more_steps": trained}


def _other_data(noted: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return the names of the data that is not what a run noted, but for what runs did not note when it was made."""
    unnoted = {name for name in now.keys() - noted.keys() if name.startswith(_SINCE)}
    changed = [name for name, digest in now.items() if noted.get(name) != digest and name not in unnoted]
    return changed + list(noted.keys() - now.keys())


def _without_growth(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded recipe with the more_steps of the one that goes on, where they only have entries more."""
    stages = {name: dict(stage) for name, stage in before["stages"].items()}
    for name in stages.keys() & now["stages"].keys():
        old, new = stages[name].get("more_steps", []), now["stages"][name]["more_steps"]
        if new[: len(old)] == old:
            stages[name]["more_steps"] = new
    return before | {"stages": stages}


def _cure(changed: Sequence[str]) -> str:
    """Return what to do for a run that was to be longer, empty for any other change."""
    longer = next((found for found in map(_LENGTH.match, changed) if found), None)
    return f", or train it on as it was, with stages.{longer[1]}.more_steps=[STEPS]" if longer else ""


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
