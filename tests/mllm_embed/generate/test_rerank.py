"""The first answers in the order of the model's own yes and no, as the command and in code."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from mllm_embed import MLLMEmbedder, Query, Searcher
from mllm_embed.cli import main
from mllm_embed.generate.generator import Generator
from mllm_embed.generate.rerank import ZeroShotJudge, question
from mllm_embed.search.reranking import reranked
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
    wanted = [hits[at].id for at in sorted(range(5), key=lambda at: -scores[at])] + [hit.id for hit in hits[5:]]
    judge = ZeroShotJudge(generator, batch_size=2)
    found = reranked(judge, query, hits, depth=5)
    assert [hit.id for hit in found] == wanted != [hit.id for hit in hits]
    assert [hit.judged for hit in found] == pytest.approx([*sorted(scores, reverse=True), None, None, None], abs=1e-5)
    lost = [hits[0], Hit("gone", 0.5, None), *hits[1:4]]
    assert reranked(judge, query, lost, depth=3)[2].id == "gone"
    assert reranked(judge, query, hits, depth=0) == hits
    assert [hit.id for hit in reranked(judge, query, hits, depth=5, weight=1e6)] == [hit.id for hit in hits]
    command = ["search", "--gallery", str(data / "images"), "--image", str(data / "images/0.png"), "-k", "3"]
    command += ["--instruction", "make it blue", "--output", str(tmp_path / "out.png"), "--model", str(saying)]
    assert main([*command, "--dtype", "float32", "--rerank", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:4]
    assert [line.split()[3] for line in lines] == wanted[:3]
    assert main([*command, "--rerank", "-1"]) == 2


def test_what_is_asked_fits_the_query(data: Path) -> None:
    answer = [data / "images/1.png"]
    assert 'modified with "in red"' in question(Query(image=data / "a.png", instruction="in red"), answer).words
    assert '"a shoe, without laces"' in question(Query(instruction="a shoe", avoid="laces"), answer).words
    assert question(Query(instruction="a shoe"), answer).images == tuple(answer)
    assert question(Query(image=data / "a.png"), answer).images == (data / "a.png", *answer)
