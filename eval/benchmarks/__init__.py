"""The benchmarks, one module each, behind one registry: `BENCHMARKS`, and `open_suite` to open one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mllm_embed.errors import ConfigError, DataError

from ..scoring.suite import Suite
from .base import Benchmark, Count, find_files, with_defaults
from .captions import COCO, FLICKR30K
from .circled import CIRCLED
from .circo import CIRCO
from .cirr import CIRR
from .fashioniq import FASHIONIQ
from .folder import FOLDER
from .genecis import GENECIS
from .icir import ICIR
from .lasco import LASCO
from .mbeir import MBEIR
from .mmeb import MMEB
from .pinpoint import PINPOINT
from .shoes import SHOES

BENCHMARKS: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        FASHIONIQ,
        CIRR,
        CIRCO,
        GENECIS,
        ICIR,
        PINPOINT,
        LASCO,
        SHOES,
        MMEB,
        MBEIR,
        FLICKR30K,
        COCO,
        CIRCLED,
        FOLDER,
    )
}


def benchmark_named(name: str) -> Benchmark:
    """Return the entry of that name. Raise ConfigError, with the names that exist, for another one."""
    if name not in BENCHMARKS:
        raise ConfigError(f"no benchmark is called '{name}'; there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def open_suite(
    name: str,
    data: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    options: Mapping[str, str] | None = None,
    pictures: bool | None = True,
) -> Suite:
    """Open a benchmark.

    Args:
        name: of the registry.
        data: folder with its annotation files (and pictures).
        images: folder with its pictures, where that is another one.
        split, options: of the benchmark; its defaults without.
        pictures: whether pictures must be there; None looks for them, and lets missing ones pass; False does not look.

    Raises:
        ConfigError: an unknown name, split or option. DataError: files are missing or not as documented.
    """
    benchmark = benchmark_named(name)
    split, values = with_defaults(benchmark, split, options or {})
    files, counts = find_files(benchmark, data, images, split, values)
    missing = [str(count.missing) for count in counts if not count.found]
    if missing:
        raise DataError(f"{name}: {', '.join(missing)} not found under {data}; get it from {benchmark.annotations}")
    # given vectors are scored without pictures, which need not be there
    files.look, files.lenient = pictures is not False, pictures is None
    return benchmark.build(files, split, values)


def check_benchmark(
    name: str,
    data: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    options: Mapping[str, str] | None = None,
) -> tuple[list[Count], Suite | None]:
    """Count what is there and what is missing: every annotation file, then, once those are there, pictures by task.

    Returns:
        The counts, and the suite when all annotation files could be read.

    Raises:
        As `open_suite`, but not for missing files.
    """
    benchmark = benchmark_named(name)
    split, values = with_defaults(benchmark, split, options or {})
    files, counts = find_files(benchmark, data, images, split, values)
    if not all(count.found for count in counts):
        return counts, None
    files.strict = False
    suite = benchmark.build(files, split, values)
    return [*counts, *files.counts], suite
