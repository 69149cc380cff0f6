"""What decides the figures of a cell, as plain texts by name: when all of them are as they were, so are the figures.

Batch size and device are left out: they decide how something is computed, and not what. Files count by their content.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import mllm_embed
from mllm_embed.data.trained_on import TRAINED_ON
from mllm_embed.encode.model_source import find_model
from mllm_embed.errors import DataError
from mllm_embed.files import read_json, write_json
from mllm_embed.inputs.prompt_files import is_file_name
from mllm_embed.model.heads.files import HEAD_FILES
from mllm_embed.model.loading import check_name, commit_of, load_errors
from mllm_embed.saving.versions import versions
from mllm_embed.types import ImageLike, ImageSource

from .. import scoring
from ..scoring.suite import Suite, Task
from .named import NamedModel

Inputs = Mapping[str, str]
_READERS = 8  # threads: a network's disk answers slowly, and to many at once
# of a model's folder; what else lies there, logs and checkpoints of a training say, nobody loads
_MODEL_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors", "additional_chat_templates/*", *HEAD_FILES)
_SETTINGS = ("dtype", "quantization", "dim", "max_tokens", "truncate", "jpeg_side", "thoughts", "task", "document_task")
_PACKAGES = {"adapter": ("peft",), "quantization": ("bitsandbytes",)}
_ALWAYS = ("mllm_embed", "torch", "transformers", "pillow")
_DECIDING = ("vectors", "model", "inputs", "saving", "presets", "thoughts", "encode")
_DIGITS = 16  # of a digest, in what is written


class FileDigests:
    """Digests of files' contents; a file that has kept size, times and place since is not read again.

    That is what git's index and rsync go by.
    """

    def __init__(self, path: Path):
        """Keep what is known in a file at `path`; one that is damaged is as good as none."""
        self._path = path
        self._known: dict[str, list[str]] = {}
        with suppress(DataError):
            known = read_json(path, "") if path.is_file() else {}
            if isinstance(known, dict):
                self._known = {key: value for key, value in known.items() if _is_pair(value)}

    def of(self, files: Iterable[Path]) -> str:
        """Return a digest of the contents of files, in their order. Raise OSError for one that cannot be read."""
        paths = [os.path.abspath(path) for path in files]
        key = _hex("\n".join(paths))
        # before the contents are read: a file that changes meanwhile is read again the next time
        state = _hex(json.dumps([_state(path) for path in paths]))
        if self._known.get(key, [""])[0] != state:
            with ThreadPoolExecutor(_READERS) as pool:
                self._known[key] = [state, _hex("".join(pool.map(_content, paths)))]
        return self._known[key][1]

    def save(self) -> None:
        """Write what is known."""
        write_json(self._path, self._known)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)


def _state(path: str) -> list[int]:
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _content(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGITS]


def model_inputs(model: NamedModel, digests: FileDigests) -> dict[str, str]:
    """Return what of a model decides figures: its files' contents or its commits, how it is loaded and asked.

    Raises ModelError, ConfigError or OSError for a model that cannot be found, or whose files cannot be read.
    """
    found: dict[str, str] = {}
    pairs = {"model": ("model", "adapter"), "query model": ("query model", "query adapter")}
    places = model.places
    for what, (base, adapter) in pairs.items():
        if base in places:
            preset = model.preset if what == "model" else None  # a distilled model has what it was trained with
            found |= _source_inputs(what, places[base], places.get(adapter), preset, digests)
    for key in ("preset", "prompts"):
        value = getattr(model, key)
        if value:
            is_file = is_file_name(value) and Path(value).is_file()
            found |= {f"{key} file": digests.of([Path(value)])} if is_file else {key: value}
    settings = {key.replace("_", " "): getattr(model, key) for key in _SETTINGS}
    found |= {key: str(value) for key, value in settings.items() if value not in (None, "auto")}
    return found | _versions(model, any("adapter's " in name for name in found))


def _source_inputs(
    what: str, model: str, adapter: str | None, preset: str | None, digests: FileDigests
) -> dict[str, str]:
    """Return the contents of a base's and an adapter's files; of a hub id its commit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are told when the model is loaded
        source = find_model(model, adapter, None, preset)
    found = dict(_files(f"{what}'s", source.base, digests))
    if not Path(source.base).is_dir():
        check_name(source.base)
        with load_errors(source.base):
            found[f"{what}'s commit"] = f"{source.base}@{commit_of(source.base, source.revision)}"
    if Path(source.folder) != Path(source.base):
        # what was saved with the weights of a hub id, or an adapter
        whose = what.replace("model", "adapter") if source.has_adapter else what
        found |= _files(f"{whose}'s", source.folder, digests)
    return found


def _files(whose: str, place: str, digests: FileDigests) -> Iterator[tuple[str, str]]:
    """Yield the name of each file that is loaded of a folder, and the digest of its content."""
    folder = Path(place)
    if not folder.is_dir():
        return
    paths = sorted(set(chain.from_iterable(map(folder.glob, _MODEL_FILES))))
    for path in paths:
        if path.is_file() and path.name != TRAINED_ON:  # which counts for leaks alone
            yield f"{whose} {path.relative_to(folder).as_posix()}", digests.of([path])


def _versions(model: NamedModel, adapted: bool) -> dict[str, str]:
    """Return the versions of the packages that decide a model's vectors."""
    known = versions()
    names = [*_ALWAYS, *(_PACKAGES["adapter"] if adapted else ())]
    names += _PACKAGES["quantization"] if model.quantization else ()
    return {f"version of {name}": known[name] for name in names if name in known}


def benchmark_inputs(suite: Suite, digests: FileDigests) -> dict[str, str]:
    """Return what of a benchmark decides figures: ids, words, targets and rules, and the contents of all its pictures.

    Raises DataError for a picture that cannot be read.
    """
    try:
        pictures = digests.of(_pictures(suite))
    except OSError as error:
        raise DataError(f"{suite.title}: {error.filename} cannot be read: {error.strerror}") from error
    return {
        "benchmark": suite.title,
        "fingerprint": suite.fingerprint()[:_DIGITS],
        "words of the benchmark": _hex(json.dumps(list(map(_asked, suite.tasks)), default=str)),
        "pictures": pictures,
        "places of pictures": _hex(json.dumps(list(_shown(suite)))),
    }


def _asked(task: Task) -> list[Any]:
    """Return the words and tasks of its own that a benchmark asks with, of which its fingerprint says nothing."""
    items = list(chain(task.gallery, *task.queries))
    own = sorted({item.task or "" for item in items})
    texts = [item.text for item in items if item.role == "composed_text"]  # in the place of a reference picture
    return [task.name, dict(task.prompts), dict(task.tasks), task.insists, own, texts]


def _images(suite: Suite) -> Iterator[ImageLike]:
    for task in suite.tasks:
        for item in chain(task.gallery, *task.queries):
            yield from item.images


def _pictures(suite: Suite) -> list[Path]:
    return list(dict.fromkeys(path for path in map(_path, _images(suite)) if path is not None))


def _path(image: ImageLike) -> Path | None:
    path = getattr(image, "path", image)  # a crop's picture
    return Path(path) if isinstance(path, str | os.PathLike) else None


def _shown(suite: Suite) -> Iterator[list[Any]]:
    """Yield for each picture of each item which of `_pictures` it is, and what is cut of it: a fingerprint knows the
    pictures of queries by their names, which those of two folders may share, and no gallery's."""
    place = {path: at for at, path in enumerate(_pictures(suite))}
    for image in _images(suite):
        path = _path(image)
        yield [None if path is None else place[path], str(image) if isinstance(image, ImageSource) else ""]


def code_digest() -> str:
    """Return a digest of the code that decides vectors and figures, which changes between versions, too."""
    home = Path(mllm_embed.__file__).parent
    folders = [*(home / name for name in _DECIDING), Path(scoring.__file__).parent]
    folders.append(folders[-1].with_name("benchmarks"))
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".yaml")]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:_DIGITS]


def differences(before: Inputs, now: Inputs) -> list[str]:
    """Return in words what is not as it was: digests as "another X", the rest with both values."""
    found = []
    for key in dict.fromkeys((*before, *now)):
        one, other = before.get(key), now.get(key)
        if one == other:
            continue
        if one is None or other is None:
            found.append(f"{key} {'is new' if one is None else 'is no more'}")
        elif _is_digest(one) and _is_digest(other):
            found.append(f"another {key}")
        else:
            found.append(f"{key}: {one}, now {other}")
    return found


def _is_digest(text: str) -> bool:
    return len(text) == _DIGITS and set(text) <= set("0123456789abcdef")


def leak_inputs(model: NamedModel, benchmark: Inputs, digests: FileDigests) -> dict[str, str]:
    """Return what decides how much of a benchmark a model was trained on; empty where nothing is known."""
    found = {}
    for what, place in model.places.items():
        record = Path(place) / TRAINED_ON
        if record.is_file():
            found[f"{what}'s {TRAINED_ON}"] = digests.of([record])
    for place in model.trained_on:
        path = Path(place)
        found[f"trained on {place}"] = digests.of(sorted(path.glob("*.jsonl")) if path.is_dir() else [path])
    return {**found, **benchmark} if found else {}
