"""Pickled weights, of an adapter or of a whole model, written anew as safetensors."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import ModelError
from ..files import atomic_folder, read_text
from ..model.heads.files import HEAD_FILES
from ..model.heads.projection import MODULES_FILE, PICKLED_WEIGHTS, WEIGHTS
from ..model.loading import CONFIG_FILE
from ..model.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PICKLED_ADAPTER
from ..presets import catalog, unsupported
from .folders import PICKLED, check_output, copied_lines, copy_small, read_config, source_folder, weight_files
from .tensors import read_tensors, write_file, write_weights


def convert_adapter(name: str, output: Path) -> list[str]:
    """Write an adapter of peft, whose tensors are pickled, to the folder `output`, as safetensors; return what there is
    to say, a line each.

    `name` is a folder or hub id. Raises ModelError, and writes nothing, for a pickle that holds more than tensors, and
    for an output that is not free.
    """
    folder = source_folder(name, PICKLED_ADAPTER)
    if not (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"{folder} has no {ADAPTER_CONFIG}; give the folder of an adapter; a whole model is converted as weights"
        )
    source = folder / PICKLED_ADAPTER
    if (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"{folder} holds {ADAPTER_WEIGHTS} already, which is read as it is: nothing is to convert")
    if not source.is_file():
        raise ModelError(f"{folder} holds no {PICKLED_ADAPTER}; give the folder of an adapter")
    check_output(output, folder, [source])
    tensors = read_tensors(source)
    with atomic_folder(output) as fresh:
        write_file(tensors, fresh / ADAPTER_WEIGHTS)
        # the config of the base lies in some adapters' folders: with weights beside it, it would be that of a model
        copied, left = copy_small(folder, fresh, [PICKLED_ADAPTER, CONFIG_FILE])
    return [
        f"read {source} for tensors alone: no code in it was run",
        f"wrote {len(tensors):,} tensors to {output / ADAPTER_WEIGHTS}",
        *_told(name, copied, left),
    ]


def convert_weights(name: str, output: Path, show_progress: bool | None = None) -> list[str]:
    """Write a model whose weights are pickled to the folder `output`, as safetensors; return what there is to say.

    Names and values stay. Arguments and errors as of `convert_adapter`, and ModelError for weights that would not load
    under their names; `show_progress` None shows a bar on a terminal.
    """
    folder = source_folder(name, PICKLED, *HEAD_FILES)
    unsupported.check_config(name, read_config(folder))
    if any(folder.glob("model*.safetensors")):
        raise ModelError(f"{folder} holds safetensors already, which are read as they are: nothing is to convert")
    sources = weight_files(folder)
    check_output(output, folder, sources)
    with atomic_folder(output) as fresh:
        shapes = write_weights(sources, fresh, show_progress=show_progress)
        modules = _convert_modules(folder, fresh)
        copied, left = copy_small(folder, fresh, [*modules, *(path.name for path in sources)])
    return [
        f"read {len(sources):,} files of {folder} for tensors alone: no code in them was run",
        f"wrote {len(shapes):,} tensors to {output}",
        *_told(name, copied, left),
    ]


def _convert_modules(folder: Path, output: Path) -> list[str]:
    """Write the folders of sentence-transformers' modules, pooling and dense layers say, and return their names."""
    listed = read_text(folder / MODULES_FILE) if (folder / MODULES_FILE).is_file() else ""
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and f'"{path.name}"' in listed)
    for name in found:
        (output / name).mkdir()
        copy_small(folder / name, output / name)
        pickled, safe = folder / name / PICKLED_WEIGHTS, folder / name / WEIGHTS
        if safe.is_file():
            shutil.copyfile(safe, output / name / WEIGHTS)
        elif pickled.is_file():
            write_file(read_tensors(pickled), output / name / WEIGHTS)
    return found


def _told(name: str, copied: list[str], left: list[str]) -> list[str]:
    """Return what became of the other files, and with what prompts the result is asked, in lines."""
    preset = catalog.preset_of(name)
    lines = copied_lines(copied, left)
    ending = f"where the folder's path ends in {catalog.hub_id(name)}"
    return [*lines, f"it is asked as its authors do with --preset {preset.name}, or {ending}"] if preset else lines
