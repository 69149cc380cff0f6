"""The device on which a model computes, and its dtype."""

from __future__ import annotations

import torch

from ..errors import ConfigError


def device_for(device: str | torch.device | None = None) -> torch.device:
    """Return the device asked for, tried before a large model is read; by default the GPU where there is one.

    Raises ConfigError for a device that does not exist here.
    """
    try:
        usual = "cuda" if torch.cuda.is_available() else "cpu"
        place = torch.device(usual if device is None else device)
        torch.zeros(1, device=place).item()  # which "meta", that keeps no numbers, has not got
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device '{device}' cannot be used here: {str(error).splitlines()[0]}") from error
    return place


def bfloat16_pays(place: torch.device) -> bool:
    """Return whether bfloat16 is faster than float32 there: on a GPU that has it, on a CPU with instructions for it.

    A CPU without them computes it all the same, by emulation: measured on an AMD EPYC of 2021 (AVX2), a product of two
    matrices of 2,048 x 2,048 takes hundreds of times as long as in float32.
    """
    if place.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return place.type != "cpu" or bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def dtype_for(dtype: str | torch.dtype, place: torch.device) -> str | torch.dtype:
    """Return the dtype to load a model in; "auto" keeps the checkpoint's, but for a CPU without bfloat16 instructions.

    Raises ConfigError for anything but a floating torch dtype or the name of one.
    """
    if dtype == "auto":
        # a GPU without bfloat16 keeps the checkpoint's too: float32 would take twice its memory
        return torch.float32 if place.type == "cpu" and not bfloat16_pays(place) else "auto"
    found = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(f"dtype '{dtype}' is not known; use auto, float32, bfloat16 or float16")
    return found
