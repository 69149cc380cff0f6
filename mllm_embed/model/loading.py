"""Loading a Hugging Face image-text model: its base without the LM head; processor_loading.py loads its processor."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError, did_you_mean, first_line
from .families import READING_PART, check_family, reading_part
from .patch_embedding import multiply_patches
from .quantization import cure, load_options

CONFIG_FILE = "config.json"
# what damaged settings end in, deep inside
DAMAGE = (
    ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError, AssertionError, MemoryError,
)  # fmt: skip


def load_model(
    name: str, dtype: str | torch.dtype, revision: str | None, quantization: str | None, place: torch.device
) -> Any:
    """Return the backbone of a folder or hub id, as `AutoModel.from_pretrained` gives it.

    Args:
        name: a folder or hub id.
        dtype: of the weights: a torch dtype, its name, or "auto" for the checkpoint's.
        revision: a branch, tag or commit of the hub id; None for the main branch.
        quantization: "nf4", "int8", or None for weights as they are stored.
        place: where a quantised model comes to lie; any other lies on the CPU.

    Raises ModelError for a name that is no model, a family that is not supported, and a folder that lacks weights;
    ConfigError for a quantization that does not exist or does not work here.
    """
    from transformers import AutoModel

    check_name(name)
    _check_pickles(name)
    with load_errors(name):
        check_family(name, read_json_of(name, CONFIG_FILE, revision, needed=True) or {})
        options = load_options(quantization, name, dtype, place, revision) | part_options(name, revision)
        model, found = AutoModel.from_pretrained(
            name, dtype=dtype, revision=revision, output_loading_info=True, use_safetensors=True, **options
        )
    if found["missing_keys"]:
        raise ModelError(f"{name} lacks weights ({sorted(found['missing_keys'])[0]} and perhaps more); fetch it again")
    cure(model)
    multiply_patches(model)
    return model


def part_options(name: str, revision: str | None) -> dict[str, Any]:
    """Return what transformers' `from_pretrained` needs to be told, to load of a model of several parts the one that
    reads pictures and text: that one's config. Nothing for any other model."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(name, revision=revision)
    return {"config": reading_part(config)} if config.model_type in READING_PART else {}


def load_speaking(name: str, revision: str | None, dtype: torch.dtype) -> Any:
    """Return the whole generating model of a folder or hub id, read on the CPU.

    Raises ModelError for one that cannot be loaded, and for one without a head in its files.
    """
    from transformers import AutoModelForImageTextToText

    with load_errors(name):
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            name, revision=revision, dtype=dtype, use_safetensors=True, output_loading_info=True,
            **part_options(name, revision),
        )  # fmt: skip
    whole, info = loaded
    if info["missing_keys"]:
        raise ModelError(f"{name} holds no language-model head ({min(info['missing_keys'])}): it cannot speak")
    return whole


def _check_pickles(name: str) -> None:
    """Raise ModelError for a folder whose weights are pickled, which are not opened."""
    if any(Path(name).glob("pytorch_model*.bin")) and not any(Path(name).glob("*.safetensors")):
        raise ModelError(
            f"the weights of {name} are pickled, and there is no model.safetensors; write them as safetensors with "
            f"`mllm-embed convert weights {name} OUTPUT` and give OUTPUT"
        )


def read_config(name: str, revision: str | None = None) -> dict[str, Any]:
    """Return the config.json of a folder or hub id; an empty one where it cannot be read, as loading will say."""
    try:
        return read_json_of(name, CONFIG_FILE, revision) or {}
    except (OSError, ValueError):
        return {}


def commit_of(name: str, revision: str | None = None) -> str | None:
    """Return the commit of a hub id that lies in the cache once the model is loaded; None for a folder."""
    from transformers.utils import cached_file
    from transformers.utils.hub import extract_commit_hash

    if Path(name).is_dir():
        return None
    return extract_commit_hash(cached_file(name, CONFIG_FILE, revision=revision), None)


def read_json_of(name: str, file: str, revision: str | None, needed: bool = False) -> dict[str, Any] | None:
    """Return a JSON file of a folder or hub id; where there is none, None, or raise OSError if it is `needed`."""
    from transformers.utils import cached_file

    path = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=needed)
    values = json.loads(Path(path).read_text(encoding="utf-8")) if path else None
    if values is not None and not isinstance(values, dict):
        raise ValueError(f"{file} holds no JSON object; fetch the model again")
    return values


@contextmanager
def load_errors(name: str) -> Iterator[None]:
    """Raise whatever goes wrong while a model's files are read as a ModelError of one sentence."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except (
        *DAMAGE, OSError, ImportError, SafetensorError, re.error, StrictDataclassError,
    ) as error:  # fmt: skip
        raise _cannot_load(name, error) from error
    except BaseException as error:
        if not _is_of_tokenizers(error):
            raise
        raise _cannot_load(name, error) from error


def _is_of_tokenizers(error: BaseException) -> bool:
    """Return whether an error is what the Rust code of tokenizers raises for a damaged file: no kind of its own, or a
    panic."""
    return type(error) is Exception or type(error).__name__ == "PanicException"


def _cannot_load(name: str, error: BaseException) -> ModelError:
    where = "" if Path(name).is_dir() else f" (no such folder here, so it was taken for a hub id{meant(name)})"
    said = first_line(error)
    lacks = "model.safetensors" in said and not Path(name).is_dir()  # of a folder it is known: _check_pickles
    cure = f"; where they are pickled: mllm-embed convert weights {name} OUTPUT" if lacks else ""
    return ModelError(f"cannot load the model {name}{where}: {said}{cure}")


def check_name(name: str) -> None:
    """Raise ModelError for a name that is neither a model folder nor a hub id."""
    check_place(name)
    path = Path(name)
    if path.is_dir() and not (path / CONFIG_FILE).is_file():
        raise ModelError(f"{name} is no model folder: it has no config.json")


def check_place(name: str) -> None:
    """Raise ModelError for a name that is neither a folder nor, by its form, a hub id."""
    if not name:
        raise ModelError("the model's name is empty; give a folder or a hub id")
    path = Path(name)
    if path.is_dir():
        return
    if path.exists() or _is_path(name):
        raise ModelError(f"{name} is not a folder with a model{meant(name) or '; check the path'}")
    if "/" not in name:
        raise ModelError(f"{name} is no folder here, and no hub id, which is OWNER/NAME{meant(name)}")


def _is_path(name: str) -> bool:
    """Return whether a name can be nothing but a path."""
    return Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1


def meant(name: str) -> str:
    """Return the end of a sentence about a name that is no folder: which folder may be meant, or what the folder
    around it lacks; empty where nothing here is near."""
    path = Path(name)
    if not path.parent.is_dir():
        return ""
    try:
        there = [str(folder) for folder in path.parent.iterdir() if folder.is_dir()]
    except OSError:
        return ""
    lacks = "" if path.parent == Path() else f"; the folder {path.parent} is here, and has no {path.name}"
    return did_you_mean(str(path), there) or lacks
