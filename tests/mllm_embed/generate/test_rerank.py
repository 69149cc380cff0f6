"""The first answers in the order of the model's own yes and no, as the command and in code."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from mllm_embed import MLLMEmbedder, Query, Searcher
from mllm_embed.cli import main
from mllm_embed.generate.generator import Generator
from mllm_embed.generate.rerank import question, rerank
from mllm_embed.search.searcher import Hit


@pytest.fixture(scope="module")
def saying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.give_words(tiny.make_tiny_llava(tmp_path_factory.mktemp("models") / "saying"), ["yes", "no"])


def test_the_first_hits_come_in_the_order_of_yes(saying: Path, data: Path, tmp_path: Path, capsys) -> None:
    embedder = MLLMEmbedder.from_pretrained(saying, dtype="float32", device="cpu")
    query = Query(image=data / "images/0.png", instruction="make it blue")
    hits = Searcher.from_folder(embedder, data / "images", show_progress=False).search(query, k=8)
    generator = Generator(embedder)
    scores = [next(generator.yes_no_margin([question(query, [hit.image])])) for hit in hits[:5]]
    wanted = [hits[at] for at in sorted(range(5), key=lambda at: -scores[at])] + hits[5:]
    assert wanted != hits and rerank(generator, query, hits, depth=5, batch_size=2) == wanted
    lost = [hits[0], Hit("gone", 0.5, None), *hits[1:4]]
    assert rerank(generator, query, lost, depth=3)[2].id == "gone"
    assert rerank(generator, query, hits, depth=0) == hits
    command = ["search", "--gallery", str(data / "images"), "--image", str(data / "images/0.png"), "-k", "3"]
    command += ["--instruction", "make it blue", "--output", str(tmp_path / "out.png"), "--model", str(saying)]
    assert main([*command, "--dtype", "float32", "--rerank", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:4]
    assert [line.split()[2] for line in lines] == [hit.id for hit in wanted[:3]]
    assert main([*command, "--rerank", "-1"]) == 2


def test_what_is_asked_fits_the_query(data: Path) -> None:
    answer = [data / "images/1.png"]
    assert 'modified with "in red"' in question(Query(image=data / "a.png", instruction="in red"), answer).words
    assert question(Query(instruction="a shoe"), answer).images == tuple(answer)
    assert question(Query(image=data / "a.png"), answer).images == (data / "a.png", *answer)
