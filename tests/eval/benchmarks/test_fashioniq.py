"""FashionIQ, held against the rules of SEARLE's and CLIP4Cir's validate.py, restated here without our code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eval.benchmarks import open_suite
from eval.scoring.evaluate import embed, evaluate
from eval.scoring.score import Vectors, score

CATEGORIES = ("dress", "shirt", "toptee")
QUERIES = {"dress": 2017, "shirt": 2038, "toptee": 1961}
GALLERIES = {
    "original": {"dress": 3817, "shirt": 6346, "toptee": 5373},
    "val": {"dress": 2628, "shirt": 3089, "toptee": 2902},
}


def the_files(folder: Path, category: str, gallery: str) -> tuple[list[str], list[int]]:
    """The names of the gallery and the place of every query's target."""
    rows = json.loads((folder / f"captions/cap.{category}.val.json").read_text(encoding="utf-8"))
    names = json.loads((folder / f"image_splits/split.{category}.val.json").read_text())
    if gallery == "val":
        names = sorted({row["candidate"] for row in rows} | {row["target"] for row in rows})
    place = {name: at for at, name in enumerate(names)}
    return names, [place[row["target"]] for row in rows]


def official_hits(queries: np.ndarray, gallery: np.ndarray, targets: list[int], k: int) -> int:
    """Rank the whole gallery, the reference in it, and look for the target among the first k."""
    distances = 1 - queries.astype(np.float64) @ gallery.astype(np.float64).T
    order = np.argsort(distances, axis=1, kind="stable")
    return int((order[:, :k] == np.array(targets)[:, None]).any(axis=1).sum())


def official_percent(hits: int, count: int) -> float:
    """torch.sum(...) / len(...) divides in float32; .item() * 100 is Python's."""
    return float(np.float32(hits) / np.float32(count)) * 100


@pytest.mark.slow
@pytest.mark.parametrize("gallery", ["original", "val"])
def test_every_figure_equals_the_official_rules_in_every_digit(real: Callable, draw: Callable, gallery: str) -> None:
    suite = open_suite("fashioniq", real("fashioniq"), options={"gallery": gallery}, pictures=False)
    vectors, expected = {}, {}
    for seed, category in enumerate(CATEGORIES):
        names, targets = the_files(real("fashioniq"), category, gallery)
        made, queries = draw(len(names), [[at] for at in targets], noise=1.8, seed=seed)
        vectors[category] = Vectors(made, {"composed": queries})
        for k in (10, 50):
            expected[category, k] = official_hits(queries, made, targets, k), len(targets)
    result = score(suite, vectors)
    for category in CATEGORIES:
        found = result.tasks[category]
        assert (found.queries, found.gallery) == (QUERIES[category], GALLERIES[gallery][category])
        for k in (10, 50):
            figure = found.rows["composed"][f"R@{k}"]
            assert (figure.hits, figure.queries) == expected[category, k]
            assert figure.percent == official_percent(*expected[category, k])
            assert 20 < figure.percent < 95 and figure.low < figure.percent < figure.high
            assert figure.tied == 0
    averages = [np.mean([official_percent(*expected[category, k]) for category in CATEGORIES]) for k in (10, 50)]
    means = result.means["composed"]
    assert [means[name].percent for name in ("mean R@10", "mean R@50", "mean")] == [*averages, np.mean(averages)]


@pytest.mark.slow
def test_twins_in_the_gallery_hang_on_the_tie_rule_and_are_counted(real: Callable, draw: Callable) -> None:
    suite = open_suite("fashioniq", real("fashioniq"), pictures=False)
    vectors, expected = {}, {}
    for seed, category in enumerate(CATEGORIES):
        names, targets = the_files(real("fashioniq"), category, "original")
        gallery, queries = draw(len(names), [[at] for at in targets], noise=1.8, seed=10 + seed)
        copies = np.random.default_rng(seed).permutation(len(names))[:1600]
        gallery[copies[:800]] = gallery[copies[800:]]  # one picture under two ASINs
        vectors[category] = Vectors(gallery, {"composed": queries})
        scores = (queries.astype(np.float64) @ gallery.astype(np.float64).T).astype(np.float32)
        own = scores[np.arange(len(targets)), targets][:, None]
        first, last = 1 + (scores > own).sum(axis=1), (scores >= own).sum(axis=1)
        before = np.arange(len(names)) < np.array(targets)[:, None]
        expected[category] = {
            "optimistic": first,
            "gallery": first + ((scores == own) & before).sum(axis=1),
            "pessimistic": last,
        }
    for rule in ("optimistic", "gallery", "pessimistic"):
        result = score(suite, vectors, ties=rule)
        for category, ranks in expected.items():
            for k in (10, 50):
                figure = result.tasks[category].rows["composed"][f"R@{k}"]
                assert figure.hits == (ranks[rule] <= k).sum()
                assert figure.tied == ((ranks["optimistic"] <= k) & (ranks["pessimistic"] > k)).sum()
    hang = sum(((ranks["optimistic"] <= 10) & (ranks["pessimistic"] > 10)).sum() for ranks in expected.values())
    assert hang > 10


def test_real_captions_become_texts(real: Callable) -> None:
    def first(rule: str, task: int = 0, query: int = 0) -> list[str]:
        suite = open_suite("fashioniq", real("fashioniq"), options={"captions": rule}, pictures=False)
        return [item.words for item in suite.tasks[task].queries[query]]

    rows = json.loads((real("fashioniq") / "captions/cap.dress.val.json").read_text(encoding="utf-8"))
    one, two = (caption.strip(".?, ") for caption in rows[0]["captions"])
    assert first("and") == [f"{one} and {two}"]
    assert first("both-orders") == [f"{one} and {two}", f"{two} and {one}"]
    shirts = json.loads((real("fashioniq") / "captions/cap.shirt.val.json").read_text(encoding="utf-8"))
    empty = next(at for at, row in enumerate(shirts) if "" in row["captions"])
    assert first("both-orders", 1, empty) == ["is grey with a design on the back"]


@pytest.mark.parametrize(
    ("rule", "texts"),
    [
        ("and", ["is red and has, longer sleeves"]),
        ("comma", ["is red, has, longer sleeves"]),
        ("reversed", ["has, longer sleeves and is red"]),
        ("both-orders", ["is red and has, longer sleeves", "has, longer sleeves and is red"]),
    ],
)
def test_two_captions_become_texts_by_rule_and_empty_ones_add_no_and(
    fashioniq: Callable, rule: str, texts: list[str]
) -> None:
    suite = open_suite("fashioniq", fashioniq(), options={"captions": rule}, pictures=False)
    for task in suite.tasks:
        words = [[item.words for item in items] for items in task.queries]
        assert words == [texts, ["is blue"], [None]]
        assert [items[0].role for items in task.queries] == ["composed", "composed", "image"]
    assert suite.title == f"fashioniq val gallery=original captions={rule} prompts=model"


def test_the_gallery_is_the_split_in_its_order_or_what_the_queries_name(fashioniq: Callable) -> None:
    folder = fashioniq()
    orders = {"original": ["D3", "D1", "D2", "D0", "D4"], "val": ["D0", "D1", "D2", "D3"]}
    for gallery, names in orders.items():
        suite = open_suite("fashioniq", folder, options={"gallery": gallery}, pictures=False)
        assert list(suite.tasks[0].gallery_ids) == names
        (view,) = suite.tasks[0].views
        assert [[names[at] for at in row] for row in view.targets] == [["D1"], ["D2"], ["D3"]]
        assert view.exclude is None and view.candidates is None
        references = [Path(items[0].image).stem for items in suite.tasks[0].queries]
        assert references == ["D0", "D1", "D2"]


@pytest.mark.parametrize("annotations", ["", "fashioniq", "FashionIQ"])
@pytest.mark.parametrize(
    "layout", ["images/{name}", "images/{category}/{name}", "resized_images/{category}/{name}", "fashion-iq/{name}"]
)
def test_pictures_are_found_in_every_layout_jpg_and_png_mixed(
    fashioniq: Callable, paint: Callable, annotations: str, layout: str
) -> None:
    folder, wanted = fashioniq(annotations), {}
    for category in CATEGORIES:
        for number in range(5):
            name = f"{category[0].upper()}{number}"
            wanted[name] = layout.format(category=category, name=name) + (".png" if number % 2 else ".jpg")
    paint(folder, *wanted.values())
    suite = open_suite("fashioniq", folder)
    found = {
        name: Path(item.image).relative_to(folder).as_posix()
        for task in suite.tasks
        for name, item in zip(task.gallery_ids, task.gallery, strict=True)
    }
    assert found == wanted


def test_pictures_may_lie_in_another_folder(fashioniq: Callable, paint: Callable, tmp_path: Path) -> None:
    folder, elsewhere = fashioniq("words"), tmp_path / "pictures"
    paint(elsewhere, *(f"images/{letter}{number}.jpg" for letter in "DST" for number in range(5)))
    suite = open_suite("fashioniq", folder / "words", images=elsewhere)
    assert Path(suite.tasks[2].queries[0][0].image) == elsewhere / "images/T0.jpg"


@pytest.fixture
def painted(fashioniq: Callable, paint: Callable) -> Path:
    paint(fashioniq(), *(f"images/{letter}{number}.png" for letter in "DST" for number in range(5)))
    return fashioniq()


def test_an_encoder_is_asked_and_its_vectors_are_measured(painted: Path, encoder) -> None:
    result = evaluate(encoder, open_suite("fashioniq", painted))
    for category in CATEGORIES:
        rows = result.tasks[category].rows
        assert list(rows) == ["composed", "image only", "text only", "sum"]
        assert all(row["R@10"].hits == 3 for row in rows.values())
    assert list(result.means) == ["composed", "image only", "text only", "sum"]
    assert result.means["sum"]["mean R@50"].percent == 100
    assert "prompts by task" not in result.protocol
    assert {prompt for _, prompt, _ in encoder.asked} == {
        encoder.prompts.prompt(role).words for role in ("composed", "image", "text")
    }


def test_both_orders_are_asked_and_their_vectors_averaged(painted: Path, encoder) -> None:
    suite = open_suite("fashioniq", painted, options={"captions": "both-orders"})
    rows = embed(encoder, suite)[0]["dress"].rows
    pair = [encoder.vector(item) for item in suite.tasks[0].queries[0]]
    total = pair[0] + pair[1]
    assert len(pair) == 2 and rows["composed"].shape == (3, 16)
    assert np.allclose(rows["composed"][0], total / np.linalg.norm(total), atol=1e-6)
    assert np.allclose(rows["composed"][1], encoder.vector(suite.tasks[0].queries[1][0]), atol=1e-6)
    both = rows["image only"] + rows["text only"]
    assert np.allclose(rows["sum"], both / np.linalg.norm(both, axis=1, keepdims=True), atol=1e-6)
    texts = {words for role, _, words in encoder.asked if role == "text"}
    assert texts == {"is red and has, longer sleeves", "has, longer sleeves and is red", "is blue"}


def test_e5v_asks_each_category_in_its_own_words_where_a_toptee_is_a_shirt(painted: Path, encoder) -> None:
    suite = open_suite("fashioniq", painted, options={"prompts": "e5v"})
    result = evaluate(encoder, suite)
    for role, template in {
        "image": "\n Describe this {} in one word based on its style:",
        "composed": " change the style of this {} to {{instruction}}\n"
        " Desribe this modified {} in one word based on its style:",
    }.items():
        asked = {prompt for kind, prompt, _ in encoder.asked if kind == role}
        assert asked == {template.format(word, word) for word in ("dress", "shirt")}
        toptee = result.protocol["prompts by task"]["toptee"][role]
        assert toptee == template.format("shirt", "shirt")
    assert {prompt for kind, prompt, _ in encoder.asked if kind == "text"} == {encoder.prompts.text}
    assert result.protocol["prompts"] == encoder.prompts.to_dict()
