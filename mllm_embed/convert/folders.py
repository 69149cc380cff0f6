"""The folder that a conversion reads and the one that it writes: nothing is ever half written."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..files import check_space
from ..model.loading import CONFIG_FILE
from ..saving.checkpoint import check_target
from ..saving.hub import downloaded
from ..saving.settings import read_object

PICKLED = "pytorch_model*.bin"
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SMALL = (".json", ".txt", ".model", ".jinja", ".md", ".tiktoken")  # configs, tokenizers, templates, cards
_FILES = [f"*{ending}" for ending in _SMALL]


def source_folder(name: str, *weights: str) -> Path:
    """Return the folder of a model or an adapter: `name` itself, or of a hub id what was fetched of it.

    `weights` are the patterns of the files that are fetched beside the small ones. Raises ModelError where it is not
    there.
    """
    folder = downloaded(name, [*_FILES, *weights])
    if not folder.is_dir():
        raise ModelError(f"{name} is not there; give a folder, or a hub id")
    return folder


def check_output(output: Path, folder: Path, files: Iterable[Path]) -> None:
    """Raise ModelError for an output that holds anything, and DataError where the disk has no room for as much as
    `files`, which are read from `folder`."""
    if output.resolve() == folder.resolve():
        raise ModelError(f"{output} is the folder that is converted, which stays as it is; give another OUTPUT")
    check_target(output)
    if output.is_dir() and any(output.iterdir()):  # a model that was trained, perhaps
        raise ModelError(f"{output} holds a saved model, which stays as it is; give a new or empty folder as OUTPUT")
    check_space(output, sum(path.stat().st_size for path in files), f"what is written to {output}")


def weight_files(folder: Path, safe: bool = False) -> list[Path]:
    """Return the files of a whole model's weights, all that its index names.

    Args:
        folder: of the model.
        safe: whether safetensors are taken too, before pickled ones.

    Raises ModelError where there are none, or one is missing.
    """
    wanted: set[str] = set()
    for index in _INDEXES if safe else _INDEXES[1:]:
        if (folder / index).is_file():
            wanted = _named(folder / index)
            break
    lost = next((name for name in sorted(wanted) if not (folder / name).is_file()), None)
    if lost is not None:
        raise ModelError(f"{folder} lacks {lost}, which its index names; fetch the model again")
    if wanted:
        return [folder / name for name in sorted(wanted)]
    for pattern in (["model*.safetensors"] if safe else []) + [PICKLED]:
        if found := sorted(folder.glob(pattern)):
            return found
    raise ModelError(f"{folder} holds no weights ({PICKLED}); give the folder of a model")


def _named(index: Path) -> set[str]:
    """Return the files that an index names. Raises ModelError for a damaged one."""
    places = read_object(index).get("weight_map")
    names = set(places.values()) if isinstance(places, dict) and places else set()
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ModelError(f"{index} is damaged (it maps no tensor to a file beside it); fetch it again")
    return names


def copy_small(folder: Path, output: Path, without: Iterable[str] = ()) -> tuple[list[str], list[str]]:
    """Copy configs, tokenizer, templates and cards, no code and no weights; return what was copied, what left out.

    `without` are files that the conversion writes itself.
    """
    own = {*_INDEXES, *without}
    copied, left = [], []
    for path in sorted(folder.iterdir()):
        if path.name in own or path.name.startswith("."):
            continue
        if path.is_file() and (path.suffix in _SMALL or path.name.upper().startswith("LICEN")):
            shutil.copyfile(path, output / path.name)
            copied.append(path.name)
        else:
            left.append(path.name)
    return copied, left


def copied_lines(copied: Sequence[str], left: Sequence[str]) -> list[str]:
    """Return what `copy_small` did, in lines for people."""
    return [
        *([f"copied {', '.join(copied)}"] if copied else []),
        *([f"left out {', '.join(left)}: code, and weights in other forms"] if left else []),
    ]


def read_config(folder: Path, file: str = CONFIG_FILE) -> dict[str, Any]:
    """Return a JSON file of a folder. Raises ModelError for a damaged one, or where there is none."""
    if not (folder / file).is_file():
        raise ModelError(f"{folder} has no {file}; give the folder of a whole model, or fetch it again")
    return read_object(folder / file)
