"""The benchmarks that lie under a folder, as `check` finds them whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mllm_embed.data.folder import BENCHMARK
from mllm_embed.errors import ConfigError, MLLMEmbedError

from ..benchmarks import BENCHMARKS, check_benchmark
from ..benchmarks.base import Benchmark, Count
from ..reports.submission import SUBMISSIONS
from .named import FOLDER, NamedBenchmark, benchmark_of


def benchmarks_under(root: Path, tell: Callable[[str], None]) -> list[NamedBenchmark]:
    """Return the benchmarks of which all files are under a folder: at itself, or in one of its own.

    Of the registry's these are the usual splits, and those whose labels a server holds; then every folder, at most two
    below it, with a benchmark.json. `tell` is called with a sentence for each of which the queries are there, not all.

    Raises:
        ConfigError: it is no folder, or there is none.
    """
    if not root.is_dir():
        raise ConfigError(f"--data {root} is {'not a folder' if root.exists() else 'missing'}: give one of benchmarks")
    places = [root, *sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))]
    found: list[NamedBenchmark] = []
    for benchmark in BENCHMARKS.values():
        for split in _splits(benchmark):
            found += _first_whole(benchmark, split, places, tell)
    for place in _folders(places):
        name = root.resolve().name if place == root else place.relative_to(root).as_posix()
        whole = _first_whole(BENCHMARKS[FOLDER], None, [place], tell)
        found += [named.model_copy(update={"name": name}) for named in whole]
    if not found:
        raise ConfigError(
            f"--data {root}: no benchmark is whole there; `mllm-embed-eval check NAME --data DIR` says why"
        )
    return found


def _splits(benchmark: Benchmark) -> list[str]:
    """Return the usual split, and the last one where that is a server's; none of folders, which have names."""
    if benchmark.name == FOLDER:
        return []
    return [benchmark.splits[0], *(benchmark.splits[-1:] if benchmark.name in SUBMISSIONS else ())]


def _folders(places: Iterable[Path]) -> Iterator[Path]:
    """Yield the folders with a benchmark.json: `places`, and what lies in all but the first of them."""
    root, *inner = places
    for place in (root, *inner, *(path.parent for one in inner for path in sorted(one.glob(f"*/{BENCHMARK}")))):
        if (place / BENCHMARK).is_file():
            yield place


def _first_whole(
    benchmark: Benchmark, split: str | None, places: Iterable[Path], tell: Callable[[str], None]
) -> Iterator[NamedBenchmark]:
    """Yield a benchmark at the first place where it is whole; if there is none, tell of the first where it is not."""
    partly = []
    for place in places:
        named = benchmark_of(benchmark.name, place, split)
        try:
            counts, suite = check_benchmark(benchmark.name, place, split=split)
        except MLLMEmbedError as error:
            partly.append(f"{named.name} under {place} is left out: {error}")
            continue
        if suite is not None and all(count.found == count.of for count in counts):
            yield named
            return
        if counts[0].found:  # its queries: others' galleries may be its own, too
            partly.append(f"{named.name} under {place} is left out: {_missing(counts)} ({_check(named)} says more)")
    for sentence in partly[:1]:  # below a folder the same files may be found as in it
        tell(sentence)


def _missing(counts: Iterable[Count]) -> str:
    lacking = next(count for count in counts if count.found < count.of)
    return f"{lacking.of - lacking.found:,} of {lacking.of:,} {lacking.what} missing, the first is {lacking.missing}"


def _check(named: NamedBenchmark) -> str:
    split = f" --split {named.split}" if named.split else ""
    return f"mllm-embed-eval check {named.benchmark} --data {named.data}{split}"
