"""The cost of computing some inputs in some way, and how much of it planning saves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """The work that a way to compute some inputs asks of the model.

    Args:
        inputs: sequences that are pooled to a vector.
        pictures: pictures that the vision tower sees.
        tokens: tokens of the language model that mean something.
        computed: these and the padding.
    """

    inputs: int = 0
    pictures: int = 0
    tokens: int = 0
    computed: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of both."""
        return Cost(
            self.inputs + other.inputs,
            self.pictures + other.pictures,
            self.tokens + other.tokens,
            self.computed + other.computed,
        )


def total(costs: Iterable[Cost]) -> Cost:
    """Return the cost of all of these together."""
    return sum(costs, Cost())


def explained(given: Cost, planned: Cost) -> str:
    """Return a table of what a plan saves."""
    names = {"inputs": "inputs", "pictures": "pictures seen", "tokens": "tokens", "computed": "tokens with padding"}
    lines = [f"{'':14}" + "".join(f"{title:>22}" for title in names.values())]
    for row, cost in (("as given", given), ("planned", planned)):
        lines.append(f"{row:14}" + "".join(f"{getattr(cost, name):>22,}" for name in names))
    ratios = [getattr(given, name) / max(getattr(planned, name), 1) for name in names]
    lines.append(f"{'saved':14}" + "".join(f"{ratio:>20.2f} x" for ratio in ratios))
    useful = planned.tokens / max(planned.computed, 1)
    return "\n".join([*lines, f"{useful:.1%} of the tokens that are computed are no padding"])
