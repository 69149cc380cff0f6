"""What MMEB and M-BEIR make of CIRR and FashionIQ, held against VLM2Vec's rule and trec_eval itself; bad files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from eval.benchmarks import open_suite
from eval.scoring.asking import ask
from eval.scoring.score import Vectors, score
from mllm_embed.errors import DataError
from mllm_embed.inputs.prompts import PROMPT_SETS, PromptSet

CIRR = "Given an image, find a similar everyday image with the described changes:"
STYLE = "Find an image to match the fashion image and style note:"
TOLD = PromptSet("told", image="<image>", composed="<image>{task} {instruction}", text="{task} {text}")


def rows(name: str, version: int) -> list[dict[str, Any]]:
    """Twenty queries of 80 candidates each; candidates of one query stand twice."""
    rng = np.random.default_rng(len(name))
    token, instruction = "<|image_1|>", CIRR if name == "CIRR" else STYLE
    made = []
    for number in range(20):
        paths = [f"{name}/p{at}.jpg" for at in rng.choice(120, 80, replace=False)]
        if number == 4:
            paths += [paths[0], paths[7]]
        row = {"qry_img_path": f"{name}/q{number % 7}.jpg", "tgt_img_path": paths}
        if version == 1:
            text = f"{token}\\n{instruction} Show {number} dogs.\\n".replace("\\n", "\n")
            row |= {"qry_text": text, "tgt_text": [f"{token}\nRepresent the given image.\n"] * len(paths)}
        else:
            row |= {"qry_inst": f"{token} {instruction}", "qry_text": f"Show {number} dogs."}
            row |= {"tgt_inst": f"{token} Represent the given image.", "tgt_text": [""] * len(paths)}
        made.append(row)
    return made


@pytest.fixture
def mmeb(tmp_path: Path) -> Callable[..., Path]:
    def make(
        version: int = 2, change: Callable[[list], Any] = lambda made: None, place: str = "{}/test.parquet"
    ) -> Path:
        for name in ("CIRR", "FashionIQ"):
            made = rows(name, version)
            change(made)
            path = tmp_path / place.format(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made), path)
        return tmp_path

    return make


@pytest.mark.parametrize("version", [1, 2])
def test_hit_at_1_among_a_querys_own_candidates(mmeb: Callable, draw: Callable, version: int) -> None:
    suite = open_suite("mmeb", mmeb(version), pictures=False)
    vectors, wanted = {}, {}
    for task in suite.tasks:
        gallery, queries = draw(len(task.gallery), task.views[0].targets, noise=2.5)
        vectors[task.name] = Vectors(gallery, {"composed": queries})
        place = dict(task.positions)
        hits = []
        for row, query in zip(rows(task.name, version), queries.astype(np.float64), strict=True):
            similarity = [gallery[place[path]].astype(np.float64) @ query for path in row["tgt_img_path"]]
            names = [row["tgt_img_path"][at] for at in np.argsort(-np.array(similarity), kind="stable")]
            hits.append([row["tgt_img_path"][0] in names[:k] for k in (1, 5, 10)])
        wanted[task.name] = (100 * np.mean(hits, axis=0)).tolist()
    result = score(suite, vectors)
    for name, figures in wanted.items():
        assert [result.percent(f"Hit@{k}", task=name) for k in (1, 5, 10)] == figures and 20 < figures[0] < 95


@pytest.mark.parametrize("version", [1, 2])
def test_both_versions_ask_alike_and_the_instruction_is_a_task(mmeb: Callable, version: int) -> None:
    suite = open_suite("mmeb", mmeb(version), pictures=False)
    assert [task.queries[3][0].words for task in suite.tasks] == ["Show 3 dogs."] * 2
    assert [task.tasks["query"] for task in suite.tasks] == [CIRR, STYLE]

    class Told:
        prompts = TOLD

    asked = ask(Told(), suite)
    assert asked.protocol()["query task"] == {"CIRR": CIRR, "FashionIQ": STYLE}
    assert asked.protocol()["words"] == "the model's own; the query task is the benchmark's"
    assert ask(Told(), suite, task="Find it:").protocol()["query task"] == "Find it:"

    class Plain:
        prompts = PROMPT_SETS["instructcir"]

    assert "query task" not in ask(Plain(), suite).protocol()  # which has no place for one, and is not refused


@pytest.mark.parametrize("place", ["{}/test-00000-of-00001.parquet", "MMEB-eval/{}/test/0000.parquet", "{}.parquet"])
@pytest.mark.parametrize("images", ["", "images/", "image-tasks/"])
def test_files_of_mmeb_are_found_in_every_layout(mmeb: Callable, paint: Callable, place: str, images: str) -> None:
    root = mmeb(place=place)
    for name in ("CIRR", "FashionIQ"):
        paint(
            root, *(f"{images}{name}/p{at}.jpg" for at in range(120)), *(f"{images}{name}/q{at}.jpg" for at in range(7))
        )
    for task in open_suite("mmeb", root).tasks:
        assert Path(task.gallery[0].image) == root / images / task.gallery_ids[0]
    (task,) = open_suite("mmeb", root, options={"task": "CIRR"}).tasks
    assert task.name == "CIRR" and Path(task.queries[8][0].image).name == "q1.jpg"


@pytest.mark.parametrize(
    ("version", "change", "message"),
    [
        (1, lambda made: made[2].update(qry_text="Show 2 dogs."), 'row 2: "qry_text" does not begin with "Given an'),
        (2, lambda made: made[2].update(qry_inst="Look:"), 'rows have different instructions, .* and "Look:"'),
        (2, lambda made: made[2].update(tgt_img_path=[]), 'row 2: "tgt_img_path" must name the candidates'),
        (2, lambda made: made[2]["tgt_text"].pop(), 'row 2: "tgt_img_path" must name the candidates'),
        (2, lambda made: made[2]["tgt_text"].__setitem__(1, "a cat"), 'row 2: a candidate has the words "a cat"'),
        (2, lambda made: [row.pop("qry_img_path") for row in made], 'row 0: "qry_img_path" is missing or no str'),
        (2, lambda made: made.clear(), "has no rows"),
    ],
)
def test_a_bad_file_of_mmeb_is_refused(mmeb: Callable, version: int, change: Callable, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_suite("mmeb", mmeb(version, change), pictures=False)


QUERY = "query/test/mbeir_{0}_task7_test.jsonl"
POOL = "cand_pool/local/mbeir_{0}_task7_cand_pool.jsonl"
QRELS = "qrels/test/mbeir_{0}_task7_test_qrels.txt"


@pytest.fixture
def mbeir(tmp_path: Path, write: Callable) -> Callable[..., Path]:
    """Two tasks: 50 pictures, 24 queries with one to twelve relevant pictures."""

    def make(folder: str = "") -> Path:
        for number, name in enumerate(("cirr", "fashioniq"), start=7):
            rng = np.random.default_rng(number)
            pool = [
                {"did": f"{number}:{at}", "txt": None, "img_path": f"mbeir_images/{name}/{at}.jpg", "modality": "image"}
                for at in range(1, 51)
            ]
            queries, lines = [], []
            for at in range(24):
                right = rng.choice(50, 1 + at % 12, replace=False) + 1
                queries.append(
                    {
                        "qid": f"{number}:{at + 1}",
                        "query_txt": f"make it {at}",
                        "query_img_path": f"mbeir_images/{name}/{at + 1}.jpg",
                        "query_modality": "image,text",
                        "pos_cand_list": [f"{number}:{one}" for one in right],
                    }
                )
                lines += [f"{number}:{at + 1} 0 {number}:{one} 1 7" for one in right]
            write(tmp_path / folder / POOL.format(name), "".join(json.dumps(row) + "\n" for row in pool))
            write(tmp_path / folder / QUERY.format(name), "".join(json.dumps(row) + "\n" for row in queries))
            write(tmp_path / folder / QRELS.format(name), "\n".join(lines))
        return tmp_path

    return make


def test_ndcg_equals_trec_eval_itself_and_recall_uniirs(mbeir: Callable, draw: Callable) -> None:
    trec = pytest.importorskip("pytrec_eval", reason="NOT COMPARED with trec_eval: mteb is not installed")
    folder = mbeir()
    suite = open_suite("mbeir", folder, pictures=False)
    for task in suite.tasks:
        gallery, queries = draw(50, task.views[0].targets, noise=2.0)
        vectors = {other.name: Vectors(gallery, {"composed": queries}) for other in suite.tasks}
        result = score(suite, vectors).tasks[task.name]
        relevant: dict[str, dict[str, int]] = {}
        for line in (folder / QRELS.format(task.name)).read_text().splitlines():
            query, _, picture, relevance, _ = line.split()
            relevant.setdefault(query, {})[picture] = int(relevance)
        scores = (queries.astype(np.float64) @ gallery.astype(np.float64).T).tolist()
        run = {
            query: dict(zip(task.gallery_ids, row, strict=True))
            for query, row in zip(task.query_ids, scores, strict=True)
        }
        found = trec.RelevanceEvaluator(relevant, {"ndcg_cut.10", "success.1,5,10"}).evaluate(run)
        own = [found[query]["ndcg_cut_10"] for query in task.query_ids]
        assert result.values["nDCG@10"].tolist() == own
        assert (
            result.rows["composed"]["nDCG@10"].percent == 100 * (sum(own) / len(own)) and 20 < 100 * np.mean(own) < 95
        )
        for k in (1, 5, 10):
            hits = sum(found[query][f"success_{k}"] for query in task.query_ids)
            assert result.rows["composed"][f"R@{k}"].hits == hits


@pytest.mark.parametrize("folder", ["", "M-BEIR"])
@pytest.mark.parametrize("place", ["", "images/"])
def test_files_of_mbeir_are_found_in_every_layout(mbeir: Callable, paint: Callable, folder: str, place: str) -> None:
    root = mbeir(folder)
    for name in ("cirr", "fashioniq"):
        paint(root, *(f"{place}mbeir_images/{name}/{at}.jpg" for at in range(1, 51)))
    (task,) = open_suite("mbeir", root, options={"task": "fashioniq"}).tasks
    assert task.gallery_ids[0] == "8:1" and task.tasks == {
        "query": "Find a fashion image that aligns with the reference image and style note."
    }
    assert (
        Path(task.gallery[2].image) == root / f"{place}mbeir_images/fashioniq/3.jpg" == Path(task.queries[2][0].image)
    )


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            QUERY,
            lambda text: text.replace('"query_txt": "make it 0", ', ""),
            'line 0: "query_txt" is missing or no str',
        ),
        (QUERY, lambda text: "{" + text, "line 0 is not JSON"),
        (QUERY, lambda text: text + text.splitlines()[0], 'the id "7:1" stands twice'),
        (POOL, lambda text: text + text.splitlines()[0], 'the id "7:1" stands twice'),
        (POOL, lambda text: text.replace('"txt": null', '"txt": "a dog"', 1), '"7:1" is no picture alone'),
        (QRELS, lambda text: text + "\n7:1 0 7:99 1 7", '"7:99" is not in the gallery'),
        (QRELS, lambda text: text + "\n7:99 0 7:1 1 7", 'the query "7:99" is not in'),
        (QRELS, lambda text: text + "\n7:1 0 7:1 2 7", "a relevance of 2; these tasks have 0 and 1 alone"),
        (QRELS, lambda text: text + "\n7:1 7:1 1", "must be a query, 0, a picture, its relevance and a task number"),
        (QRELS, lambda text: text.split("\n", 1)[1], 'the query "7:1" has no relevant picture'),
    ],
)
def test_a_bad_file_of_mbeir_is_refused(mbeir: Callable, file: str, change: Callable[[str], str], message: str) -> None:
    path = mbeir() / file.format("cirr")
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message):
        open_suite("mbeir", path.parents[2], pictures=False)
