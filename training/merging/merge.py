"""The weighted sum of adapters of one base, written as an ordinary adapter."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mllm_embed.data.trained_on import TRAINED_ON, TrainedOn, record_beside
from mllm_embed.errors import ConfigError, ModelError
from mllm_embed.files import atomic_folder, check_space, write_json
from mllm_embed.model.loading import commit_of, load_model
from mllm_embed.model.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from mllm_embed.saving.base_lookup import base_of
from mllm_embed.saving.card_header import CARD_FILE
from mllm_embed.saving.checkpoint import check_target, model_fingerprint, write_settings
from mllm_embed.saving.model_card import ModelCardInfo, write_card
from mllm_embed.saving.sentence_transformers_files import MODULE_SETTINGS
from mllm_embed.saving.settings import PROCESSOR_FILES, SETTINGS_FILE, Settings, read_object
from mllm_embed.saving.versions import versions

from .adapter_merge import (
    LORA_A,
    LORA_B,
    PEFT_PREFIX,
    Adapter,
    LoraPairs,
    added_pairs,
    added_whole,
    check_alike,
    cut_to_rank,
    needs_base,
    sums_to_1,
)

# What is written anew. All else in the first adapter's folder (processor, prompts) is the same for all, and copied.
_WRITTEN = (ADAPTER_WEIGHTS, ADAPTER_CONFIG, CARD_FILE, SETTINGS_FILE, TRAINED_ON)
_NOT_COPIED = shutil.ignore_patterns(*_WRITTEN, "checkpoint-*")


@dataclass(frozen=True)
class MergedAdapter:
    """A weighted sum of adapters.

    Args:
        adapters, weights: what was added.
        pairs, whole: the sum, as of `Adapter`.
        rank: of the pairs.
        summary: how the updates were added, in a line.
    """

    adapters: Sequence[Adapter]
    weights: Sequence[float]
    pairs: LoraPairs
    whole: dict[str, Tensor]
    rank: int
    summary: str

    def tensors(self) -> dict[str, Tensor]:
        """Return all of it by peft's names, float32."""
        tensors = dict(self.whole)
        for layer, (a, b) in self.pairs.items():
            tensors[layer + LORA_A], tensors[layer + LORA_B] = a, b
        return {name: tensor.float().contiguous() for name, tensor in tensors.items()}

    def settings(self) -> Settings:
        """Return the first adapter's settings, with the lengths at which all of them were trained."""
        lengths = [set(adapter.settings.matryoshka) for adapter in self.adapters]
        common = tuple(sorted(set.intersection(*lengths)))
        return replace(self.adapters[0].settings, matryoshka=common, card=None)

    def config(self) -> dict[str, Any]:
        """Return the first one's, with scale 1, and the layers by name where the adapters were on different ones."""
        targets = [adapter.config.get("target_modules") for adapter in self.adapters]
        saved = {name for adapter in self.adapters for name in adapter.config.get("modules_to_save") or []}
        config = self.adapters[0].config | {
            "r": self.rank, "lora_alpha": self.rank, "use_rslora": False, "lora_dropout": 0.0,
            "rank_pattern": {}, "alpha_pattern": {},
            "modules_to_save": sorted(saved) or None,
        }  # fmt: skip
        if any(target != targets[0] for target in targets):
            config["target_modules"] = sorted(layer.removeprefix(PEFT_PREFIX) for layer in self.pairs)
        return config

    def card(self) -> ModelCardInfo:
        """Return what its model card says: the parts by name, weight, rank and checksum."""
        weighted = zip(self.adapters, self.weights, strict=True)
        parts = {f"adapter {number}": _part(*part) for number, part in enumerate(weighted, 1)}
        made_with = ", ".join(f"{name} {found}" for name, found in versions().items())
        return ModelCardInfo(training={"sum": parts | {"LoRA": self.summary}}, made_with={"versions": made_with})


def merge(
    paths: Sequence[Path], weights: Sequence[float], output: Path, rank: int | None = None, base: str | None = None
) -> list[str]:
    """Write the sum of the adapters in `paths`, each times its weight, to the folder `output`.

    Args:
        paths: adapter folders of one base; one of weight 0 takes no part.
        weights: one for each.
        output: a new folder, or one that holds an earlier save, which is replaced.
        rank: cut the update back to it; None adds exactly.
        base: where the base is, if not where it was at training; read only where the projector needs it.

    Returns what there is to say, a line each. Raises ModelError for adapters that cannot be added, ConfigError for a
    rank that cuts nothing.
    """
    adapters = [Adapter.read(path) for path in paths]
    check_alike(adapters)
    adapters = [adapter for adapter, weight in zip(adapters, weights, strict=True) if weight]
    weights = [weight for weight in weights if weight]
    pairs, merged_rank, summary = _pairs(adapters, weights, rank)
    lines = [summary]
    if not sums_to_1(weights):
        lines.append(f"the weights sum to {sum(weights):g}, not to 1: evaluate what that gives")
    own = _base_tensors(adapters, base) if needs_base(adapters, weights) else None
    whole = added_whole(adapters, weights, own)
    _write(output, MergedAdapter(adapters, weights, pairs, whole, merged_rank, summary))
    return [*lines, f"wrote {output}"]


def check_merge_output(output: Path, adapters: Sequence[Path]) -> None:
    """Raise ModelError for a folder that a sum of `adapters` must not be written to."""
    if any(output.resolve() == path.resolve() for path in adapters):
        raise ModelError(f"{output} is one of the adapters, which the sum would replace; give another --output")
    check_target(output)


def _pairs(adapters: Sequence[Adapter], weights: Sequence[float], rank: int | None) -> tuple[LoraPairs, int, str]:
    """Return the sum of the updates, cut back to `rank` where it is given, its rank, and a line that tells how."""
    whole = sum(adapter.rank for adapter in adapters)
    if rank is None:
        return added_pairs(adapters, weights), whole, f"rank {whole}: the updates are added exactly"
    if rank >= whole:
        raise ConfigError(f"--rank {rank} cuts nothing: the ranks of the adapters sum to {whole}; leave it out")
    pairs, lost, worst = cut_to_rank(added_pairs(adapters, weights), rank)
    summary = f"rank {whole} cut to {rank}: {lost:.2%} of the updates' length is lost, {worst:.2%} in the worst layer"
    return pairs, rank, summary


def _base_tensors(adapters: Sequence[Adapter], base: str | None) -> dict[str, Tensor]:
    """Return the base's own tensors for all that was trained in full, by the adapters' names for them."""
    settings = adapters[0].settings
    name, revision = (base, settings.base_revision) if base else base_of(adapters[0].path)
    model = load_model(name, "auto", revision, None, torch.device("cpu"))
    # the weights are checked, not the name: a sum with another base's projector would load, and be wrong
    if settings.base_fingerprint and model_fingerprint(name, commit_of(name, revision)) != settings.base_fingerprint:
        raise ModelError(
            f"{name} is not the base that the adapters were trained on ({settings.base}); give it: --model"
        )
    state = model.state_dict()
    return {name: state[name.removeprefix(PEFT_PREFIX)] for adapter in adapters for name in adapter.whole}


def _write(output: Path, merged: MergedAdapter) -> None:
    first, tensors, settings = merged.adapters[0].path, merged.tensors(), merged.settings()
    size = 4 * sum(tensor.numel() for tensor in tensors.values()) + _copied_size(first)
    check_space(output, size, "the sum")
    with atomic_folder(output) as folder:
        shutil.copytree(first, folder, dirs_exist_ok=True, ignore=_NOT_COPIED)
        save_file(tensors, folder / ADAPTER_WEIGHTS)
        write_json(folder / ADAPTER_CONFIG, merged.config())
        write_settings(folder, settings, _processor_files(first))
        _write_module_settings(folder, merged.adapters[0], settings)
        write_card(folder, merged.card(), base=settings.base, public=not settings.base_is_folder)
        _write_trained_on(folder, merged.adapters)


def _write_trained_on(folder: Path, adapters: Sequence[Adapter]) -> None:
    """Write what any of the adapters was trained on, where that is known of one."""
    records = {adapter.path: record_beside(adapter.path) for adapter in adapters}
    known = [record for record in records.values() if record]
    if known:
        unknown = TrainedOn(unknown=tuple(path.name for path, record in records.items() if record is None))
        TrainedOn.joined([*known, unknown]).save(folder / TRAINED_ON)


def _copied_size(folder: Path) -> int:
    """Return the bytes of what is copied from an adapter's folder."""
    names = {path.name for path in folder.iterdir()}
    copied = [folder / name for name in names - _NOT_COPIED(str(folder), list(names))]
    return sum(file.stat().st_size for path in copied for file in (path, *path.rglob("*")) if file.is_file())


def _processor_files(adapter: Path) -> list[str]:
    """Return the names of the processor's files that were saved with an adapter; none where they are not known."""
    return read_object(adapter / SETTINGS_FILE).get(PROCESSOR_FILES, [])


def _write_module_settings(folder: Path, first: Adapter, settings: Settings) -> None:
    """Write `settings` into those of sentence-transformers, which hold ours a second time.

    Raises ModelError for a first adapter that has none, being older: it would load there in silence, and be wrong.
    """
    path = folder / MODULE_SETTINGS
    if not path.is_file():
        raise ModelError(
            f"{first.path} was saved by an earlier version, without files for sentence-transformers; save it again: "
            "MLLMEmbedder.from_pretrained(...).save_pretrained(...)"
        )
    values = json.loads(path.read_text(encoding="utf-8"))
    values["processing_kwargs"]["chat_template"]["mllm_embed"] = settings.to_dict()
    write_json(path, values)


def _part(adapter: Adapter, weight: float) -> str:
    """Return how the card names a part."""
    digest = hashlib.sha256((adapter.path / ADAPTER_WEIGHTS).read_bytes()).hexdigest()[:12]
    return f"{weight:g} x {adapter.path.resolve().name} (rank {adapter.rank}, sha256 {digest})"
