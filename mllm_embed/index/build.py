"""Building an index in bounded memory, and measuring it: recall, size, seconds, memory."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..encode.memory import PeakMemory
from ..errors import ConfigError, DataError
from ..files import atomic_folder, check_space
from ..saving.provenance import SPACE_FIELDS, check_same
from ..store.exact import StoreRows, exact
from ..store.gallery import StoreGallery
from ..store.vector_store import VectorStore
from ..vectors.unit import unit
from .effort import BASE
from .engines import new_engine
from .faiss_index import WALKED, Index
from .files import CARD_FILE, SETTINGS_FILE, write_settings
from .fill import fill
from .jpq.quantizer import TunedQuantizer
from .kinds import Kind, kind_of

RECALL = 0.97
"""The recall@10 that settings are chosen for, where nothing else is asked."""
_K = BASE
_QUERIES, _SINGLE, _EXACT_SINGLE = 256, 50, 5
_NOISE = 0.5  # length of what is added to rows to make queries of them
_RERANKS = (1, 2, 5, 10, 20, 50)
_DEPTHS = (30, 100, 300, 1000)  # numbers of answers beyond ten that settings are chosen for
_DEEP_QUERIES = 32  # with which they are
_GAIN = 0.002  # of recall, below which a setting twice as thorough is not worth its time


@dataclass(frozen=True)
class Probe:
    """Queries to measure an index with, and their exact answers.

    Args:
        queries: [Q, D] float32.
        rows: [Q, 10] int64, what an exact search finds.
        origin: where the queries come from, for the card.
        deep: [q, W] int64, more of what it finds for the first of them; None in a store that is too small for that.
    """

    queries: np.ndarray
    rows: np.ndarray
    origin: str
    deep: np.ndarray | None = None


def probe(store: VectorStore, queries: np.ndarray | None = None, seed: int = 0) -> Probe:
    """Return queries with their exact answers: those given, or else rows of the store, moved by noise.

    Args:
        store: what is searched.
        queries: [Q, D] float32 of unit length; of more than 256 some are taken.
        seed: of the choice and of the noise.

    Raises:
        DataError: no row is left in the store.
    """
    rng = np.random.default_rng(seed)
    alive = np.flatnonzero(store.alive)
    if not len(alive):
        raise DataError(f"{store.folder} holds no vectors: there is nothing to index")
    if queries is None:
        chosen = store.take(np.sort(rng.choice(alive, min(_QUERIES, len(alive)), replace=False)))
        noise = unit(rng.standard_normal(chosen.shape).astype(np.float32))
        queries, origin = unit(chosen + _NOISE * noise), f"rows of the store plus noise of length {_NOISE}"
    else:
        origin = "given queries"
        queries = queries[np.sort(rng.permutation(len(queries))[:_QUERIES])]
    rows, may = StoreRows(store), None if len(alive) == len(store) else store.alive
    used = [depth for before, depth in zip((_K, *_DEPTHS), _DEPTHS, strict=False) if before * WALKED < len(alive)]
    deepest = min(max(used, default=0), len(alive))
    deep = exact(rows, queries[:_DEEP_QUERIES], deepest, may)[1] if deepest else None
    return Probe(queries, exact(rows, queries, _K, may)[1], f"{len(queries)} {origin}", deep)


def build_index(
    store: VectorStore,
    folder: str | os.PathLike[str],
    kind: str,
    *,
    recall: float = RECALL,
    queries: np.ndarray | None = None,
    known: Probe | None = None,
    seed: int = 0,
    show_progress: bool | None = None,
    tuned: TunedQuantizer | None = None,
) -> Index:
    """Build an index of all rows of a store, measure it, and write both in one step; an older index is replaced.

    It is trained on a sample and filled block by block: beside the index itself, memory holds a sample of 512 MiB and a
    block of rows.

    Args:
        store: the vectors.
        folder: where to write; an index, or nothing, may be there.
        kind: one of `kinds.KINDS`.
        recall: the recall@10 to choose settings for; where none reaches it, the most thorough are taken.
        queries: [Q, D] float32 to measure with, of the kind that will be asked; by default rows moved by noise.
        known: the result of `probe`, where it was called before.
        seed: of the sample and the queries.
        show_progress: None shows a bar on a terminal.
        tuned: the quantizer of a tuned kind, which a run has left beside its adapter.

    Raises:
        ConfigError: there is no such kind, or a tuned quantizer is missing, too much, or of vectors that another model
            made.
        DataError: the folder holds something else, the store has no rows, or the disk is full.
    """
    path, what = Path(os.path.abspath(folder)), kind_of(kind)
    check_place(path)
    _check_tuned(what, kind, tuned, store)
    if tuned is not None:  # of as many bytes as its run says
        what = replace(what, size=tuned.bytes / (4 * store.dimension))
    known = known or probe(store, queries, seed)
    # lists on disk are written twice: the parts, and what they are merged to
    room = int(what.bytes(len(store), store.dimension)) * (2 if what.on_disk else 1)
    check_space(path, room, f"an index of {len(store):,} rows")
    with atomic_folder(path) as fresh:
        began = time.perf_counter()
        with PeakMemory() as peak:
            fill(store, new_engine(what, len(store), store.dimension, fresh, tuned), seed, show_progress)
        seconds = time.perf_counter() - began
        settings = {"kind": kind, "setting": what.settings[-1], "rerank": _RERANKS[-1], "seed": seed}
        settings |= {"levels": what.levels} if what.levels else {}
        write_settings(fresh, path, store, settings)
        index = Index.open(fresh, store)  # as it will be used: mapped from its files
        setting, rerank = _chosen(index, known, recall)
        chosen = {"setting": setting, "rerank": rerank, "deeper": _deeper(index, known, recall, setting, rerank)}
        card = {
            "kind": kind, "about": what.about, "rows": len(store), "dimension": store.dimension,
            "queries": known.origin, "knob": what.knob or None, "setting": setting if what.knob else None,
            "rerank": rerank if what.compressed else None, "build_seconds": round(seconds, 2),
            "peak_memory_bytes": peak.bytes, "exact_ms": exact_ms(store, known.queries[:_EXACT_SINGLE]),
        }  # fmt: skip
        card |= _measured(index, known, setting, rerank) | _sizes(fresh, store)
        (fresh / CARD_FILE).write_text(card_text(card), encoding="utf-8")
        write_settings(fresh, path, store, settings | chosen | {"card": card})
        del index  # whose files are mapped: Windows renames no folder with open files
    return Index.open(path, store)


def _check_tuned(what: Kind, kind: str, tuned: TunedQuantizer | None, store: VectorStore) -> None:
    """Raise ConfigError where a kind and a tuned quantizer do not go together, or the quantizer is not the store's."""
    if what.tuned != (tuned is not None):
        cure = "give the folder of the run's adapter (--tuned)" if what.tuned else "leave --tuned out"
        raise ConfigError(f"an index '{kind}' has {'' if what.tuned else 'no '}codes that a run has tuned: {cure}")
    if tuned is None:
        return
    if tuned.dimension != store.dimension:
        raise ConfigError(
            f"the tuned codes are of {tuned.dimension} numbers, and {store.folder} has vectors of {store.dimension}"
        )
    check_same(store.provenance, tuned.space, SPACE_FIELDS, store.folder)


def exact_ms(store: VectorStore, queries: np.ndarray) -> float:
    """Return how many milliseconds an exact search of the store takes for one of these queries [Q, D] float32."""
    gallery, spent = StoreGallery(store), []
    gallery.nearest(queries[:1], _K)  # brings the files into memory
    for at in range(len(queries)):
        began = time.perf_counter()
        gallery.nearest(queries[at : at + 1], _K)
        spent.append((time.perf_counter() - began) * 1e3)
    return float(np.median(spent))


def check_place(path: Path) -> None:
    """Raise DataError where a new index would replace something else."""
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file: give a folder for the index")
    if path.is_dir() and any(path.iterdir()) and not (path / SETTINGS_FILE).is_file():
        raise DataError(f"{path} holds something else than an index: give a new or empty folder")


def card_text(card: dict[str, Any]) -> str:
    """Return an index's card as a table in Markdown."""
    ratio = f"{card['ratio']:.3f} of float32, {card['bytes_a_vector']:,.0f} bytes a vector"
    lines = {
        "kind": f"{card['kind']}: {card['about']}",
        "rows": f"{card['rows']:,} of {card['dimension']} dimensions",
        "recall@10": f"{card['recall']:.4f} ({card['queries']})",
        "size": f"{card['bytes'] / 2**20:,.2f} MiB ({ratio})",
        "one query": f"{card['one_ms']:.2f} ms (95 % below {card['one_p95_ms']:.2f})",
        "one query, by an exact search of the store": f"{card['exact_ms']:.2f} ms",
        "queries in a batch": f"{card['batch_ms']:.3f} ms each",
        "built in": f"{card['build_seconds']:,.1f} s",
        "peak memory": f"{card['peak_memory_bytes'] / 2**30:.2f} GiB while it was built, mapped files not counted",
    }
    if card["knob"]:
        lines[card["knob"]] = str(card["setting"])
    if card["rerank"]:
        lines["scored again"] = f"{card['rerank']} times as many candidates as answers, by the full vectors"
    body = [f"| {name} | {value} |" for name, value in lines.items()]
    return "\n".join(["| index | |", "| --- | --- |", *body]) + "\n"


def _chosen(index: Index, known: Probe, recall: float) -> tuple[int, int]:
    """Return the fastest setting that reaches the recall, and how many times k candidates to score again for it.

    Where none does, it is the most thorough ones.
    """
    reranks = _RERANKS if index.kind.compressed else (1,)
    for setting in index.kind.settings:
        if _recall(index, known, setting, reranks[-1]) >= recall:
            for rerank in reranks:
                if _recall(index, known, setting, rerank) >= recall:
                    return setting, rerank
    return index.kind.settings[-1], reranks[-1]


def _deeper(index: Index, known: Probe, recall: float, setting: int, rerank: int) -> dict[int, tuple[int, int]]:
    """Return setting and rerank for each number of answers: such as reach the recall, as far as any do."""
    chosen = {_K: (setting, rerank)}
    for depth in _DEPTHS:
        if known.deep is None or known.deep.shape[1] < depth:
            break
        part = Probe(known.queries[: len(known.deep)], known.deep[:, :depth], known.origin)
        now = _recall(index, part, setting, rerank)
        while now < recall:
            harder = [(2 * setting, rerank)] if 0 < 2 * setting <= index.engine.most else []
            if index.kind.compressed and depth * rerank < len(index.engine):
                harder.append((setting, 2 * rerank))
            reached = {pair: _recall(index, part, *pair) for pair in harder}
            best = max(reached, key=lambda pair: reached[pair], default=(setting, rerank))
            if reached.get(best, 0) - now < _GAIN:
                break
            (setting, rerank), now = best, reached[best]
        chosen[depth] = (setting, rerank)
    return chosen


def _recall(index: Index, known: Probe, setting: int, rerank: int) -> float:
    """Return the share of the exact answers that the index finds."""
    rows = index.search(known.queries, known.rows.shape[1], setting, rerank)[1]
    return float(np.mean([np.isin(right, found).mean() for right, found in zip(known.rows, rows, strict=True)]))


def _measured(index: Index, known: Probe, setting: int, rerank: int) -> dict[str, Any]:
    """Return the recall, and the milliseconds for one query and for each of a batch."""
    width = known.rows.shape[1]

    def timed(queries: np.ndarray) -> float:
        began = time.perf_counter()
        index.search(queries, width, setting, rerank)
        return (time.perf_counter() - began) * 1e3

    timed(known.queries)  # brings the files into memory
    single = [timed(known.queries[at : at + 1]) for at in range(min(_SINGLE, len(known.queries)))]
    batch = [timed(known.queries) / len(known.queries) for _ in range(3)]
    return {
        "recall": _recall(index, known, setting, rerank),
        "one_ms": float(np.median(single)),
        "one_p95_ms": float(np.percentile(single, 95)),
        "batch": len(known.queries),
        "batch_ms": float(np.median(batch)),
    }


def _sizes(folder: Path, store: VectorStore) -> dict[str, Any]:
    """Return the bytes of an index, of one vector in it, and their ratio to the vectors as float32."""
    size = sum(path.stat().st_size for path in folder.iterdir() if path.name not in (SETTINGS_FILE, CARD_FILE))
    return {"bytes": size, "bytes_a_vector": size / len(store), "ratio": size / (4 * store.dimension * len(store))}
