"""Reading weights as they are published, pickled ones among them, and writing them as safetensors, part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import ModelError, first_line
from ..files import write_json

SAFE = ".safetensors"
_UNPICKLING: Any = torch.serialization.pickle.UnpicklingError
_DAMAGE = (
    RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, OSError, ArithmeticError,
    AssertionError,
)  # fmt: skip
# what becomes of a tensor: its name and itself, or None where it is left out
Change = Callable[[str, Tensor], tuple[str, Tensor] | None]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by their names, on the CPU; of a pickle they are mapped, not read, where that works.

    A pickle is read for tensors alone (torch's weights_only): no code in it runs. Raises ModelError for one that wants
    more, and for a file that holds anything else than tensors by name.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix == SAFE:
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{path} is damaged ({first_line(error)}); fetch it again") from error
    values = _unpickled(path)
    named = isinstance(values, dict) and bool(values) and all(isinstance(key, str) for key in values)
    if not named or not all(isinstance(value, Tensor) for value in values.values()):
        raise ModelError(f"{path} holds other things than tensors by name; give the weights of a model or an adapter")
    return {name: value.detach() for name, value in values.items()}


def _unpickled(path: Path) -> Any:
    """Return what a file of torch.save holds, read for tensors alone."""
    try:
        with path.open("rb") as file:
            mapped = torch.serialization._is_zipfile(file)  # the form of before torch 1.6 cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except _UNPICKLING as error:
        raise ModelError(
            f"{path} is no file of tensors alone: reading it would run code, or build objects, which are not trusted; "
            "nothing of it was run; get the weights as safetensors from whoever made them"
        ) from error
    except _DAMAGE as error:
        raise ModelError(
            f"{path} cannot be read as a file of torch.save ({first_line(error)}); fetch it again"
        ) from error


def write_weights(
    sources: Sequence[Path], folder: Path, change: Change | None = None, show_progress: bool | None = None
) -> dict[str, torch.Size]:
    """Write the tensors of several files as safetensors, file by file: one is in memory at a time.

    Args:
        sources: the files.
        folder: where model.safetensors goes, or model-00001-of-00002.safetensors and so on with an index.
        change: what becomes of each tensor; None keeps them all.
        show_progress: None shows a bar on a terminal.

    Returns the shapes of what was written, by name. Raises ModelError for a name that comes twice.
    """
    shapes: dict[str, torch.Size] = {}
    places: dict[str, str] = {}
    size = 0
    hide = None if show_progress is None else not show_progress
    for number, source in enumerate(tqdm(sources, desc="converting", unit="file", disable=hide), 1):
        name = f"model-{number:05}-of-{len(sources):05}{SAFE}" if len(sources) > 1 else f"model{SAFE}"
        tensors = dict(_changed(read_tensors(source), change, source))
        twice = next((tensor for tensor in tensors if tensor in places), None)
        if twice is not None:
            raise ModelError(f"{source} holds {twice}, which another file of the model holds too; fetch it again")
        write_file(tensors, folder / name)
        places |= dict.fromkeys(tensors, name)
        shapes |= {key: tensor.shape for key, tensor in tensors.items()}
        size += sum(tensor.nbytes for tensor in tensors.values())
    if len(sources) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": places}
        write_json(folder / f"model{SAFE}.index.json", index)
    return shapes


def _changed(tensors: dict[str, Tensor], change: Change | None, source: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors by the names that they get."""
    seen: set[str] = set()
    for old, tensor in tensors.items():
        new = (old, tensor) if change is None else change(old, tensor)
        if new is None:
            continue
        if new[0] in seen:
            raise ModelError(f"{source} holds two tensors for {new[0]}; fetch it again")
        seen.add(new[0])
        yield new


def write_file(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a file of safetensors; tensors that share memory are written each in full."""
    from safetensors.torch import save_file

    apart: dict[str, Tensor] = {}
    shared: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        alone = tensor.is_contiguous() and storage.data_ptr() not in shared
        shared.add(storage.data_ptr())
        apart[name] = tensor if alone else tensor.clone(memory_format=torch.contiguous_format)
    save_file(apart, path, metadata={"format": "pt"})
