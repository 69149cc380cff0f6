"""What the runs of every recipe do before, around and after their stages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from mllm_embed.errors import ConfigError, MLLMEmbedError
from mllm_embed.locks import folder_lock
from mllm_embed.model.devices import bfloat16_pays, device_for
from mllm_embed.model.embedding_model import EmbeddingModel
from mllm_embed.model.lora import ADAPTER_CONFIG
from mllm_embed.saving.checkpoint import adapter_fingerprint
from mllm_embed.saving.hub import small_files

from ...recipe.checks import first_process
from ...recipe.run_keys import RunKeys
from ...report.leaks import RunRecord
from ...report.report import write_report
from ...report.run_log import LOG_FILE
from ..run_folder import clear_leftovers, write_run


def choose_device() -> torch.device:
    """Return the device of this process, which torch and DeepSpeed are told."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))  # or every process would load onto the first GPU
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed, where it is installed, warns of a CPU
    return device_for()


def trains_in_bf16(recipe: RunKeys) -> bool:
    """Return whether a run computes under bfloat16 autocast."""
    return bfloat16_pays(device_for()) if recipe.bf16 == "auto" else recipe.bf16


def set_attention(recipe: RunKeys, model: EmbeddingModel) -> None:
    """Give a model the attention kernel of its recipe. Raise ConfigError for one that does not work here."""
    try:
        model.set_attention(recipe.attention)
    except (ImportError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"attention: '{recipe.attention}' does not work here ({reason})") from error


def start_fingerprint(recipe: RunKeys) -> dict[str, str]:
    """Return, for the adapter to go on from, what changes with its tensors: a run that was stopped needs the same."""
    folder = small_files(recipe.adapter or recipe.model)
    return {"adapter": adapter_fingerprint(folder)} if (Path(folder) / ADAPTER_CONFIG).is_file() else {}


@contextmanager
def held_output(recipe: RunKeys, fingerprints: dict[str, str], record: RunRecord | None = None) -> Iterator[None]:
    """Hold the output folder against other runs within, cleared and described, in the process that writes it."""
    if not first_process():
        yield
        return
    with folder_lock(recipe.output):
        clear_leftovers(recipe)
        write_run(recipe, fingerprints)
        if record:
            record.keep()
        yield


@contextmanager
def reported(recipe: RunKeys, stage: str) -> Iterator[None]:
    """Draw and sum up a stage that is trained within, also where that goes wrong."""
    try:
        yield
    except MLLMEmbedError:
        with suppress(MLLMEmbedError):  # nothing to draw is not what the user must hear of
            _report(recipe, stage)
        raise
    _report(recipe, stage)


def _report(recipe: RunKeys, stage: str) -> None:
    if first_process() and (recipe.output / LOG_FILE).is_file():
        lines = write_report(recipe.output)
        print("\n".join(line for line in lines if line.startswith(f"{stage}:")))
