"""The maps that make recurrent binary codes of float vectors, as numbers that are applied with numpy alone."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..unit import unit
from .codes import pack, points

_ROWS = 8192  # coded at a time


@dataclass(frozen=True)
class Map:
    """A residual perceptron of one hidden layer: x -> x `straight` + `shift` + relu(x `into` + `bias`) `out`.

    The paper's map is Linear, BatchNorm, ReLU, Linear; here the normalisation is part of `into` and `bias`, and a
    straight way is added.

    Args:
        straight: [I, O] float32.
        shift: [O] float32.
        into: [I, H] float32.
        bias: [H] float32.
        out: [H, O] float32.
    """

    straight: np.ndarray
    shift: np.ndarray
    into: np.ndarray
    bias: np.ndarray
    out: np.ndarray

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the map [n, O] float32 of rows [n, I] float32."""
        return rows @ self.straight + self.shift + np.maximum(rows @ self.into + self.bias, 0) @ self.out


@dataclass(frozen=True)
class Head:
    """All maps of a coder (BEBR, arXiv 2302.08714; vfp/models/binary_head.py of ganyk/BEBR).

    b_0 = sign(W x); for each further level f = unit(B(b)), what the levels so far tell of x, d = sign(R(x - f)), and
    b + 2^-u d replaces b.

    Args:
        first: W, [D] to [bits].
        back: B of each further level, [bits] to [D].
        rest: R of each further level, [D] to [bits].
    """

    first: Map
    back: tuple[Map, ...]
    rest: tuple[Map, ...]

    @property
    def levels(self) -> int:
        """The number of levels."""
        return 1 + len(self.rest)

    @property
    def bits(self) -> int:
        """The bits of a level."""
        return self.first.shift.size

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """Return the codes [N, levels, bits / 8] uint8 of rows [N, D] float32 of unit length."""
        parts = [self._codes(rows[at : at + _ROWS]) for at in range(0, len(rows), _ROWS)]
        return np.concatenate([np.empty((0, self.levels, self.bits // 8), np.uint8), *parts])

    def _codes(self, rows: np.ndarray) -> np.ndarray:
        codes = pack(self.first(rows)[:, None])
        for back, rest in zip(self.back, self.rest, strict=True):
            left = rest(rows - unit(back(points(codes))))
            codes = np.concatenate([codes, pack(left[:, None])], axis=1)
        return codes

    def save(self, path: Path) -> None:
        """Write all numbers to a file of safetensors."""
        save_file({name: np.ascontiguousarray(part) for name, part in self._parts().items()}, path)

    def _parts(self) -> dict[str, np.ndarray]:
        maps = {"first": self.first}
        for level, (back, rest) in enumerate(zip(self.back, self.rest, strict=True), 1):
            maps |= {f"back.{level}": back, f"rest.{level}": rest}
        return {f"{name}.{field.name}": getattr(one, field.name) for name, one in maps.items() for field in fields(one)}

    @classmethod
    def read(cls, path: Path, dimension: int) -> Head:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is none, or not of vectors of `dimension` numbers; it says why.
        """
        try:
            parts = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(" ".join(str(error).split())) from error
        levels = range(1, 1 + sum(name.startswith("back.") and name.endswith(".shift") for name in parts))
        try:
            first = _map(parts, "first")
            head = cls(
                first,
                tuple(_map(parts, f"back.{level}") for level in levels),
                tuple(_map(parts, f"rest.{level}") for level in levels),
            )
        except KeyError as error:
            raise ValueError(f"{error.args[0]} is missing") from error
        ways = [(one, (dimension, head.bits)) for one in (first, *head.rest)]
        for one, sizes in (*ways, *((one, (head.bits, dimension)) for one in head.back)):
            _check(one, *sizes)
        return head


def _map(parts: dict[str, np.ndarray], name: str) -> Map:
    return Map(**{field.name: parts[f"{name}.{field.name}"] for field in fields(Map)})


def _check(one: Map, inputs: int, outputs: int) -> None:
    """Raise ValueError where a map is not of these sizes, in float32."""
    hidden = one.bias.size
    wanted = ((inputs, outputs), (outputs,), (inputs, hidden), (hidden,), (hidden, outputs))
    for field, shape in zip(fields(one), wanted, strict=True):
        part = getattr(one, field.name)
        if part.shape != shape or part.dtype != np.float32:
            raise ValueError(f"{field.name} is {part.dtype} of {part.shape}, not float32 of {shape}")
