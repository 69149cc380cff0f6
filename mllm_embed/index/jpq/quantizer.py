"""Product codes with two sets of centroids: one by which a vector is coded, and a tuned one by which a code is scored.

JPQ (arXiv 2108.00644; jingtaozhan/JPQ) learns a rotation and centroids by FAISS, codes the corpus, and then trains the
query encoder and the centroids together, while the codes stay what they are. Its corpus is that of the training. A
picture that comes later needs a code too: here it is that of the centroids as FAISS learned them, which are kept for
this, so that tuning has moved the meaning of a code and never its place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ...errors import DataError
from ...files import atomic_file
from ...saving.provenance import INDEX
from ..faiss_train import train_index
from .sizes import CENTROIDS, check_bytes

QUANTIZER_FILE = "quantizer.safetensors"
_SPACE = "space"


@dataclass(frozen=True, eq=False)
class TunedQuantizer:
    """A rotation and product codes of S bytes, each of which stands for one of 256 pieces of a rotated vector.

    A query q scores a row x by (R q) . (scored[0, c_0], ..., scored[S - 1, c_S-1]), where c_s is the number of the
    centroid of `coded[s]` that is nearest to the s-th piece of R x.

    Args:
        rotation: R [D, D] float32, orthogonal.
        coded: [S, 256, D / S] float32, the nearest of which is a vector's code.
        scored: [S, 256, D / S] float32, what a code stands for in a score.
        space: provenance of the vectors that it codes, by `SPACE_FIELDS`; empty where that is not known.
    """

    rotation: np.ndarray
    coded: np.ndarray
    scored: np.ndarray
    space: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def learn(cls, rows: np.ndarray, count: int) -> TunedQuantizer:
        """Return what FAISS learns of rows [N, D] float32 with codes of `count` bytes, which is tuned by nothing yet.

        Raises ConfigError where the bytes do not divide D.
        """
        dimension = rows.shape[1]
        check_bytes(count, dimension)
        index = faiss.index_factory(dimension, f"OPQ{count},PQ{count}np", faiss.METRIC_INNER_PRODUCT)
        train_index(index, np.ascontiguousarray(rows, np.float32))
        turn = faiss.downcast_VectorTransform(index.chain.at(0))
        rotation = faiss.vector_to_array(turn.A).reshape(dimension, dimension)
        centroids = faiss.vector_to_array(faiss.downcast_index(index.index).pq.centroids)
        coded = centroids.reshape(count, CENTROIDS, dimension // count)
        return cls(rotation, coded, coded)

    @property
    def dimension(self) -> int:
        """The numbers of a vector."""
        return self.rotation.shape[0]

    @property
    def bytes(self) -> int:
        """The bytes of a code."""
        return self.coded.shape[0]

    @cached_property
    def identity(self) -> str:
        """The sha256 of all its numbers: what queries and codes that were tuned together have in common."""
        parts = (np.ascontiguousarray(part).tobytes() for part in (self.rotation, self.coded, self.scored))
        return hashlib.sha256(b"".join(parts)).hexdigest()

    @property
    def provenance(self) -> dict[str, Any]:
        """What made the vectors that its scores are of, as a query's `target_space` and an index's provenance say."""
        return {**self.space, INDEX: self.identity}

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """Return the codes [N, S] uint8 of rows [N, D] float32; of two centroids that are as near the first."""
        turned = np.ascontiguousarray(rows, np.float32) @ self.rotation.T
        return self._coder.compute_codes(np.ascontiguousarray(turned))

    def decoded(self, codes: np.ndarray) -> np.ndarray:
        """Return what codes [N, S] uint8 stand for in a score, turned back: [N, D] float32, of any length."""
        pieces = self.scored[np.arange(self.bytes), codes]
        return pieces.reshape(len(codes), self.dimension) @ self.rotation

    @cached_property
    def _coder(self) -> Any:
        coder = faiss.ProductQuantizer(self.dimension, self.bytes, 8)
        faiss.copy_array_to_vector(np.ascontiguousarray(self.coded).ravel(), coder.centroids)
        return coder

    def save(self, path: Path) -> None:
        """Write it to a file of safetensors. Raises OSError where the disk is full."""
        parts = {"rotation": self.rotation, "coded": self.coded, "scored": self.scored}
        with atomic_file(path) as temporary:
            save_file(
                {name: np.ascontiguousarray(part) for name, part in parts.items()}, temporary,
                {_SPACE: json.dumps(dict(self.space))},
            )  # fmt: skip

    @classmethod
    def read(cls, path: Path, cure: str) -> TunedQuantizer:
        """Read what `save` wrote; `cure` says what to do where that is damaged.

        Raises DataError for a file that is not there, or holds anything else.
        """
        try:
            with safe_open(path, framework="np") as file:
                parts = {name: file.get_tensor(name) for name in ("rotation", "coded", "scored")}
                space = json.loads((file.metadata() or {})[_SPACE])
        except FileNotFoundError as error:
            raise DataError(f"{path} is not there: {cure}") from error
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise DataError(f"{path} is damaged ({' '.join(str(error).split())}): {cure}") from error
        _check_shapes(path, parts, cure)
        if not isinstance(space, dict):
            raise DataError(f"{path} is damaged (its space is no object): {cure}")
        return cls(**parts, space=space)


def _check_shapes(path: Path, parts: Mapping[str, np.ndarray], cure: str) -> None:
    """Raise DataError for numbers that are no quantizer's."""
    dimension, count = parts["rotation"].shape[0] if parts["rotation"].ndim else 0, len(parts["coded"])
    piece = (count, CENTROIDS, dimension // max(1, count))
    wanted = {"rotation": (dimension, dimension), "coded": piece, "scored": piece}
    for name, shape in wanted.items():
        part = parts[name]
        if part.shape != shape or part.dtype != np.float32 or not np.isfinite(part).all():
            raise DataError(f"{path} is damaged ({name} is {part.dtype} of {part.shape}): {cure}")
