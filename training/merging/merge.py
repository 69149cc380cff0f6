"""The weighted sum of adapters of one base, written as an ordinary adapter.

Wortsman et al. (arXiv 2203.05482), who average whole models, call such a sum a soup.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_embed.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from .adapter_merge import Adapter

SETTINGS_INSIDE = "sentence_bert_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_config.json", "README.md", "mllm_embed.json")


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
    from .adapter_merge import Adapter, added_pairs, added_whole, check_alike, cut_to_rank, needs_base

    adapters = [Adapter.read(path) for path in paths]
    check_alike(adapters)
    kept = [(adapter, weight) for adapter, weight in zip(adapters, weights, strict=True) if weight]
    adapters, weights = [adapter for adapter, _ in kept], [weight for _, weight in kept]
    whole = sum(adapter.config["r"] for adapter in adapters)
    if rank is not None and rank >= whole:
        raise ConfigError(f"--rank {rank} cuts nothing: the ranks of the adapters sum to {whole}; leave it out")
    pairs = added_pairs(adapters, weights)
    said = [f"rank {whole}: the updates are added exactly"]
    if rank is not None:
        pairs, lost, worst = cut_to_rank(pairs, rank)
        said = [
            f"rank {whole} cut to {rank}: {lost:.2%} of the updates' length is lost, {worst:.2%} in the worst layer"
        ]
    if abs(sum(weights) - 1) > 1e-9:
        said.append(f"the weights sum to {sum(weights):g}, not to 1: evaluate what that gives")
    own = _base_tensors(adapters, base) if needs_base(adapters, weights) else None
    _write(output, adapters, weights, pairs, added_whole(adapters, weights, own), rank or whole, said[0])
    return [*said, f"wrote {output}"]


def check_output(output: Path, adapters: Sequence[Path]) -> None:
    """Raise ModelError or ConfigError for a folder that a sum of `adapters` must not be written to."""
    from mllm_embed.saving.checkpoint import check_target

    if any(output.resolve() == path.resolve() for path in adapters):
        raise ModelError(f"{output} is one of the adapters, which the sum would replace; give another --output")
    check_target(output)


def _base_tensors(adapters: Sequence[Adapter], base: str | None) -> dict[str, Tensor]:
    """The base's own tensors for all that was trained in full, by the adapters' names for them."""
    import torch

    from mllm_embed.model.loading import commit_of, load_model
    from mllm_embed.saving.checkpoint import model_fingerprint

    from .adapter_merge import PREFIX

    settings = adapters[0].settings
    name = base or settings.base or ""
    revision = settings.base_revision
    model = load_model(name, "auto", revision, None, torch.device("cpu"))
    if settings.base_fingerprint and model_fingerprint(name, commit_of(name, revision)) != settings.base_fingerprint:
        raise ModelError(
            f"{name} is not the base that the adapters were trained on ({settings.base}); give it: --model"
        )
    state = model.state_dict()
    return {n: state[n.removeprefix(PREFIX)] for adapter in adapters for n in adapter.whole}


def _write(
    output: Path,
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    pairs: dict[str, tuple[Tensor, Tensor]],
    whole: dict[str, Tensor],
    rank: int,
    told: str,
) -> None:
    """What the first adapter's folder holds beside its weights (processor, prompts) is the same for all."""
    from safetensors.torch import save_file

    from mllm_embed.files import atomic_folder, check_space, write_json
    from mllm_embed.saving.model_card import ModelCardInfo, write_card
    from mllm_embed.saving.settings import SETTINGS_FILE
    from mllm_embed.saving.versions import versions

    first = adapters[0]
    trained = [set(adapter.settings.matryoshka) for adapter in adapters]
    settings = replace(first.settings, matryoshka=tuple(sorted(set.intersection(*trained))), card=None)
    tensors = {
        f"{layer}.lora_{part}.weight": t for layer, both in pairs.items() for part, t in zip("AB", both, strict=True)
    }
    left = shutil.ignore_patterns(*WEIGHTS, "checkpoint-*")
    kept = [path for path in first.path.iterdir() if path.name not in left(first.path, [path.name])]
    files = [file for path in kept for file in (path, *path.rglob("*")) if file.is_file()]
    numbers = sum(tensor.numel() for tensor in (tensors | whole).values())
    check_space(output, 4 * numbers + sum(file.stat().st_size for file in files), "the sum")
    with atomic_folder(output) as folder:
        shutil.copytree(first.path, folder, dirs_exist_ok=True, ignore=left)
        save_file({n: t.float().contiguous() for n, t in (tensors | whole).items()}, folder / WEIGHTS[0])
        write_json(folder / "adapter_config.json", _config(adapters, pairs, rank))
        write_json(folder / SETTINGS_FILE, settings.to_dict())
        _settings_inside(folder, settings.to_dict())
        parts = {f"adapter {n}": _part(a, w) for n, (a, w) in enumerate(zip(adapters, weights, strict=True), 1)}
        info = ModelCardInfo(
            training={"sum": parts | {"LoRA": told}},
            made_with={"versions": ", ".join(f"{name} {found}" for name, found in versions().items())},
        )
        write_card(folder, info, base=settings.base, public=not settings.base_is_folder)


def _config(adapters: Sequence[Adapter], pairs: dict[str, Any], rank: int) -> dict[str, Any]:
    """The first one's, with scale 1, and the layers by name where the adapters were on different ones."""
    from .adapter_merge import PREFIX

    targets = [adapter.config.get("target_modules") for adapter in adapters]
    saved = {name for adapter in adapters for name in adapter.config.get("modules_to_save") or []}
    config = adapters[0].config | {"r": rank, "lora_alpha": rank, "use_rslora": False, "lora_dropout": 0.0}
    config["modules_to_save"] = sorted(saved) or None
    if any(target != targets[0] for target in targets):
        config["target_modules"] = sorted(layer.removeprefix(PREFIX) for layer in pairs)
    return config


def _settings_inside(folder: Path, settings: dict[str, Any]) -> None:
    """sentence-transformers' settings hold ours a second time."""
    path = folder / SETTINGS_INSIDE
    if path.is_file():
        from mllm_embed.files import write_json

        values = json.loads(path.read_text(encoding="utf-8"))
        values["processing_kwargs"]["chat_template"]["mllm_embed"] = settings
        write_json(path, values)


def _part(adapter: Adapter, weight: float) -> str:
    digest = hashlib.sha256((adapter.path / WEIGHTS[0]).read_bytes()).hexdigest()[:12]
    return f"{weight:g} x {adapter.path.resolve().name} (rank {adapter.config['r']}, sha256 {digest})"
