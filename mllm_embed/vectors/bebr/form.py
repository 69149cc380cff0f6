"""What codes of several levels are: the numbers that say which codes go together."""

from __future__ import annotations

from dataclasses import dataclass

_WIDEST = 512  # numbers within a perceptron, at most: the maps lie beside the codes, and should not outweigh them


@dataclass(frozen=True)
class Form:
    """The sizes of codes.

    Args:
        levels: of bits, at least 1.
        bits: of a level, a multiple of 8.
    """

    levels: int
    bits: int

    def hidden(self, dimension: int) -> int:
        """Return the width of the perceptrons that code vectors of so many numbers."""
        return min(_WIDEST, dimension)

    def coder_numbers(self, dimension: int) -> int:
        """Return how many numbers the maps have together that code vectors of so many."""
        hidden = self.hidden(dimension)
        back = dimension * (self.bits + hidden + 1) + hidden * (self.bits + 1)
        there = self.bits * (dimension + hidden + 1) + hidden * (dimension + 1)
        return self.levels * there + (self.levels - 1) * back

    @property
    def bytes(self) -> int:
        """The bytes of a code."""
        return self.levels * self.bits // 8
