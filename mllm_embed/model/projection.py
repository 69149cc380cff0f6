"""A linear layer after pooling, for vectors as long as another model's: a small query encoder's way into its space.

It is saved as sentence-transformers' Dense module, which both read: weights in safetensors, no bias, no activation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import ModelError
from ..files import write_json

PROJECTION_FOLDER = "projection"
MODULE = "sentence_transformers.base.modules.dense.Dense"
MODULES_FILE = "modules.json"
_CONFIG, _WEIGHTS, _NAME = "config.json", "model.safetensors", "linear.weight"


def new_projection(width: int, out: int) -> nn.Linear:
    """Return a layer [B, width] -> [B, out], float32; orthogonal, so that cosines start as they were where `out` is not
    smaller."""
    projection = nn.Linear(width, out, bias=False, dtype=torch.float32)
    nn.init.orthogonal_(projection.weight)
    return projection


def write_projection(folder: Path, projection: nn.Linear) -> None:
    """Write FOLDER/projection, as sentence-transformers reads it."""
    about = {
        "in_features": projection.in_features,
        "out_features": projection.out_features,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    write_json(folder / PROJECTION_FOLDER / _CONFIG, about)
    save_file({_NAME: projection.weight.detach().float().cpu().contiguous()}, folder / PROJECTION_FOLDER / _WEIGHTS)


def read_projection(folder: Path) -> nn.Linear | None:
    """Return the projection of a saved folder, frozen; None where it has none. Raises ModelError for a damaged one."""
    home = folder / PROJECTION_FOLDER
    if not (folder / MODULES_FILE).is_file() and not home.is_dir():
        return None
    try:
        home = folder / _place(json.loads((folder / MODULES_FILE).read_text(encoding="utf-8")))
        if home == folder:
            return None
        weight = load_file(home / _WEIGHTS)[_NAME]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise ModelError(f"{home} is damaged ({error}); save the model again") from error
    projection = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float32)
    projection.weight = nn.Parameter(weight, requires_grad=False)
    return projection


def _place(modules: list[dict[str, Any]]) -> str:
    """Return the Dense module's folder, which sentence-transformers renames when it saves again; "" for none."""
    return next((module["path"] for module in modules if module["type"] == MODULE), "")
