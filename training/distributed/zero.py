"""DeepSpeed's ZeRO: its configs, the checks before a run, and whole tensors of what it cuts in pieces."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mllm_embed.errors import ConfigError
from mllm_embed.files import read_json

from ..recipe.config import Recipe
from .gathering import world

CONFIGS = Path(__file__).parents[1] / "deepspeed"
OPTIMIZER_FILE = "optimizer.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


def zero_config(recipe: Recipe) -> dict[str, Any] | None:
    """Return DeepSpeed's config that a recipe names, None for a run without.

    Raise ConfigError for a name that does not ship, a file that is no such config or sets what the recipe says, and for
    a run that DeepSpeed cannot do: without its package or a launcher, or on quantised weights cut by ZeRO-3.
    """
    if recipe.deepspeed is None:
        return None
    config = _read(recipe.deepspeed)
    zero = config.get("zero_optimization")
    stage = zero.get("stage") if isinstance(zero, dict) else None
    if stage not in (1, 2, 3):
        raise ConfigError(f"deepspeed: {recipe.deepspeed} has no zero_optimization with a stage of 1, 2 or 3")
    if own := sorted({"fp16", "bf16", "optimizer", "scheduler"} & set(config)):
        raise ConfigError(f"deepspeed: take {own[0]} out of {recipe.deepspeed}; the recipe's own keys say that")
    if stage == 3:
        _check_cut_weights(recipe)
    if find_spec("deepspeed") is None:
        raise ConfigError("deepspeed is not installed; run pip install 'mllm_embed[deepspeed]'")
    if "RANK" not in os.environ:
        raise ConfigError("deepspeed needs a launcher: torchrun --nproc-per-node GPUS -m training RECIPE")
    return config


def _check_cut_weights(recipe: Recipe) -> None:
    """Raise ConfigError for what needs the whole weights in one process, of which ZeRO-3 leaves each a piece."""
    if recipe.quantization:
        raise ConfigError(
            f"quantization {recipe.quantization}: ZeRO-3 cannot cut such weights; use zero2 or no deepspeed"
        )
    if any(stage.evaluate for stage in recipe.stages.values()):
        raise ConfigError("evaluate: ZeRO-3 cannot validate between steps; use zero2 or no deepspeed")


def _read(name: str) -> dict[str, Any]:
    shipped = CONFIGS / f"{name}.json"
    path = shipped if Path(name).name == name and shipped.is_file() else Path(name)
    known = ", ".join(sorted(config.stem for config in CONFIGS.glob("*.json")))
    if not path.is_file():
        raise ConfigError(f"deepspeed: {name} is neither a JSON file nor one of {known}")
    config = read_json(path, f"give DeepSpeed's config or one of {known}")
    if not isinstance(config, dict):
        raise ConfigError(f"deepspeed: {name} holds no JSON object; see {CONFIGS} for examples")
    return config


def forget_config() -> None:
    """Load the next model whole: transformers cuts it into pieces at once while it knows of a ZeRO-3 config."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


@contextmanager
def loaded_whole(config: Any | None) -> Iterator[None]:
    """Load models whole within, though a stage's arguments have told transformers of a ZeRO-3 `config`, if any."""
    if config is None:
        yield
        return
    from transformers.integrations.deepspeed import set_hf_deepspeed_config

    forget_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(config)


@contextmanager
def whole(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Let the parameters hold all their values in every process within, ZeRO-3's cut ones too. All must call it."""
    cut = [parameter for parameter in parameters.values() if _is_cut(parameter)]
    if not cut:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(cut):
        yield


def save_moments(parameters: Mapping[str, nn.Parameter], optimizer: Any, path: Path, write: bool) -> None:
    """Write AdamW's state, whole tensors by parameter, whatever the number of processes. All call it, one writes."""
    from deepspeed.utils import safe_get_full_optimizer_state

    _link(optimizer)
    state = {"step": torch.as_tensor(optimizer.optimizer.state[_pieces(optimizer)[0]]["step"]).float()}
    for name, parameter in parameters.items():
        for moment in MOMENTS:
            tensor = safe_get_full_optimizer_state(parameter, moment)
            state[f"{moment}/{name}"] = tensor.reshape(whole_shape(parameter)).cpu().contiguous()
    if write:
        save_file(state, path)


def load_moments(parameters: Mapping[str, nn.Parameter], optimizer: Any, path: Path) -> None:
    """Put back what `save_moments` wrote, into an engine that has not stepped yet, of however many processes."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    state = load_file(path)
    # DeepSpeed makes the moments with its first step: they must be there, as zeros, before they can be set
    for piece in _pieces(optimizer):
        moments = {moment: torch.zeros_like(piece.data) for moment in MOMENTS}
        optimizer.optimizer.state[piece] = {"step": state["step"].clone(), **moments}
    _link(optimizer)
    for name, parameter in parameters.items():
        for moment in MOMENTS:
            tensor = state[f"{moment}/{name}"].to(parameter.device)
            if _is_cut(parameter):  # ZeRO-3 takes whole tensors only where they divide by the processes
                safe_set_local_optimizer_state(parameter, _share(tensor, parameter), moment)
            else:
                safe_set_full_optimizer_state(parameter, tensor, moment)


def _is_cut(parameter: nn.Parameter) -> bool:
    """Return whether each process holds a piece of the parameter alone: ZeRO-3 marks such a one."""
    return hasattr(parameter, "ds_id")


def _share(tensor: Tensor, parameter: Any) -> Tensor:
    """Return this process's piece of a tensor, cut as ZeRO-3 cut the parameter; zeros fill up the last one."""
    length = parameter.ds_tensor.ds_numel
    rank, count = world()
    flat = tensor.new_zeros(count * length)
    flat[: tensor.numel()] = tensor.flatten()
    return flat[rank * length : (rank + 1) * length]


def _link(optimizer: Any) -> None:
    """Tell ZeRO-2 where each parameter's moments lie: DeepSpeed 0.19.8 does so, once, for its first group alone."""
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def _pieces(optimizer: Any) -> list[Tensor]:
    """Return what this process steps: its share of the parameters, in float32, flat."""
    return getattr(optimizer, "fp32_partitioned_groups_flat", None) or optimizer.single_partition_of_fp32_groups


def whole_shape(parameter: Tensor) -> torch.Size:
    """Return the whole parameter's shape: one that ZeRO-3 cut has lost it."""
    return getattr(parameter, "ds_shape", parameter.shape)
