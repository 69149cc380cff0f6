"""The product codes of a stage's bank, made once before it, and the quantizer that a run leaves beside its adapter."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mllm_embed import MLLMEmbedder
from mllm_embed.files import atomic_file
from mllm_embed.index.jpq.quantizer import QUANTIZER_FILE, TunedQuantizer
from mllm_embed.saving.checkpoint import adapter_fingerprint
from mllm_embed.saving.identity import adapter_settings
from mllm_embed.saving.provenance import SPACE_FIELDS

from ..distributed.gathering import agreed
from ..loss.jpq import Codes
from ..recipe.config import Recipe
from ..recipe.start import start_folder
from .bank import Bank

_TUNED_FILE = "tuned.safetensors"


def stage_start(recipe: Recipe, stage: str) -> Path | None:
    """Return the folder of the adapter with which a stage starts; None for a new one, which changes no vector yet."""
    names = list(recipe.stages)
    return recipe.output / names[names.index(stage) - 1] if stage != names[0] else start_folder(recipe)


def gallery_space(embedder: MLLMEmbedder, start: Path | None) -> dict[str, Any]:
    """Return, by `SPACE_FIELDS`, what makes the vectors that a stage's queries are to find: its model as it starts,
    with the adapter in the folder `start`."""
    settings = embedder.settings
    if start:
        settings = replace(settings, adapter=adapter_fingerprint(start), adapter_settings=adapter_settings(start))
    provenance = embedder.with_settings(settings).provenance
    return {key: provenance[key] for key in SPACE_FIELDS}


def learned_codes(bank: Bank, count: int, space: dict[str, Any], home: Path, device: torch.device) -> TunedQuantizer:
    """Return the quantizer, codes of `count` bytes, that FAISS learns of a bank: once for a run, by its first process.

    Raise ConfigError where the bytes do not divide a vector, DataError for a damaged file in `home`.
    """
    path = home / QUANTIZER_FILE

    def learn() -> int:
        if not path.is_file():
            tqdm.write(f"{home.name}  learns codes of {count} bytes for {len(bank.vectors):,} candidates")
            replace(TunedQuantizer.learn(bank.vectors.cpu().numpy(), count), space=space).save(path)
        return 0

    agreed(learn, device)
    return TunedQuantizer.read(path, f"remove {home} to train the stage again")


def codes_of(quantizer: TunedQuantizer, bank: Bank, device: torch.device) -> Codes:
    """Return the codes of a bank as the loss takes them."""
    codes = torch.from_numpy(quantizer.codes(bank.vectors.cpu().numpy())).long()
    return Codes(codes.to(device), torch.from_numpy(quantizer.rotation).to(device))


def tuned(home: Path, centroids: Tensor) -> TunedQuantizer:
    """Return the quantizer of a stage with the centroids that it has trained, and write it to the stage's `home`."""
    learned = TunedQuantizer.read(home / QUANTIZER_FILE, f"remove {home} to train the stage again")
    quantizer = replace(learned, scored=centroids.detach().float().cpu().numpy().copy())
    quantizer.save(home / _TUNED_FILE)
    return quantizer


def leave_quantizer(home: Path, adapter: Path) -> None:
    """Copy the tuned quantizer of a stage beside its adapter where it is not yet: a run may be killed between."""
    if (home / _TUNED_FILE).is_file() and not (adapter / QUANTIZER_FILE).is_file():
        with atomic_file(adapter / QUANTIZER_FILE) as temporary:
            shutil.copyfile(home / _TUNED_FILE, temporary)
