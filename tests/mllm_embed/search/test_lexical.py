"""Search by words and dense vectors together: the ranking of both scores over all rows, whatever is asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from mllm_embed import MLLMEmbedder, Query
from mllm_embed.cli import main
from mllm_embed.data.sources import open_sources
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.search.lexical import FusedGallery, LexicalRows, LexicalSearcher
from mllm_embed.search.searcher import Searcher
from mllm_embed.store.check import check_store
from mllm_embed.store.extract import encode_sources
from mllm_embed.store.gallery import MemoryGallery, StoreGallery
from mllm_embed.store.vector_store import VectorStore
from mllm_embed.vectors.unit import unit

WEIGHT = 0.7


@pytest.mark.parametrize("weight", [0.01, 0.7, 50.0])
def test_both_scores_together_rank_as_a_look_at_all_rows(weight: float) -> None:
    rng = np.random.default_rng(2)
    dense = unit(rng.normal(size=(503, 6)).astype(np.float32))
    words = unit((rng.random((503, 40)) * (rng.random((503, 40)) < 0.1)).astype(np.float32))
    words[7] = words[11] = 0
    ids = [f"r{row}" for row in range(503)]
    asked, said = dense[:3] + 0.1, words[20:23]
    asked = unit(asked)
    memory = MemoryGallery(ids, dense, [None] * 503)
    gallery = FusedGallery(memory, LexicalRows(ids, csr_array(words), memory), csr_array(said), weight)
    allowed = {name for name in ids if int(name[1:]) % 3}
    exclude = [["r1", "r2"], [], ["r20"]]
    for allow in (None, allowed):
        found = gallery.nearest(asked, 9, allow=allow, exclude=exclude)
        for query, answer in enumerate(found):
            totals = {
                name: sum(float(a) * float(b) for a, b in zip(asked[query], dense[row], strict=True))
                + weight * sum(float(a) * float(b) for a, b in zip(said[query], words[row], strict=True))
                for row, name in enumerate(ids)
                if name not in exclude[query] and (allow is None or name in allow)
            }
            best = sorted(totals, key=lambda name: -totals[name])[:9]
            assert [name for name, _ in answer] == best
            assert [score for _, score in answer] == pytest.approx([totals[name] for name in best], abs=1e-4)


@pytest.fixture(scope="module")
def store(tiny_llava: Path, _data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "store"
    model = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", device="cpu").with_lexical(30)
    encode_sources(model, open_sources([str(_data / "images")]), folder, shard_rows=3, show_progress=False)
    return folder


def test_a_store_keeps_words_beside_vectors(
    store: Path, embedder: MLLMEmbedder, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lexical, query = embedder.with_lexical(30), Query(data / "images" / "1.png", "make it blue")
    opened = VectorStore.open(shutil.copytree(store, tmp_path / "store"))
    by_words = LexicalSearcher.over(Searcher(lexical, StoreGallery(opened)), WEIGHT)
    in_memory = LexicalSearcher.from_folder(lexical, data / "images", WEIGHT)
    hits = by_words.search(query, 8)
    assert [hit.id for hit in hits] == [hit.id for hit in in_memory.search(query, 8)]
    plain = {hit.id: hit.score for hit in Searcher(embedder, StoreGallery(opened)).search(query, 8)}
    for hit in hits:  # the words shown are all of what was added
        parts = sum(asked * found for _, asked, found in hit.words)
        assert hit.score == pytest.approx(plain[hit.id] + WEIGHT * parts, abs=1e-5)
    line = by_words.explained(hits[:1]).splitlines()[1]
    assert f"{hits[0].score:.3f} = {plain[hits[0].id]:.3f} + 0.7 x" in line
    opened.remove([hits[0].id])
    again = LexicalSearcher.over(Searcher(lexical, StoreGallery(opened)), WEIGHT).search(query, 8)
    assert [hit.id for hit in again] == [hit.id for hit in hits[1:]]
    # other settings do not go together, a dense search does, and a plain model adds nothing to it
    with pytest.raises(ConfigError, match="lexical.words: 30, now 5"):
        LexicalSearcher.over(Searcher(embedder.with_lexical(5), StoreGallery(opened)), WEIGHT)
    with pytest.raises(ConfigError, match="has no lexical vectors"):
        LexicalSearcher.over(Searcher(embedder, StoreGallery(opened)), WEIGHT)
    with pytest.raises(ConfigError, match="lexical: .*, now null"):
        encode_sources(embedder, open_sources([str(data / "images")]), opened.folder, show_progress=False)
    assert not check_store(opened.folder, show_progress=False).damages
    with pytest.raises(DataError, match="have lexical vectors, and vectors alone cannot be added"):
        opened.add(["x"], np.eye(1, opened.dimension, dtype=np.float32))
    with pytest.raises(DataError, match="rows came to this gallery, or went"):
        by_words.search(query)
    with pytest.raises(DataError, match="k must be at least 1, not 0"):
        LexicalSearcher.over(Searcher(lexical, StoreGallery(opened)), WEIGHT).search(query, 0)
    with (opened.folder / "shards" / "000001.lexical.npz").open("r+b") as file:
        file.seek(60)
        file.write(b"xyz")
    assert "000001.lexical.npz is not what was written" in check_store(opened.folder, show_progress=False).damages[0]
    with pytest.raises(DataError, match="000001.lexical.npz is not what was written"):
        LexicalRows.of(StoreGallery(VectorStore.open(opened.folder)))


def test_the_command_ranks_by_both_and_says_why(
    store: Path, tiny_llava: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["search", "--model", str(tiny_llava), "--gallery", str(store), "--image", str(data / "images" / "1.png")]
    more = ["--lexical", "2", "--output", str(tmp_path / "out.png"), "--dtype", "float32", "-k", "2", "--explain"]
    assert main([*asked, *more, "--lexical-words", "30"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("what made the scores"))
    assert " + 2 x " in lines[at + 1] and " = " in lines[at + 1]
    assert main([*asked, *more]) == 2
    assert "has no lexical vectors" in capsys.readouterr().err
    assert main([*asked, *more, "--rerank", "3"]) == 2
    assert "--lexical goes without --rerank" in capsys.readouterr().err
