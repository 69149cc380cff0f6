"""A line for each cell, with the time that the rest will take."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .cell import CellRecord


class Progress:
    """Counts cells, and reckons what is left by what a model took for each item so far."""

    def __init__(self, due: Iterable[tuple[str, str, int]], tell: Callable[[str], None]):
        """Begin.

        Args:
            due: the model's name, the benchmark's, and the number of items, of each cell that is to be made.
            tell: is called with each line.
        """
        self._due = {(model, benchmark): items for model, benchmark, items in due}
        self._count, self._done, self._tell = len(self._due), 0, tell
        self._rates: dict[str, tuple[float, int]] = {}  # model -> seconds and items so far
        self._loading: dict[str, float] = {}

    def known(self, model: str, record: CellRecord) -> None:
        """Take in what a cell took that was made before, or just now."""
        seconds, items = self._rates.get(model, (0.0, 0))
        self._rates[model] = seconds + record.cost.seconds, items + record.items
        self._loading[model] = record.cost.loading

    def begun(self, model: str, benchmark: str) -> None:
        """Tell that a cell is begun."""
        self._tell(f"[{self._done + 1}/{self._count}] {model} on {benchmark}")

    def ended(self, model: str, benchmark: str, said: str) -> None:
        """Tell that a cell is done, or failed."""
        if self._due.pop((model, benchmark), None) is not None:
            self._done += 1
        left = f"; {self._left()}" if self._due else ""
        self._tell(f"[{self._done}/{self._count}] {model} on {benchmark}: {said}{left}")

    def _left(self) -> str:
        """Return how long the rest will take, in words."""
        seconds = sum(self._seconds(model, items) for (model, _), items in self._due.items())
        # to come are models as well, each of which is loaded once
        loading = list(self._loading.values())
        loaded = {model for model, _ in self._due} - set(self._rates)
        seconds += len(loaded) * (sum(loading) / len(loading) if loading else 0.0)
        return f"about {_duration(seconds)} left" if self._rates else "time left not known yet"

    def _seconds(self, model: str, items: int) -> float:
        """Return the seconds that items will take, as the model took so far; as the slowest did of one not yet seen."""
        rates = {name: seconds / max(1, count) for name, (seconds, count) in self._rates.items()}
        return items * (rates.get(model) or max(rates.values(), default=0.0))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
