"""Sums of adapters: LoRA updates added exactly or cut back to a rank, what was trained in full added to the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mllm_embed.errors import ConfigError, ModelError
from mllm_embed.saving.settings import Settings, read_object, read_settings

PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
# what these would add to a layer is not scale * B @ A
_OTHER = ("use_dora", "rank_pattern", "alpha_pattern", "lora_bias", "use_qalora", "use_bdlora", "layer_replication",
          "target_parameters", "trainable_token_indices", "alora_invocation_tokens", "velora_config")  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """A saved adapter.

    Args:
        path: its folder.
        settings, config: what mllm_embed.json and adapter_config.json say.
        pairs: layer -> A [r, in] and B [out, r] with the scale of the update already in B, both float64.
        whole: name -> tensor of what was trained in full (the projector), float64.
    """

    path: Path
    settings: Settings
    config: dict[str, Any]
    pairs: dict[str, tuple[Tensor, Tensor]]
    whole: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> Adapter:
        """Raises ModelError for a folder that holds no adapter of ours, or one that is not plain LoRA."""
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            if not (path / name).is_file():
                raise ModelError(f"{path} holds no adapter (no {name}); give the folder that training wrote")
        settings, config = read_settings(path), read_object(path / "adapter_config.json")
        if settings is None:
            raise ModelError(f"{path} is not an adapter folder of mllm_embed: it has no mllm_embed.json")
        odd = [name for name in _OTHER if config.get(name)]
        if config.get("peft_type") != "LORA" or odd or config.get("bias", "none") != "none":
            raise ModelError(f"{path} is not plain LoRA ({odd[0] if odd else config.get('peft_type')}): cannot add it")
        try:
            tensors = {name: tensor.double() for name, tensor in load_file(path / "adapter_model.safetensors").items()}
            rank = config["r"]
            scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
            layers = [name.removesuffix(_A) for name in tensors if name.endswith(_A)]
            pairs = {layer: (tensors.pop(layer + _A), tensors.pop(layer + _B) * scale) for layer in layers}
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise ModelError(f"the adapter in {path} is damaged ({error}); train it again") from error
        bad = next((n for n, t in [*tensors.items(), *_flat(pairs)] if not torch.isfinite(t).all()), None)
        if bad:
            raise ModelError(f"the adapter in {path} holds NaN or infinite values in {bad}; train it again")
        return cls(path, settings, config, pairs, tensors)


def check_alike(adapters: Sequence[Adapter]) -> None:
    """Raises ModelError where adapters cannot be added: other bases, prompts or pooling make other spaces."""
    first = adapters[0]
    for other in adapters[1:]:
        if other.settings.target_space or first.settings.target_space:
            raise ModelError(f"{first.path} or {other.path} is a distilled query encoder: such cannot be added")
        for what, of in _FACTS.items():
            if of(first.settings) != of(other.settings):
                raise ModelError(
                    f"{first.path} and {other.path} differ in their {what} ({_short(of(first.settings))} and "
                    f"{_short(of(other.settings))}): only adapters that agree in it can be added"
                )
        shapes = [{name: tensor.shape for name, tensor in a.whole.items()} for a in (first, other)]
        layers = [{name: (a.shape[1], b.shape[0]) for name, (a, b) in x.pairs.items()} for x in (first, other)]
        for mine, theirs in (shapes, layers):
            wrong = next((name for name in mine.keys() & theirs.keys() if mine[name] != theirs[name]), None)
            if wrong:
                raise ModelError(f"{first.path} and {other.path} have {wrong} of unlike shape: they cannot be added")


_FACTS = {
    "base": lambda settings: settings.base_fingerprint or settings.base,
    "prompts": lambda settings: settings.prompts.to_dict(),
    "pooling": lambda settings: settings.pooling,
    "attention": lambda settings: "bidirectional" if settings.bidirectional else "causal",
}


def added_pairs(adapters: Sequence[Adapter], weights: Sequence[float]) -> dict[str, tuple[Tensor, Tensor]]:
    """The weighted sum of updates, exactly: the ranks stand side by side, zeros where an adapter lacks a layer.

    Returns layer -> A [R, in] and B [out, R] float64 with sum of w_i B_i A_i = B A, R the sum of all ranks.
    """
    layers = dict.fromkeys(layer for adapter in adapters for layer in adapter.pairs)
    found = {}
    for layer in layers:
        like_a, like_b = next(adapter.pairs[layer] for adapter in adapters if layer in adapter.pairs)
        rows, columns = [], []
        for adapter, weight in zip(adapters, weights, strict=True):
            rank = adapter.config["r"]
            nothing = like_a.new_zeros(rank, like_a.shape[1]), like_b.new_zeros(like_b.shape[0], rank)
            a, b = adapter.pairs.get(layer, nothing)
            rows.append(a)
            columns.append(weight * b)
        found[layer] = torch.cat(rows), torch.cat(columns, dim=1)
    return found


def cut_to_rank(
    pairs: Mapping[str, tuple[Tensor, Tensor]], rank: int
) -> tuple[dict[str, tuple[Tensor, Tensor]], float, float]:
    """The nearest updates of `rank`, by the singular values of each product (Eckart and Young, 1936).

    Returns the new pairs, A [rank, in] and B [out, rank], and what was lost: the share of the length (Frobenius norm)
    of all updates together, and of the worst layer.
    """
    found, lost, total, worst = {}, 0.0, 0.0, 0.0
    for layer, (a, b) in pairs.items():
        # the product itself may have billions of numbers; its singular values are those of a small one
        left, small_b = torch.linalg.qr(b)
        right, small_a = torch.linalg.qr(a.T)
        u, values, v = torch.linalg.svd(small_b @ small_a.T)
        root = values[:rank].sqrt()
        new_a, new_b = root[:, None] * (v[:rank] @ right.T), left @ u[:, :rank] * root
        short = rank - len(root)  # a layer may be narrower than the rank
        found[layer] = (
            torch.nn.functional.pad(new_a, (0, 0, 0, short)),
            torch.nn.functional.pad(new_b, (0, short)),
        )
        gone, all_of_it = values[rank:].square().sum().item(), values.square().sum().item()
        lost, total, worst = lost + gone, total + all_of_it, max(worst, gone / all_of_it if all_of_it else 0.0)
    return found, (lost / total) ** 0.5 if total else 0.0, worst**0.5


def added_whole(
    adapters: Sequence[Adapter], weights: Sequence[float], base: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """What was trained in full: base + sum of w_i (tensor_i - base), float64.

    `base` gives the base's own tensors; it may be None where `needs_base` is false: the base then cancels out.
    """
    names = dict.fromkeys(name for adapter in adapters for name in adapter.whole)
    found = {}
    for name in names:
        own = base[name].double() if base is not None else torch.zeros((), dtype=torch.float64)
        parts = [w * (a.whole[name] - own) for a, w in zip(adapters, weights, strict=True) if name in a.whole]
        found[name] = own + torch.stack(parts).sum(0)
    return found


def needs_base(adapters: Sequence[Adapter], weights: Sequence[float]) -> bool:
    """Whether what was trained in full cannot be added without the base's own: it is no plain average."""
    names = {name for adapter in adapters for name in adapter.whole}
    unlike = any(adapter.whole.keys() != names for adapter in adapters)
    return bool(names) and (unlike or abs(sum(weights) - 1) > 1e-9)


def check_weights(weights: Sequence[float], count: int) -> None:
    """Raises ConfigError for weights that do not fit `count` adapters."""
    if len(weights) != count:
        raise ConfigError(f"{len(weights)} weights for {count} adapters: give one for each")
    if not all(torch.isfinite(torch.tensor(weight)) for weight in weights) or not any(weights):
        raise ConfigError(f"weights are numbers, not all 0; not {' '.join(map(str, weights))}")


def _flat(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> list[tuple[str, Tensor]]:
    return [(layer, tensor) for layer, both in pairs.items() for tensor in both]


def _short(value: object) -> str:
    text = value["name"] if isinstance(value, dict) else str(value)
    return text[:12] if len(text) == 64 else text
