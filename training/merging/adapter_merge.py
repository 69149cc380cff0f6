"""Sums of adapters: LoRA updates added exactly or cut back to a rank, what was trained in full added to the base.

Wortsman et al. (arXiv 2203.05482), who average whole models, call such a sum a soup.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import pad

from mllm_embed.errors import ConfigError, ModelError
from mllm_embed.model.heads.files import heads_identity
from mllm_embed.model.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, check_options
from mllm_embed.model.processor_loading import has_processor, load_processor
from mllm_embed.saving.identity import processor_parts
from mllm_embed.saving.provenance import changes
from mllm_embed.saving.settings import SETTINGS_FILE, Settings, read_object, read_settings

LoraPairs: TypeAlias = dict[str, tuple[Tensor, Tensor]]
"""Layer -> A [r, in] and B [out, r], float64; the layer's update is B A."""

PEFT_PREFIX = "base_model.model."
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
# what these would add to a layer is not scale * B @ A
_OTHER_METHODS = (
    "use_dora", "lora_bias", "use_qalora", "use_bdlora", "layer_replication",
    "target_parameters", "trainable_token_indices", "alora_invocation_tokens", "velora_config",
)  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """A saved adapter.

    Args:
        path: its folder.
        settings, config: what mllm_embed.json and adapter_config.json say.
        processor: its processor's parts, as of `identity.processor_parts`; None where none was saved with it.
        pairs: its LoRA updates, the scale already in B.
        whole: name -> tensor of what was trained in full (the projector), float64.
    """

    path: Path
    settings: Settings
    config: dict[str, Any]
    processor: dict[str, Any] | None
    pairs: LoraPairs
    whole: dict[str, Tensor]

    @property
    def rank(self) -> int:
        """The rank of its updates, the highest where layers have their own."""
        return max((len(a) for a, _ in self.pairs.values()), default=0)

    @classmethod
    def read(cls, path: Path) -> Adapter:
        """Read a folder. Raises ModelError for one that holds no adapter of ours, or one that is not plain LoRA."""
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            if not (path / name).is_file():
                raise ModelError(f"{path} holds no adapter (no {name}); give the folder that training wrote")
        settings, config = read_settings(path), read_object(path / ADAPTER_CONFIG)
        if settings is None:
            raise ModelError(f"{path} is not an adapter folder of mllm_embed: it has no {SETTINGS_FILE}")
        _check_plain_lora(path, config)
        try:
            tensors = {name: tensor.double() for name, tensor in load_file(path / ADAPTER_WEIGHTS).items()}
            pairs, whole = _split(tensors, config)
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise ModelError(f"the adapter in {path} is damaged ({error}); train it again") from error
        _check_finite(path, pairs, whole)
        processor = processor_parts(load_processor(str(path), base=str(path))) if has_processor(path) else None
        return cls(path, settings, config, processor, pairs, whole)


def _check_plain_lora(path: Path, config: Mapping[str, Any]) -> None:
    other = [name for name in _OTHER_METHODS if config.get(name)]
    if config.get("use_dora"):
        raise ModelError(
            f"{path} was trained by DoRA, whose update is no product of its two matrices: it cannot be added to "
            "another; compare it by itself, or train with dora: false what is to be added"
        )
    if config.get("peft_type") != "LORA" or other or config.get("bias", "none") != "none":
        raise ModelError(f"{path} is not plain LoRA ({other[0] if other else config.get('peft_type')}): cannot add it")
    check_options(config, path / ADAPTER_CONFIG)


def _scale(config: Mapping[str, Any], layer: str, rank: int) -> float:
    """Return what peft multiplies B A of a layer by, of which `rank` is its A's."""
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(list(patterns), layer.removeprefix(PEFT_PREFIX)), config["lora_alpha"])
    return float(alpha / (rank**0.5 if config.get("use_rslora") else rank))


def _split(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[LoraPairs, dict[str, Tensor]]:
    """Return the LoRA pairs, with their scale in B, and the tensors that are no part of one."""
    layers = [name.removesuffix(LORA_A) for name in tensors if name.endswith(LORA_A)]
    pairs = {}
    for layer in layers:
        a, b = tensors[layer + LORA_A], tensors[layer + LORA_B]
        pairs[layer] = a, b * _scale(config, layer, len(a))
    of_pairs = {layer + part for layer in layers for part in (LORA_A, LORA_B)}
    return pairs, {name: tensor for name, tensor in tensors.items() if name not in of_pairs}


def _check_finite(path: Path, pairs: LoraPairs, whole: Mapping[str, Tensor]) -> None:
    of_pairs = ((layer, tensor) for layer, both in pairs.items() for tensor in both)
    for name, tensor in (*whole.items(), *of_pairs):
        if not torch.isfinite(tensor).all():
            raise ModelError(f"the adapter in {path} holds NaN or infinite values in {name}; train it again")


# what two adapters must have in common, and how it is shown where they do not
_IN_COMMON: dict[str, Callable[[Settings], object]] = {
    "base": lambda settings: settings.base_fingerprint or settings.base,
    "prompts": lambda settings: settings.prompts.to_dict(),
    "pooling": lambda settings: settings.pooling,
    "attention": lambda settings: "bidirectional" if settings.bidirectional else "causal",
    "settings": lambda settings: settings.recipe,
    "thoughts": lambda settings: settings.thoughts and settings.thoughts.to_dict(),
    "lexical": lambda settings: settings.lexical and settings.lexical.to_dict(),
}


def check_alike(adapters: Sequence[Adapter]) -> None:
    """Raise ModelError where adapters cannot be added: other bases, prompts or pooling make other spaces."""
    first = adapters[0]
    for other in adapters[1:]:
        _check_settings(first, other)
        _check_heads(first, other)
        _check_shapes(first, other)


def _check_settings(first: Adapter, other: Adapter) -> None:
    if other.settings.target_space or first.settings.target_space:
        raise ModelError(f"{first.path} or {other.path} is a distilled query encoder: such cannot be added")
    for what, of in _IN_COMMON.items():
        one, two = of(first.settings), of(other.settings)
        if one != two:
            raise ModelError(
                f"{first.path} and {other.path} differ in their {what} ({_short(one)} and {_short(two)}): only "
                "adapters that agree in it can be added"
            )
    differ = list(changes(first.processor, other.processor, "processor"))
    if differ and first.processor and other.processor:
        raise ModelError(
            f"{first.path} and {other.path} were saved with processors that differ ({differ[0]}): only adapters that "
            "agree in it can be added"
        )


def _check_heads(first: Adapter, other: Adapter) -> None:
    one, two = (b"".join(heads_identity(adapter.path)) for adapter in (first, other))
    if one != two:
        raise ModelError(
            f"{first.path} and {other.path} have heads of their own, a token learner or a projection say, which are "
            "no sum of small matrices: only adapters that share them can be added"
        )


def _check_shapes(first: Adapter, other: Adapter) -> None:
    own, others = _shapes(first), _shapes(other)
    for name, shape in own.items():
        if others.get(name, shape) != shape:
            raise ModelError(f"{first.path} and {other.path} have {name} of unlike shape: they cannot be added")


def _shapes(adapter: Adapter) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors and of layers' updates [out, in], which two adapters of any ranks share."""
    shapes = {name: tuple(tensor.shape) for name, tensor in adapter.whole.items()}
    return shapes | {layer: (b.shape[0], a.shape[1]) for layer, (a, b) in adapter.pairs.items()}


def added_pairs(adapters: Sequence[Adapter], weights: Sequence[float]) -> LoraPairs:
    """Return the weighted sum of updates, exactly: the ranks stand side by side, zeros where an adapter lacks a layer
    or has it of a lower rank than others.

    Layer -> A [R, in] and B [out, R] float64 with sum of w_i B_i A_i = B A, R the sum of all ranks.
    """
    layers = dict.fromkeys(layer for adapter in adapters for layer in adapter.pairs)
    found = {}
    for layer in layers:
        like_a, like_b = next(adapter.pairs[layer] for adapter in adapters if layer in adapter.pairs)
        rows, columns = [], []
        for adapter, weight in zip(adapters, weights, strict=True):
            nothing = like_a.new_zeros(0, like_a.shape[1]), like_b.new_zeros(like_b.shape[0], 0)
            a, b = adapter.pairs.get(layer, nothing)
            short = adapter.rank - len(a)
            rows.append(pad(a, (0, 0, 0, short)))
            columns.append(weight * pad(b, (0, short)))
        found[layer] = torch.cat(rows), torch.cat(columns, dim=1)
    return found


def cut_to_rank(pairs: LoraPairs, rank: int) -> tuple[LoraPairs, float, float]:
    """Return the nearest updates of `rank`, by the singular values of each product (Eckart and Young, 1936).

    Returns the new pairs, A [rank, in] and B [out, rank], and what was lost: the share of the length (Frobenius norm)
    of all updates together, and of the worst layer.
    """
    found: LoraPairs = {}
    lost = total = worst = 0.0
    for layer, (a, b) in pairs.items():
        found[layer], gone, length = _cut(a, b, rank)
        lost, total = lost + gone, total + length
        worst = max(worst, gone / length if length else 0.0)
    return found, (lost / total) ** 0.5 if total else 0.0, worst**0.5


def _cut(a: Tensor, b: Tensor, rank: int) -> tuple[tuple[Tensor, Tensor], float, float]:
    """Return A and B of `rank`, and the squared lengths of what that loses, and of all."""
    # the product itself may have billions of numbers; its singular values are those of a small one
    left, small_b = torch.linalg.qr(b)
    right, small_a = torch.linalg.qr(a.T)
    u, values, v = torch.linalg.svd(small_b @ small_a.T)
    root = values[:rank].sqrt()
    new_a, new_b = root[:, None] * (v[:rank] @ right.T), left @ u[:, :rank] * root
    short = rank - len(root)  # a layer may be narrower than the rank
    new = pad(new_a, (0, 0, 0, short)), pad(new_b, (0, short))
    return new, values[rank:].square().sum().item(), values.square().sum().item()


def added_whole(
    adapters: Sequence[Adapter], weights: Sequence[float], base: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Return what was trained in full: base + sum of w_i (tensor_i - base), float64.

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
    """Return whether what was trained in full cannot be added without the base's own: it is no plain average."""
    names = {name for adapter in adapters for name in adapter.whole}
    unlike = any(adapter.whole.keys() != names for adapter in adapters)
    return bool(names) and (unlike or not sums_to_1(weights))


def sums_to_1(weights: Sequence[float]) -> bool:
    """Return whether the weights make an average."""
    return abs(sum(weights) - 1) <= 1e-9


def check_weights(weights: Sequence[float], count: int) -> None:
    """Raise ConfigError for weights that do not fit `count` adapters."""
    if len(weights) != count:
        raise ConfigError(f"{len(weights)} weights for {count} adapters: give one for each")
    if not torch.isfinite(torch.tensor(weights)).all() or not any(weights):
        raise ConfigError(f"weights are numbers, not all 0; not {' '.join(map(str, weights))}")


def _short(value: object) -> str:
    """Return a prompt set by its name and a fingerprint by its first digits, for a message."""
    text = value["name"] if isinstance(value, dict) and "name" in value else str(value)
    return text[:12] if len(text) == 64 else text
