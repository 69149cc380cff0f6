"""The adapters whose vectors are kept in one form or another, and their vectors, each made once.

What is kept on disk is named after a digest of all that made it, so that what something else made is never found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from mllm_embed import DataFolder, MLLMEmbedder
from mllm_embed.data.picture_source import picture_folder
from mllm_embed.errors import ConfigError
from mllm_embed.eval.benchmarks import open_suite
from mllm_embed.eval.scoring.suite import Task
from mllm_embed.files import atomic_file
from mllm_embed.saving.checkpoint import model_fingerprint
from mllm_embed.saving.provenance import SPACE_FIELDS, check_same
from mllm_embed.store.files import sha256_of
from mllm_embed.types import Item
from mllm_embed.vectors.multi import MultiVectors

BASE = Path("scripts/assets/base")
TESTS = ("seen", "unseen")
SHIPPED, ALIKE = "shipped", "alike"
Arrays = Mapping[str, np.ndarray]


class Both(NamedTuple):
    """Vectors of a model with a lexical head: dense [N, D] float32, and words [N, V] float32, sparse."""

    dense: np.ndarray
    words: csr_array


@dataclass(frozen=True)
class Sort:
    """What a sort of model makes of items, and how that lies in a file.

    Args:
        encode: from the model and items to their vectors.
        arrays: from vectors to arrays by name.
        back: from those to vectors.
        one: the vectors of one item, by its number, as those of a list of it alone.
    """

    encode: Callable[[MLLMEmbedder, Sequence[Item]], Any]
    arrays: Callable[[Any], Arrays]
    back: Callable[[Arrays], Any]
    one: Callable[[Any, int], Any]


def _both_as_arrays(both: Both) -> Arrays:
    words = both.words
    shape = np.array(words.shape)
    return {"dense": both.dense, "data": words.data, "indices": words.indices, "indptr": words.indptr, "shape": shape}


def _as_both(arrays: Arrays) -> Both:
    words = csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=tuple(arrays["shape"]))
    return Both(arrays["dense"], words)


ONE = Sort(
    lambda model, items: model.encode(items),
    lambda made: {"values": made},
    lambda arrays: arrays["values"],
    lambda made, at: made[[at]],
)
SEVERAL = Sort(
    lambda model, items: model.encode_multi(items),
    lambda made: {"values": made.values, "starts": made.starts},
    lambda arrays: MultiVectors(arrays["values"], arrays["starts"]),
    lambda made, at: made.take([at]),
)
WORDS = Sort(
    lambda model, items: Both(*model.encode_both(items)),
    _both_as_arrays,
    _as_both,
    lambda made, at: Both(made.dense[[at]], made.words[[at]]),
)


@dataclass(frozen=True)
class Model:
    """An adapter on the embedded base.

    Args:
        about: what it was trained for, in the table's words.
        group: `SHIPPED`, or `ALIKE`: those that the demo's recipe trained, each with one change.
        adapter: its folder.
        made_by: the command that makes it; "" for one that ships.
        sort: of the vectors that it makes.
        pictures: the folder of the adapter that encodes pictures, where this one encodes queries alone.
    """

    about: str
    group: str
    adapter: Path
    made_by: str = ""
    sort: Sort = ONE
    pictures: Path | None = None


_SHIPS = Path("scripts/assets/adapters/instructions")
_16_BYTES = " --override output=runs/demo-jpq-16 --override stages.queries.jpq.bytes=16"
_CUT = "--override 'stages.instructions.matryoshka=[32,64,128]' --override output=runs/demo-matryoshka"
MODELS = {
    "shipped": Model("one vector, 40,000 triplets", SHIPPED, _SHIPS),
    **{
        f"tuned-{size}": Model(
            f"queries tuned with codes of {size} bytes", SHIPPED, Path(f"runs/{run}/queries"),
            f"mllm-embed-train run demo-jpq{how}", pictures=_SHIPS,
        )
        for size, run, how in ((32, "demo-jpq", ""), (16, "demo-jpq-16", _16_BYTES))
    },
    "demo": Model("one vector", ALIKE, Path("runs/demo/instructions"), "mllm-embed-train run demo"),
    "matryoshka": Model(
        "one vector, to be cut", ALIKE, Path("runs/demo-matryoshka/instructions"), f"mllm-embed-train run demo {_CUT}"
    ),
    "multi": Model(
        "a vector a token", ALIKE, Path("runs/demo-multi/instructions"), "mllm-embed-train run demo-multi", SEVERAL
    ),
    "lexical": Model(
        "one vector, and words", ALIKE, Path("runs/demo-lexical/instructions"), "mllm-embed-train run demo-lexical",
        WORDS,
    ),
}  # fmt: skip


class Side(NamedTuple):
    """The vectors of a test, of a sort: the gallery's and the queries'."""

    gallery: Any
    queries: Any


class Scenes:
    """The demo's data: two tests, and the pictures that were trained on."""

    def __init__(self, folder: Path):
        """Open a folder. Raises ConfigError where it is not there."""
        if not (folder / "train").is_dir():
            raise ConfigError(f"{folder} has no scenes: python scripts/make_scenes.py --output {folder}")
        self.folder = folder
        self.tasks: dict[str, Task] = {test: open_suite("folder", folder / test).tasks[0] for test in TESTS}

    @cached_property
    def digest(self) -> str:
        """What tells these scenes from others."""
        folders = [self.folder / name for name in ("train", *TESTS)]
        pictures = (path for folder in folders for path in sorted(folder.rglob("*.jpg")))
        return digest_of([*(DataFolder.open(folder).fingerprint() for folder in folders), *map(sha256_of, pictures)])

    def pictures(self) -> list[Item]:
        """Return the pictures that were trained on."""
        source = picture_folder(self.folder / "train" / "images")
        return [source.read(row)[0] for row in range(len(source.ids))]


class Encoded:
    """The vectors of the scenes by one model, kept in files."""

    def __init__(self, name: str, model: Model, scenes: Scenes, folder: Path):
        """Take a model by its name, which makes no vector yet. Raises ConfigError where its adapter is not there."""
        adapters = [model.adapter, *([model.pictures] if model.pictures else [])]
        for place in adapters:
            if not place.is_dir():
                raise ConfigError(f"{place} is missing{_cure(model, place)}")
        self.model, self.scenes = model, scenes
        found = (path for adapter in adapters for path in sorted(adapter.rglob("*")))
        files = [path for path in found if path.suffix in (".json", ".safetensors")]
        self.digest = digest_of([model_fingerprint(BASE), *map(sha256_of, files), scenes.digest])
        self._folder = folder / f"{name}-{self.digest}"
        self._sides: dict[str, Side] = {}

    def side(self, test: str) -> Side:
        """Return the vectors of a test."""
        if test not in self._sides:
            task = self.scenes.tasks[test]
            queries = [entry[0] for entry in task.queries]
            self._sides[test] = Side(
                self._kept(f"{test}-gallery", task.gallery), self._kept(f"{test}-queries", queries, asks=True)
            )
        return self._sides[test]

    def pictures(self) -> Any:
        """Return the vectors of the pictures that were trained on."""
        return self._kept("train", self.scenes.pictures())

    def _kept(self, name: str, items: Sequence[Item], asks: bool = False) -> Any:
        path, sort = self._folder / f"{name}.npz", self.model.sort
        if not path.is_file():
            arrays = sort.arrays(sort.encode(self._encoder(asks), items))
            with atomic_file(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)
        with np.load(path, allow_pickle=False) as found:
            return sort.back({key: found[key] for key in found.files})

    def _encoder(self, asks: bool) -> MLLMEmbedder:
        """Return what encodes queries, or pictures. Raises ConfigError where these are not what those are to find."""
        own = _embedder(self.model.adapter)
        if self.model.pictures is None:
            return own
        pictures = _embedder(self.model.pictures)
        try:
            check_same(pictures.provenance, own.target_space, SPACE_FIELDS, self.model.pictures)
        except ConfigError as error:
            told = f"{self.model.adapter} was tuned to find other vectors than those of {self.model.pictures}"
            raise ConfigError(f"{told}; `{self.model.made_by}` trains it to") from error
        return own if asks else pictures


def _cure(model: Model, folder: Path) -> str:
    if folder == model.adapter and model.made_by:
        return f", which `{model.made_by}` trains"
    return ": run this from the folder of the project"


@lru_cache(maxsize=2)  # of queries and of pictures, by turns
def _embedder(adapter: Path) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(BASE, adapter=adapter).merge_adapter()


def digest_of(facts: Any) -> str:
    """Return some letters that tell facts from others."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
