"""A head in a folder of its own: its sizes in JSON and its weights in safetensors, as the heads that are ours have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ...errors import ModelError
from ...files import write_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_Head = TypeVar("_Head", bound=nn.Module)


def write_head(home: Path, spec: DataclassInstance, head: nn.Module) -> None:
    """Write a head's sizes and weights into its folder."""
    write_json(home / CONFIG, asdict(spec))
    tensors = {name: tensor.float().cpu().contiguous() for name, tensor in head.state_dict().items()}
    save_file(tensors, home / WEIGHTS)


def read_head(home: Path, make: Callable[[dict[str, Any]], _Head]) -> _Head | None:
    """Return the head of a folder, frozen; None where that is not there. Raises ModelError for a damaged one.

    `make` gives a head of the sizes in its file, and may raise what it likes for wrong ones.
    """
    if not home.is_dir():
        return None
    try:
        about: dict[str, Any] = json.loads((home / CONFIG).read_text(encoding="utf-8"))
        with torch.device("meta"):  # sizes that are wrong take no memory
            head = make(about)
        # copies, since the file is mapped into memory, and may be written anew
        tensors = {name: tensor.to(torch.float32, copy=True) for name, tensor in load_file(home / WEIGHTS).items()}
        head.load_state_dict(tensors, assign=True)
    except (
        OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, RecursionError, SafetensorError,
    ) as error:  # fmt: skip
        raise ModelError(f"{home} is damaged ({' '.join(str(error).split())}); save the model again") from error
    return head.eval().requires_grad_(False)


def head_identity(home: Path) -> bytes:
    """Return bytes that tell one head from another; none where its folder is not there."""
    if not home.is_dir():
        return b""
    return b"".join(hashlib.sha256((home / name).read_bytes()).digest() for name in (CONFIG, WEIGHTS))
