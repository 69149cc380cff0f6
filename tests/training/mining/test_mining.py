"""Hard negatives: what is chosen from vectors, and `mllm-embed-train mine` on a folder."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllm_embed import DataFolder, MLLMEmbedder, Query
from mllm_embed.errors import ConfigError, DataError, ImageError, ModelError
from mllm_embed.inputs.images import load_image
from mllm_embed.training.cli import main
from mllm_embed.training.data import TrainingRow
from mllm_embed.training.data.folder import read_rows
from mllm_embed.training.data.open import open_rows
from mllm_embed.training.data.source import DataSource
from mllm_embed.training.mining.mine import QuestionVectors
from mllm_embed.training.mining.mine import mine as mine_rows
from mllm_embed.training.mining.mined_rows import MinedRows
from mllm_embed.training.mining.negatives import (
    Rules,
    choose,
    positive_similarity,
    search_blocks,
    without_duplicates,
)
from mllm_embed.training.mining.questions import Questions
from mllm_embed.training.mining.rows import RowsToMine
from mllm_embed.training.mining.vector_cache import VectorCache
from mllm_embed.training.recipe.reranker.stage import RerankStage
from mllm_embed.types import Document


def unit(shape: tuple[int, int], seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rows_of(pairs: list[tuple[str, str]]) -> list[TrainingRow]:
    return [
        TrainingRow(f"r{n}", ask, {"source_text": Document(text=ask), "target_text": Document(text=found)})
        for n, (ask, found) in enumerate(pairs)
    ]


def right_of(questions: Questions) -> list[set[int]]:
    return [set(places.tolist()) for places in questions.right(slice(0, len(questions.queries)))]


def test_siblings_are_the_nearest_answers_to_other_instructions_on_the_picture() -> None:
    rng = np.random.default_rng(5)
    pictures = [Image.new("RGB", (2, 2), (shade, 0, 0)) for shade in (0, 0, 9, 18, 27)]  # two are one
    made = [(int(rng.integers(5)), int(rng.integers(9)), f"a{rng.integers(30)}") for _ in range(60)]
    rows = [
        TrainingRow(f"r{n}", str(n), {"composed": Query(image=pictures[shown], instruction=f"do {what}"),
                                      "target_text": Document(text=found)})
        for n, (shown, what, found) in enumerate(made)
    ]  # fmt: skip
    rows.append(
        TrainingRow("words", "", {"composed": Query(text="a", instruction="do 1"), "target_text": Document(text="b")})
    )
    whole = Questions.of(rows, "composed", "target_text")
    few = whole.only(np.arange(0, len(whole.queries), 3))
    for questions in (whole, few, few.with_candidates(len(whole.gallery) // 2, 1)):
        queries, gallery = unit((len(questions.queries), 8), 3), unit((len(questions.gallery), 8), 2)
        vectors = QuestionVectors(queries, gallery, {}, {4: "torn"})
        own, right = positive_similarity(queries, gallery, questions), questions.right(slice(0, len(queries)))
        words = [item.words for item in questions.gallery]
        for rules in (
            Rules(6, ceiling=1, siblings=4), Rules(6, skip=2, siblings=2), Rules(3, ceiling=1, siblings=3),
            Rules(3, ceiling=float("inf"), depth=5, siblings=3),
        ):  # fmt: skip
            found = mine_rows(questions, vectors, rules, progress=False).negatives
            for q, item in enumerate(questions.queries):
                limit = own[q] - (1 - min(9e9, rules.ceiling)) * abs(own[q])
                scores = gallery @ queries[q]
                order = [n for n in np.argsort(-scores).tolist() if n not in right[q]]
                shown = [p.getpixel((0, 0)) for p in item.images]
                others = {f for s, _, f in made if [pictures[s].getpixel((0, 0))] == shown}
                near = [n for n in order if words[n] in others][: rules.depth]
                close = [n for n in near if n != 4 and scores[n] <= limit][: rules.siblings]
                looked = [n for n in order[: rules.depth] if n != 4][rules.skip :]
                rest = [n for n in looked if scores[n] <= limit][: rules.count]
                wanted = sorted([*close, *(n for n in rest if n not in close)][: rules.count], key=lambda n: -scores[n])
                if np.isin(questions.positive[questions.query == q], 4).any():
                    wanted = []
                assert found.places[q].tolist() == wanted + [-1] * (rules.count - len(wanted)), (q, rules)
    with pytest.raises(ConfigError, match="--siblings is a part of --count, 0 to 2, not 3"):
        Rules(2, siblings=3).check(100)


@pytest.mark.parametrize(
    "rules",
    [
        Rules(5),
        Rules(3, skip=2),
        Rules(4, ceiling=0.5),
        Rules(4, at_most=0.1),
        Rules(4, ceiling=float("inf")),
        Rules(9, depth=10),
    ],
)
def test_negatives_are_those_of_the_obvious_loop(rules: Rules) -> None:
    rng = np.random.default_rng(1)
    made = [(f"q{rng.integers(25)}", f"a{rng.integers(30)}") for _ in range(60)]
    questions = Questions.of(rows_of(made), "source_text", "target_text")
    gallery, noise = unit((len(questions.gallery), 8), 2), unit((len(questions.queries), 8), 3)
    first = [int(questions.positive[np.flatnonzero(questions.query == q)[0]]) for q in range(len(questions.queries))]
    queries = gallery[first] + 0.7 * noise
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    own = positive_similarity(queries, gallery, questions)
    for part, scores, places in search_blocks(queries, gallery, questions.right, rules.depth):
        found = choose(scores, places, own[part], rules)
    some = False
    for q, item in enumerate(questions.queries):
        right = [n for n, g in enumerate(questions.gallery) if (item.words, g.words) in made]
        positive = np.mean([queries[q] @ gallery[n] for ask, a in made if ask == item.words
                            for n in right if questions.gallery[n].words == a])  # fmt: skip
        order = sorted((n for n in range(len(gallery)) if n not in right), key=lambda n: -(queries[q] @ gallery[n]))
        looked = order[rules.skip : rules.depth]
        limit = min(
            positive - (1 - min(9e9, rules.ceiling)) * abs(positive), 1 if rules.at_most is None else rules.at_most
        )
        wanted = [n for n in looked if queries[q] @ gallery[n] <= limit][: rules.count]
        assert found.places[q].tolist() == wanted + [-1] * (rules.count - len(wanted))
        assert np.allclose(found.similarity[q, : len(wanted)], gallery[wanted] @ queries[q], atol=1e-6)
        assert found.above[q] == sum(queries[q] @ gallery[n] > limit for n in looked)
        some |= bool(found.above[q]) and bool(wanted)
    assert some == (rules.ceiling < float("inf"))


def test_a_query_is_no_negative_of_itself() -> None:
    questions = Questions.of(rows_of([("a", "b"), ("b", "c"), ("a", "d")]), "source_text", "target_text")
    named = {
        item.words: {questions.gallery[n].words for n in right}
        for item, right in zip(questions.queries, right_of(questions), strict=True)
    }
    assert named == {"a": {"b", "d"}, "b": {"b", "c"}}
    also = Questions.of(rows_of([("a", "b"), ("b", "c")]), "source_text", "target_text", ["source_text"])
    assert [item.words for item in also.gallery] == ["b", "c", "a"] and also.answers == 2
    with pytest.raises(DataError, match="row 'r0' has no target_image"):
        Questions.of(rows_of([("a", "b")]), "source_text", "target_image")


def test_the_ceiling_stays_below_a_negative_similarity() -> None:
    scores, places = np.array([[-0.09, -0.1, -0.104, -0.2]], np.float32), np.arange(4)[None]
    found = choose(scores, places, np.array([-0.1], np.float32), Rules(2))
    assert found.places.tolist() == [[3, -1]] and found.above.tolist() == [3]


def test_a_picture_under_two_names_is_one(tmp_path: Path) -> None:
    for name, colour in {"a": "red", "b": "red", "c": "blue"}.items():
        Image.new("RGB", (4, 4), colour).save(tmp_path / f"{name}.png")
    picture = {name: Document(image=tmp_path / f"{name}.png") for name in ("a", "b", "c", "gone")}
    rows = [
        TrainingRow(
            f"r{n}", name, {"source_text": Document(text=f"q{n}"), "target_image": picture[name], "image": picture["b"]}
        )
        for n, name in enumerate(("a", "b", "c", "gone"))
    ]
    questions = Questions.of(rows, "source_text", "target_image", ["image"])
    assert list(questions.gallery) == [picture["a"], picture["c"], picture["gone"]]
    assert questions.positive.tolist() == [0, 0, 1, 2]
    itself = Questions.of(rows, "image", "target_image")
    assert right_of(itself) == [{0, 1, 2}] and len(itself.queries) == 1


def test_what_asks_is_a_query_with_its_task_and_none_of_its_own_wrong_answers(data: Path) -> None:
    rows = [json.loads(line) for line in (data / "triplets.jsonl").read_text().splitlines()]
    rows[1]["task"] = "its own"
    (data / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    roles = {"query": "source_text", "positive": "target_text"}
    mining = RowsToMine.open([DataSource(path=data)], "triplets", **roles, tasks=("find", "hold"))
    questions = Questions.of(mining, **roles)
    assert {(query.side, query.task) for query in questions.queries} == {("query", "find"), ("query", "its own")}
    assert {(item.side, item.task) for item in questions.gallery} == {("document", "hold")}
    texts = [item.text for item in questions.gallery]
    for query, right in zip(questions.queries, right_of(questions), strict=True):
        assert query.text in {texts[place] for place in right}
    assert [query.text for query in questions.queries][:2] == [rows[0]["source_text"]] * 2  # of which one has its task


def test_a_stage_of_a_re_ranker_says_what_asks_and_what_is_found(data: Path) -> None:
    sources = [DataSource(path=data)]
    keys = {"data": data, "rows": "triplets", "batch_size": 2, "terms": [{"form": "softmax"}], "query_task": "judge"}
    stage = RerankStage(**keys, query="composed_text", positive="target_text")
    mining = RowsToMine.open(sources, stage=stage)
    assert (mining.kind, mining.roles.query, mining.roles.positive) == ("triplets", "composed_text", "target_text")
    assert mining[0].roles["composed_text"].task is None  # the stage's is in the re-ranker's own words


def test_duplicates_of_the_positive_and_of_each_other_are_passed_over() -> None:
    """Pictures of equal pixels in unlike files: only vectors tell."""
    query, gallery = unit((1, 64), 1), unit((6, 64), 2)
    gallery[4], gallery[5] = gallery[0], gallery[3] + np.float32(3e-8)
    (found,) = search_blocks(query, gallery, lambda part: [{0}], 10)
    _, scores, places = found
    assert sorted(places[0].tolist()) == [-1, 1, 2, 3, 4, 5]
    left = without_duplicates(query, gallery, scores, places, [{0}])
    kept = left[left >= 0].tolist()
    assert len(kept) == 3 and {1, 2} < set(kept) and 4 not in kept
    chosen = choose(scores, left, np.array([1], np.float32), Rules(2, skip=1)).places[0].tolist()
    assert chosen == kept[1:]


def read(output: Path, data: Path, rows: str = "triplets") -> MinedRows:
    return MinedRows(output, open_rows([DataSource(path=data)], rows, []), rows)


def mine(data: Path, model: Path, output: Path, *more: str) -> int:
    command = ["mine", str(data), "--model", str(model), "--output", str(output), "--device", "cpu"]
    return main([*command, "--dtype", "float32", *more])


def test_mining_a_folder_leaves_a_file_that_rows_can_take(
    data: Path, tiny_llava: Path, embedder: MLLMEmbedder, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    output = tmp_path / "made/mined.jsonl"
    options = ["--count", "3", "--ceiling", "1", "--also", "query_image", "--clusters", "2", "--cluster-skip", "1"]
    assert mine(data, tiny_llava, output, *options) == 0
    told = capsys.readouterr().out
    assert "8 rows, 8 distinct queries, 8 candidates" in told and "within a cluster" in told
    with Image.open(output.with_suffix(".png")) as sheet:
        assert sheet.format == "PNG"

    rows = read_rows(DataFolder.open(data), data, "triplets", [])
    mined = read(output, data)
    negatives_of = [mined.negatives(0, number) for number in range(len(rows))]
    lines = [json.loads(line) for line in output.read_text().splitlines()][1:]
    for row, line, negatives in zip(rows, lines, negatives_of, strict=True):
        positive = row.roles["target_image"]
        assert positive not in negatives and len(negatives) == len(line["similarity"])
        if negatives:
            query, own, *found = embedder.encode([row.roles["composed"], positive, *negatives])
            assert np.allclose(found @ query, line["similarity"], atol=1e-4)
            assert (found @ query <= own @ query + 1e-5).all() and line["similarity"] == sorted(
                line["similarity"], reverse=True
            )
    assert mined.clusters().tolist() == [line["cluster"] for line in lines]
    assert any(negatives_of)

    # vectors are there: other rules need no model's work
    monkeypatch.setattr(MLLMEmbedder, "encode", lambda *_, **__: pytest.fail("embedded again"))
    assert mine(data, tiny_llava, output, "--count", "1", "--at-most", "0.9", "--also", "query_image") == 0
    again = read(output, data)
    assert all(len(again.negatives(0, number)) <= 1 for number in range(8)) and set(again.clusters()) == {-1}
    # but not for other data or another role
    assert mine(data, tiny_llava, output, "--count", "1", "--positive", "target_text") == 2
    assert "vectors of another model or of other data; remove it" in capsys.readouterr().err
    # nor for other pictures under the same names
    (data / "images/3.png").write_bytes((data / "images/4.png").read_bytes())
    assert mine(data, tiny_llava, output, "--count", "1", "--also", "query_image") == 2
    assert "vectors of another model or of other data; remove it" in capsys.readouterr().err


def test_an_unreadable_picture_costs_its_rows_alone(
    data: Path, tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_rows(DataFolder.open(data), data, "triplets", [])
    broken = Path(rows[3].roles["target_image"].images[0])
    broken.write_bytes(b"no picture")
    words = ["--count", "2", "--ceiling", "1"]
    for most, share in ((None, "0.01"), ("0.05", "0.05")):  # one or two of 8 are more
        given = [] if most is None else ["--max-unreadable", most]
        assert mine(data, tiny_llava, tmp_path / "mined.jsonl", *words, *given) == 2
        told = capsys.readouterr().err
        assert f"more than max_unreadable {share} allows: {broken} is not a JPEG" in told and "or raise max_un" in told
    assert mine(data, tiny_llava, tmp_path / "mined.jsonl", *words, "--max-unreadable", "0.5") == 0
    told = capsys.readouterr().out
    assert f"  {broken} is not a JPEG" in told and "inputs; rows that need them have no negatives" in told
    mined = read(tmp_path / "mined.jsonl", data)
    negatives_of = [mined.negatives(0, number) for number in range(len(rows))]
    for row, negatives in zip(rows, negatives_of, strict=True):
        needs = {Path(image) for role in ("composed", "target_image") for image in row.roles[role].images}
        assert broken not in {Path(image) for item in negatives for image in item.images}
        assert broken not in needs or not negatives
    assert any(negatives_of)
    # nothing is embedded again, and less is let pass
    assert mine(data, tiny_llava, tmp_path / "mined.jsonl", *words) == 2
    assert f"remove {tmp_path / 'mined.jsonl.vectors'}, or raise" in capsys.readouterr().err
    assert mine(data, tiny_llava, tmp_path / "mined.jsonl", "--max-unreadable", "1") == 2
    assert "--max-unreadable is a share, from 0 to below 1, not 1" in capsys.readouterr().err


def test_texts_are_mined_and_shown(data: Path, tiny_llava: Path, tmp_path: Path) -> None:
    output = tmp_path / "mined.jsonl"
    options = ["--rows", "pairs", "--query", "image", "--positive", "caption", "--ceiling", "1", "--count", "2"]
    assert mine(data, tiny_llava, output, *options) == 0
    found = read(output, data, "pairs")
    assert {item.role for number in range(8) for item in found.negatives(0, number)} == {"text"}
    assert output.with_suffix(".png").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ceiling", "0"], "a number above 0: 0.0"),
        (["--ceiling", "nan"], "a number above 0: nan"),
        (["--at-most", "-2"], "--at-most is a cosine"),
        (["--count", "50"], "ask for more than the 8 distinct candidates"),
        (["--count", "0"], "--count must be at least 1"),
        (["--depth", "2"], "--depth 2 must be at least --skip and --count together, 5"),
        (["--clusters", "9", "--cluster-skip", "1"], "from 2 to the 8 that there are, not 9"),
        (["--clusters", "4"], "--cluster-skip 30 passes over all that is looked at: 8 distinct positives"),
        (
            ["--positive", "target_text", "--rows", "pairs"],
            "--positive target_text is no role of rows: pairs, which offer",
        ),
        (["--positive", "captoin"], "--positive captoin is no role of rows: triplets"),
        (["--rows", "texts"], "has no texts.jsonl"),
        (["--output", "."], "is a folder"),
        (["--output", "mined.png"], "is both --output and the contact sheet"),
        (["--sheet", "sheet.jpg"], "must end in .png"),
        (["--output", __file__ + "/mined.jsonl"], "cannot write"),
        (["--sheet", __file__ + "/sheet.png"], "cannot write"),
    ],
)
def test_bad_input_is_one_sentence(
    options: list[str], said: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it is found before a model is looked for: there is none."""
    assert mine(data, tmp_path / "no-model", tmp_path / "mined.jsonl", *options) == 2
    told = capsys.readouterr()
    assert said in told.err and told.err.count("\n") == 1 and not (tmp_path / "mined.jsonl").exists()


def test_a_missing_model_is_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mine(data, tmp_path / "no-model", tmp_path / "mined.jsonl") == 2
    assert "no-model" in capsys.readouterr().err


class Counting:
    """An encoder that stops after some inputs."""

    def __init__(self, stop: int = 10**9, bad: bool = False):
        self.dimension, self.seen, self.stop, self.bad = 4, 0, stop, bad

    def encode(self, inputs: list, **_: object) -> np.ndarray:
        self.seen += len(inputs)
        if self.seen > self.stop:
            raise KeyboardInterrupt
        vectors = np.array([[int(item.words), 1, 2, 3] for item in inputs], np.float32)
        return vectors * np.nan if self.bad else vectors


def test_embedding_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    items = [Document(text=str(n)) for n in range(5000)]
    with pytest.raises(KeyboardInterrupt):
        VectorCache(tmp_path / "v", {"a": 1}).encode("queries", items, Counting(stop=4500))
    encoder = Counting()
    found = VectorCache(tmp_path / "v", {"a": 1}).encode("queries", items, encoder)
    assert encoder.seen < 1000 and found[:, 0].tolist() == list(range(5000))
    with pytest.raises(ConfigError, match="vectors of another model or of other data"):
        VectorCache(tmp_path / "v", {"a": 2})
    with pytest.raises(ConfigError, match="something else than vectors"):
        VectorCache(tmp_path, {"a": 1})
    with pytest.raises(ModelError, match="text='0'.* holds NaN"):
        VectorCache(tmp_path / "w", {}).encode("queries", items, Counting(bad=True))


def test_a_stop_in_the_first_block_does_not_lock_the_folder(tmp_path: Path) -> None:
    items = [Document(text=str(n)) for n in range(10)]
    with pytest.raises(KeyboardInterrupt):
        VectorCache(tmp_path / "v", {}).encode("queries", items, Counting(stop=5))
    found = VectorCache(tmp_path / "v", {}).encode("queries", items, Counting())
    assert found[:, 0].tolist() == list(range(10))


def test_vectors_that_were_cut_are_not_filled_with_zeros(tmp_path: Path) -> None:
    items = [Document(text=str(n)) for n in range(1, 11)]
    VectorCache(tmp_path / "v", {}).encode("queries", items, Counting())
    path = tmp_path / "v/queries.npy"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match="queries.npy cannot be used .*; remove "):
        VectorCache(tmp_path / "v", {}).encode("queries", items, Counting())


def test_a_full_disk_is_found_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    items = [Document(text=str(n)) for n in range(10)]
    store, encoder = VectorCache(tmp_path / "v", {}), Counting()
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with pytest.raises(DataError, match="queries.npy, which takes 0.0 MB: No space left on device; make room"):
            store.encode("queries", items, encoder)
    assert encoder.seen == 0
    store.encode("queries", items, encoder)
    stat = (tmp_path / "v/queries.npy").stat()
    assert stat.st_blocks * 512 >= stat.st_size


class Seeing(Counting):
    """An encoder that reads pictures."""

    def encode(self, inputs: list, *, unreadable: dict[int, str], **_: object) -> np.ndarray:
        vectors = np.zeros((len(inputs), 4), np.float32)
        for place, item in enumerate(inputs):
            try:
                vectors[place] = load_image(item.images[0]).width, 1, 2, 3
            except ImageError as error:
                unreadable[place] = str(error)
        return vectors


def test_a_few_unreadable_pictures_are_passed_over(tmp_path: Path) -> None:
    Image.new("RGB", (7, 5)).save(tmp_path / "fine.png")
    items = [Document(image=tmp_path / "fine.png")] * 199 + [Document(image=tmp_path / "gone.png")]
    store = VectorCache(tmp_path / "v", {})
    found = store.encode("gallery", items, Seeing())
    assert found[:199, 0].tolist() == [7] * 199 and not found[199].any()
    again = VectorCache(tmp_path / "v", {})
    again.encode("gallery", items, Seeing())
    assert (
        again.unreadable
        == store.unreadable
        == {"gallery": {199: f"{tmp_path / 'gone.png'} does not exist; check the path"}}
    )
    with pytest.raises(DataError, match="2 of 101 .* more than max_unreadable 0.01 allows: .*gone.png does not exist"):
        VectorCache(tmp_path / "w", {}).encode("gallery", items[:99] + items[199:] * 2, Seeing())


def test_what_cannot_be_read_is_told_in_the_order_of_the_inputs(tmp_path: Path) -> None:
    class Backwards(Counting):
        def encode(self, inputs: list, *, unreadable: dict[int, str], **_: object) -> np.ndarray:
            unreadable.update({7: "truncated", 3: "missing"})
            return np.ones((len(inputs), 4), np.float32)

    cache = VectorCache(tmp_path / "v", {})
    cache.encode("gallery", [Document(text=str(n)) for n in range(250)], Backwards())
    assert list(cache.unreadable["gallery"].items()) == [(3, "missing"), (7, "truncated")]


def test_a_picture_is_named_from_its_sources_folder_or_by_its_row(data: Path) -> None:
    from mllm_embed.training.mining.mined_file import written_item

    (part,) = open_rows([DataSource(path=data)], "triplets", []).parts
    named = Document(image=data / "a/b.png", text="x")
    assert written_item(named, part, 3, "target") == {"image": "a/b.png", "text": "x"}
    elsewhere = (Image.new("RGB", (2, 2)), b"bytes", data.parent / "other.png", data / "../other.png")
    for item in (*(Document(image=image) for image in elsewhere), Query(image=data / "a/b.png")):
        assert written_item(item, part, 3, "target") == {"row": 3, "role": "target"}
