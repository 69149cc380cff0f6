"""Query-time methods: each equals its formula written out by hand, and with its neutral setting the plain ranking."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.benchmarks import open_suite
from eval.cli import main
from eval.methods import methods
from eval.reports.pages.html_page import read_page
from eval.scoring.evaluate import embed
from eval.scoring.score import Vectors, answers_of, ranks_of
from eval.studies.cached_reranker import CachedReranker
from eval.studies.compare_methods import compare_methods
from eval.studies.llm_texts import NOTHING, LLMTexts, read_captions, rewrite
from eval.studies.method import MethodContext, Ranking
from mllm_embed import MLLMEmbedder
from mllm_embed.errors import ConfigError
from mllm_embed.generate.generator import Question
from mllm_embed.types import Item


class Scripted:
    """In the place of the language model: says a fixed thing of each question, and scores by its words' length."""

    seconds = spent = 0.0

    def generate(self, questions: list[Question]) -> list[str]:
        return [f"{question.words[:12]} {stem(question.images[0])}" for question in questions]

    def yes_no_margin(self, questions: list[Question]) -> list[float]:
        return [judged(question) for question in questions]

    def log_likelihood(self, pairs: list[tuple[Question, str]]) -> list[float]:
        return [judged(question) + len(answer) for question, answer in pairs]


def stem(image: object) -> str:
    return Path(str(image)).stem


def number(image: object) -> int:
    return int("".join(filter(str.isdigit, stem(image))) or 0)


def judged(question: Question) -> float:
    return float(sum(number(image) * 7 for image in question.images) % 5)


@pytest.fixture
def context(embedder: MLLMEmbedder, data: Path) -> MethodContext:
    suite = open_suite("folder", data)
    vectors, _ = embed(embedder, suite)
    task = suite.tasks[0]
    return MethodContext(task, vectors[task.name], LLMTexts(task, embedder.encode, Scripted()))


def by_hand(context: MethodContext, queries: np.ndarray, gallery: np.ndarray) -> list[list[int]]:
    """Ranked gallery positions of each query, what is excluded left out."""
    lists = []
    for query, left_out in zip(queries.astype(float), context.task.views[0].exclude, strict=True):
        scores = [float(np.dot(query, row)) for row in gallery.astype(float)]
        lists.append(sorted((at for at in range(len(gallery)) if at not in left_out), key=lambda at: -scores[at]))
    return lists


def found(context: MethodContext, ranking: Ranking) -> list[list[int]]:
    """The whole ranking, which the ranks of the targets must agree with."""
    view = context.task.views[0]
    lists = [[at for at in row if at >= 0] for row in ranking.answers(view, len(context.gallery)).tolist()]
    for row, targets, ranks in zip(lists, view.targets, ranking.ranks(view).gallery, strict=True):
        assert [row.index(at) + 1 for at in targets] == ranks.tolist()
    return lists


def normed(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def said(context: MethodContext, embedder: MLLMEmbedder, words: str | None) -> np.ndarray:
    """Vectors of what the script says of each reference, asked with `words` or else for the rewrite."""
    asked = [Question(words, q[0].images) if words else rewrite(q[0]) for q in context.task.queries]
    return embedder.encode(Scripted().generate(asked)).astype(float)


def test_neutral_settings_give_the_plain_ranking_exactly(context: MethodContext) -> None:
    view = context.task.views[0]
    tried = 0
    for method in methods().values():
        if method.neutral is not None:
            ranking = method.run(context, **{**method.defaults, **method.neutral})
            assert np.array_equal(ranking.answers(view, 10), answers_of(view, context.composed, context.gallery, 10)), (
                method.name
            )
            plain = ranks_of(view, context.composed, context.gallery)
            assert all(map(np.array_equal, ranking.ranks(view).gallery, plain.gallery)), method.name
            assert np.array_equal(ranking.queries, context.composed)
            tried += 1
    assert tried == 8


def test_methods_on_vectors_are_their_formulas(context: MethodContext, embedder: MLLMEmbedder) -> None:
    q, v, t, g = (part.astype(float) for part in (context.composed, context.image, context.text, context.gallery))
    d, r = said(context, embedder, "Describe this image."), said(context, embedder, None)
    captions = embedder.encode(
        Scripted().generate([Question("Describe this image.", item.images) for item in context.task.gallery])
    ).astype(float)
    angle = np.arccos((v * t).sum(1, keepdims=True))
    arc = (np.sin(0.7 * angle) * v + np.sin(0.3 * angle) * t) / np.sin(angle)
    spoken = normed(d + 1.2 * (r - d))
    expected = {
        "edit strength": ({"strength": 1.4}, normed(v + 1.4 * (q - v)), g),
        "image only": ({}, v, g),
        "text only": ({}, t, g),
        "image text sum": ({}, v + t, g),
        "image text slerp": ({"share": 0.3}, arc, g),
        "caption fusion": ({"beta": 0.2}, q, 0.8 * g + 0.2 * captions),
        "caption rewrite": ({}, r, g),
        "rewrite fusion": ({"weight": 0.3}, normed(0.7 * q + 0.3 * r), g),
        "pdv fusion": (
            {"beta": 0.75, "image": 1.4, "text": 1.2},
            normed(0.25 * normed(v + 1.4 * (q - v)) + 0.75 * spoken),
            g,
        ),
    }
    for name, (settings, queries, gallery) in expected.items():
        assert found(context, methods()[name].run(context, **settings)) == by_hand(context, queries, gallery), name
    assert set(methods()) == {
        *expected,
        "weimocir",
        "basic",
        "superglobal",
        "rerank yes no",
        "rerank caption",
        "rerank",
    }


@pytest.mark.parametrize("count", [1, 3])
def test_weimocir_asks_captions_with_those_of_the_reference(
    context: MethodContext, embedder: MLLMEmbedder, count: int
) -> None:
    own = {name: [f"{name} as {n} says" for n in range(count)] for name in context.task.gallery_ids}
    context.llm_texts.captions = own
    v, t, g = (part.astype(float) for part in (context.image, context.text, context.gallery))
    place = {item.images: at for at, item in enumerate(context.task.gallery)}
    shown = [place[query[0].images] for query in context.task.queries]
    captions = np.stack([embedder.encode([own[name][n] for name in own]).astype(float) for n in range(count)])
    sides = [normed(0.2 * captions[n][shown] + 0.8 * t) @ captions[n].T for n in range(count)]
    scores = 0.7 * normed(0.2 * v + 0.8 * t) @ g.T + 0.3 * np.mean(sides, axis=0)
    lists = by_hand(context, scores, np.eye(len(g)))
    assert found(context, methods()["weimocir"].run(context, alpha=0.8, beta=0.3)) == lists
    with pytest.raises(ConfigError, match="beta is a share from 0 to 1, not 1.1"):
        methods()["weimocir"].run(context, beta=1.1)


def test_weimocir_describes_a_reference_that_is_not_in_the_gallery(context: MethodContext) -> None:
    elsewhere = [
        tuple(replace(item, image=Path(f"/elsewhere/{stem(item.image)}.png")) for item in row)
        for row in context.task.queries
    ]
    context.task = replace(context.task, queries=elsewhere)
    context.llm_texts.task = context.task
    _, described = context.llm_texts.caption_pairs()
    said_of_first = context.llm_texts.encode([f"Describe thi {stem(elsewhere[0][0].image)}"])
    assert described[0, 0] == pytest.approx(said_of_first[0], abs=1e-6)


def test_basic_is_its_formula(context: MethodContext) -> None:
    v, t, g = (part.astype(float) for part in (context.image, context.text, context.gallery))
    varied, words = g - g.mean(0), t - t.mean(0)
    spread = 0.8 * np.cov(g.T, ddof=1) - 0.2 * np.cov(t.T, ddof=1)
    values, vectors = np.linalg.eigh(spread)
    kept = vectors[:, values > 0]
    scores = []
    for picture, word in zip(v - g.mean(0), words, strict=True):
        s, t_ = (varied @ (kept @ (kept.T @ picture)), varied @ word)
        s, t_ = ((one - one.min()) / -one.min() for one in (s, t_))
        scores.append(s * t_ - 0.1 * (s + t_) ** 2)
    lists = by_hand(context, np.array(scores), np.eye(len(g)))
    assert found(context, methods()["basic"].run(context)) == lists


def test_superglobal_is_its_formula(context: MethodContext) -> None:
    depth, count, beta = 5, 2, 0.15
    lists = by_hand(context, context.composed, context.gallery)
    for number, row in enumerate(lists):
        first = context.gallery[row[:depth]].astype(float)
        refined = []
        for at, x in enumerate(first):
            near = sorted((other for other in range(depth) if other != at), key=lambda other: -x @ first[other])[:count]
            total = sum(beta * (x @ first[other]) for other in near)
            refined.append((x + sum(beta * (x @ first[other]) * first[other] for other in near)) / (1 + total))
        q = context.composed[number].astype(float)
        ones = [q @ x for x in refined]
        best = np.max(sorted(refined, key=lambda x: -q @ x)[: count + 1], axis=0)
        scores = [(one + best @ x) / 2 for one, x in zip(ones, refined, strict=True)]
        row[:depth] = [row[at] for at in sorted(range(depth), key=lambda at: -scores[at])]
    ranking = methods()["superglobal"].run(context, depth=depth, neighbours=count, beta=beta)
    assert found(context, ranking) == lists


def test_rerankers_put_the_first_answers_in_the_model_s_order_and_leave_the_rest(context: MethodContext) -> None:
    for name, settings in (("rerank yes no", {}), ("rerank caption", {"weight": 0.3})):
        lists = by_hand(context, context.composed, context.gallery)
        for row, query, vector in zip(lists, context.task.queries, context.composed, strict=True):
            shown = query[0].images if name == "rerank yes no" else ()
            scores = {at: judged(Question("", (*shown, *context.task.gallery[at].images))) for at in row}
            if settings:
                scores = {at: float(vector @ context.gallery[at]) + 0.3 * score for at, score in scores.items()}
            row[:4] = sorted(row[:4], key=lambda at: -scores[at])
        assert found(context, methods()[name].run(context, depth=4, **settings)) == lists, name


def test_an_answer_without_a_word_stands_for_nothing(context: MethodContext) -> None:
    context.llm_texts.generator.generate = lambda questions: ["" for _ in questions]
    assert set(context.llm_texts.rewritten()) == {NOTHING}
    found(context, methods()["rerank caption"].run(context, depth=3))


class Lengths:
    """In the place of a re-ranker: scores by the numbers of both pictures, and remembers what it was asked."""

    def __init__(self, weights: str = "none") -> None:
        self.asked: list[int] = []
        self.provenance = {"weights": weights}

    def scores_of(self, lists: list, batch_size: int, show_progress: bool) -> list[list[float]]:
        self.asked.append(sum(len(candidates) for _, candidates in lists))
        return [[self.score(query, one) for one in candidates] for query, candidates in lists]

    @staticmethod
    def score(query: Item, candidate: Item) -> float:
        return (number(query.images[0]) * 3 + number(candidate.images[0]) * 7) % 5 / 3


def test_a_re_ranker_orders_the_first_answers_and_is_asked_once(context: MethodContext, tmp_path: Path) -> None:
    judge, method = Lengths(), methods()["rerank"]
    context.reranker = CachedReranker(judge, tmp_path, batch_size=4)
    plain = found(context, Ranking(context.composed, context.gallery))
    for weight in (0.0, 0.5):
        for row, (query, before) in enumerate(zip(context.task.queries, plain, strict=True)):
            fits = [Lengths.score(query[0], context.task.gallery[at]) for at in before[:3]]
            cosines = [float(context.composed[row] @ context.gallery[at]) for at in before[:3]]
            order = sorted(range(3), key=lambda at: -fits[at] - weight * cosines[at])
            wanted = [*(before[at] for at in order), *before[3:]]
            assert found(context, method.run(context, depth=3, weight=weight))[row] == wanted
    pairs = 3 * len(plain)
    assert sum(judge.asked) == pairs and max(judge.asked) <= 6
    for weights, asked in (("none", 0), ("others", pairs)):
        other = Lengths(weights)
        context.reranker = CachedReranker(other, tmp_path)
        found(context, method.run(context, depth=3))
        assert sum(other.asked) == asked
    context.reranker = None
    with pytest.raises(ConfigError, match="--reranker"):
        found(context, method.run(context))


def test_candidates_are_reranked_among_themselves(context: MethodContext) -> None:
    view = replace(context.task.views[0], exclude=None, candidates=[(at, (at + 1) % 8, 5, 5) for at in range(8)])
    plain = answers_of(view, context.composed, context.gallery, 10)
    ranking = Ranking(
        context.composed, context.gallery, 10, lambda answers: np.arange(answers.shape[1])[None].repeat(8, 0)
    )
    for row, given in zip(ranking.answers(view, 10), plain, strict=True):
        assert [at for at in row if at >= 0] == [at for at in given if at >= 0][::-1]


def test_answers_are_kept_and_cost_the_same_the_second_time(
    embedder: MLLMEmbedder, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, chosen = open_suite("folder", data), {"caption rewrite": methods()["caption rewrite"]}
    first = compare_methods(embedder, suite, chosen, tmp_path)
    monkeypatch.setattr("eval.studies.cached_generator.Generator", None)  # no new question is asked
    second = compare_methods(embedder, suite, chosen, tmp_path)
    one, two = (comparison.results["caption rewrite"] for comparison in (first, second))
    assert one.result.tasks[""].rows == two.result.tasks[""].rows
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 8
    lines = (json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines())
    asked = sum(float(line["seconds"]) for line in lines) / 8
    assert min(one.seconds, two.seconds) >= asked


def test_answers_of_another_chat_template_are_not_taken(embedder: MLLMEmbedder, data: Path, tmp_path: Path) -> None:
    suite, chosen = open_suite("folder", data), {"caption rewrite": methods()["caption rewrite"]}
    compare_methods(embedder, suite, chosen, tmp_path)
    embedder.processor.chat_template += " "
    compare_methods(embedder, suite, chosen, tmp_path)
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 16


def test_settings_are_chosen_on_other_queries_alone(embedder: MLLMEmbedder, data: Path, tmp_path: Path) -> None:
    suite = open_suite("folder", data)
    chosen = {"edit strength": methods()["edit strength"]}
    with pytest.raises(ConfigError, match="shares 8 queries with halves"):
        compare_methods(embedder, suite, chosen, tmp_path, tune_on=suite)
    content = json.loads((data / "benchmark.json").read_text())
    for query in content["queries"]:
        query["instruction"] += " please"
    (data / "benchmark.json").write_text(json.dumps({**content, "name": "polite"}))
    with pytest.raises(ConfigError, match="polite shares 8 queries"):  # in other words, but with the same targets
        compare_methods(embedder, suite, chosen, tmp_path, tune_on=open_suite("folder", data))
    targets = [query["targets"] for query in content["queries"]]
    for query, other in zip(content["queries"], [*targets[1:], targets[0]], strict=True):
        query["targets"] = other
    (data / "benchmark.json").write_text(json.dumps({**content, "name": "polite"}))
    comparison = compare_methods(embedder, suite, chosen, tmp_path, tune_on=open_suite("folder", data))
    assert comparison.tuned_on.startswith("polite (")
    assert comparison.results["edit strength"].settings["strength"] in methods()["edit strength"].grid["strength"]


def test_the_command_prints_a_table_and_writes_results(
    tiny_llava: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["methods", str(data), "--model", str(tiny_llava), "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for name in ("plain", *methods()):
        assert f"| {name} " in text
    assert "has no token for" in text
    content = json.loads((tmp_path / "out" / "methods.json").read_text())
    with Image.open(tmp_path / "out" / "gains.png") as drawn:
        assert min(drawn.size) > 300
    assert content["tuned on"] is None and content["headline"] == "R@1"
    assert content["methods"]["edit strength"]["settings"] == {"strength": 0.8}
    assert "no token for" in content["methods"]["rerank yes no"]["refused"]
    both = [str(tmp_path / "out" / name) for name in ("plain", "edit-strength")]
    assert main(["compare", *both, "--data", str(data), "--output", str(tmp_path / "page")]) == 0
    page, thumbnails = read_page(tmp_path / "page" / "report.html")
    # the benchmark itself gives words and pictures of results whose folders have no page
    assert thumbnails and all(page["queries"]["words"]) and page["runs"] == ["plain", "edit-strength"]
    gains = [method["gain"] for method in content["methods"].values() if method["gain"]]
    assert content["tests"]["count"] == len(gains)
    assert all(gain["p"] <= gain["p_holm"] <= min(1, len(gains) * max(one["p"] for one in gains)) for gain in gains)
    gain = content["methods"]["edit strength"]["gain"]["points"]
    assert f"{gain:+.2f}" in capsys.readouterr().out
    assert main([*arguments, "--only", "edit strength", "--set", "edit strength.strength=0.5"]) == 0
    content = json.loads((tmp_path / "out" / "methods.json").read_text())
    assert content["methods"]["edit strength"]["settings"] == {"strength": 0.5}
    capsys.readouterr()
    for given, fault in {
        "edit strength.power=2": "edit strength has no setting 'power'; it has strength",
        "strength=2": "--set takes METHOD.SETTING=VALUE, not 'strength=2'",
        "edit strength.strength=much": "'much' is no number",
        "magic.depth=2": "there is no method 'magic' here",
    }.items():
        assert main([*arguments, "--set", given]) == 2
        assert fault in capsys.readouterr().err
    assert main([*arguments, "--only", "magic"]) == 2
    assert "there is no method 'magic'" in capsys.readouterr().err
    assert main([*arguments, "--tune-on", str(data)]) == 2
    assert "shares 8 queries" in capsys.readouterr().err


class ByLength:
    """Judges candidates by how many there are behind each."""

    def scores_of(self, lists: Sequence[Any]) -> list[list[float]]:
        return [[float(len(candidates) - at) for at in range(len(candidates))] for _, candidates in lists]


def test_every_method_runs_on_every_benchmark(suites: dict) -> None:
    rng = np.random.default_rng(0)

    def encode(items: list) -> np.ndarray:
        return normed(rng.standard_normal((len(items), 8))).astype(np.float32)

    for name in ("fashioniq", "cirr", "circo", "genecis"):
        for task in suites[name].tasks:
            rows = {row: encode(task.queries) for row in (task.query_kind, "image only", "text only")}
            texts = LLMTexts(task, encode, Scripted())
            context = MethodContext(task, Vectors(encode(task.gallery), rows), texts, ByLength())
            for method in methods().values():
                ranking = method.run(context)
                for view in task.views:
                    ranks, plain = ranking.ranks(view), ranks_of(view, context.composed, context.gallery)
                    sizes = [len(row) for row in ranks.gallery]
                    assert sizes == [len(row) for row in plain.gallery] and min(map(min, ranks.gallery)) >= 1


def test_given_captions_are_used_and_must_be_whole(
    tiny_llava: Path, embedder: MLLMEmbedder, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    told = {str(at): [f"picture {at}", f"the {at}th"] for at in range(7)} | {"7": "the last"}
    (tmp_path / "captions.json").write_text(json.dumps(told))
    suite = open_suite("folder", data)
    sides = []

    def encode(items: list) -> np.ndarray:
        sides.extend(item.side for item in items)
        return embedder.encode(items)

    texts = LLMTexts(suite.tasks[0], encode, Scripted(), read_captions(tmp_path / "captions.json", suite))
    wanted = embedder.encode(told["3"]).mean(0)
    assert texts.mean_captions()[3] == pytest.approx(wanted, abs=1e-6)
    assert texts.mean_captions()[7] == pytest.approx(embedder.encode(["the last"])[0], abs=1e-6)
    assert set(sides) == {"document"}
    texts.rewrites()
    assert sides[-1] == "query" and "document" not in sides[8 + 7 :]  # what searches, and only that, is a query
    arguments = ["methods", str(data), "--model", str(tiny_llava), "--output", str(tmp_path / "out")]
    arguments += ["--only", "caption fusion", "--captions", str(tmp_path / "captions.json")]
    assert main(arguments) == 0
    assert not (tmp_path / "out" / "answers.jsonl").read_text()
    (tmp_path / "captions.json").write_text(json.dumps({**told, "3": " "}))
    assert main(arguments) == 2
    assert 'the gallery picture "3" has no caption' in capsys.readouterr().err
