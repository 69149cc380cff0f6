"""Opening a benchmark: what is counted, what is refused, and in which words."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks import BENCHMARKS, check_benchmark, open_suite
from eval.benchmarks.base import Count
from mllm_embed.errors import ConfigError, DataError, ImageError

CAPTIONS, SPLIT = "captions/cap.shirt.val.json", "image_splits/split.shirt.val.json"
PAIRS, NAMES = "captions/cap.rc2.val.json", "image_splits/split.rc2.val.json"
VAL, COCO = "annotations/val.json", "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"
OBJECT, ATTRIBUTE = "genecis/focus_object.json", "genecis/change_attribute.json"
KARPATHY = "dataset_flickr30k.json"


@pytest.fixture
def made(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """The folder of a made-up benchmark, without pictures."""

    def make(name: str) -> Path:
        return request.getfixturevalue("karpathy" if name == "flickr30k" else name)()

    return make


def refusal(call: Callable[[], Any]) -> str:
    """What the call says when it refuses: one sentence."""
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def without(key: str) -> Callable[[list], None]:
    return lambda rows: rows[1].pop(key) and None


def with_(**values: Any) -> Callable[[list], None]:
    return lambda rows: rows[1].update(values)


def within(key: str, **values: Any) -> Callable[[list], None]:
    return lambda rows: rows[1][key].update(values)


def under_images(change: Callable[[list], Any]) -> Callable[[dict], None]:
    """The change of a list, made to the one that a file of COCO or Karpathy holds."""
    return lambda content: change(content["images"])


BAD = [
    ("fashioniq", CAPTIONS, lambda rows: {"no": "list"}, "must hold a list of objects"),
    ("fashioniq", CAPTIONS, lambda rows: [], "must hold a list of objects"),
    ("fashioniq", CAPTIONS, without("target"), 'row 1: "target" is missing or no str'),
    ("fashioniq", CAPTIONS, with_(captions="one"), 'row 1: "captions" is missing or no list'),
    ("fashioniq", CAPTIONS, with_(captions=["only one"]), 'row 1: "captions" must be two texts'),
    ("fashioniq", CAPTIONS, with_(captions=["one", 2]), 'row 1: "captions" must be two texts'),
    ("fashioniq", CAPTIONS, with_(candidate="B9"), 'row 1: "B9" is not in the gallery'),
    ("fashioniq", CAPTIONS, with_(target="B9"), 'row 1: "B9" is not in the gallery'),
    ("fashioniq", SPLIT, lambda names: names.append("S1"), 'the id "S1" stands twice'),
    ("fashioniq", SPLIT, lambda names: {"S1": 1}, "must hold a list of ASINs"),
    ("cirr", PAIRS, without("caption"), 'row 1: "caption" is missing or no str'),
    ("cirr", PAIRS, without("target_hard"), 'row 1: "target_hard" is missing or no str'),
    ("cirr", PAIRS, with_(pairid="5"), 'row 1: "pairid" is missing or no int'),
    ("cirr", PAIRS, with_(pairid=True), 'row 1: "pairid" is missing or no int'),
    ("cirr", PAIRS, with_(pairid=7), 'the id "7" stands twice'),
    ("cirr", PAIRS, with_(img_set={"id": 3}), 'pair 5: "img_set" has no list "members"'),
    (
        "cirr",
        PAIRS,
        within("img_set", members=["m0", "m1", "m2", "m3", "m9"]),
        'pair 5: "m9" is not in the gallery',
    ),
    ("cirr", PAIRS, with_(target_hard="m9"), 'pair 5: "target_hard" is not one of the "members"'),
    ("cirr", PAIRS, with_(target_soft={"m9": 1.0}), 'pair 5: "m9" is not in the gallery'),
    ("cirr", PAIRS, with_(target_soft={"m0": None}), 'pair 5: a value of "target_soft" is no number'),
    ("cirr", NAMES, lambda files: list(files), "must be an object"),
    ("cirr", NAMES, lambda files: files.update(m3="m3.png"), "must be an object"),
    ("cirr", NAMES, lambda files: files.pop("m3") and None, 'pair 12: "m3" is not in the gallery'),
    ("circo", VAL, without("shared_concept"), 'row 1: "shared_concept" is missing or no str'),
    ("circo", VAL, without("semantic_aspects"), 'row 1: "semantic_aspects" is missing or no list'),
    ("circo", VAL, with_(id=0), 'the id "0" stands twice'),
    ("circo", VAL, with_(gt_img_ids=[50, 99]), 'query 1: "99" is not in the gallery'),
    ("circo", VAL, with_(reference_img_id=99), 'query 1: "99" is not in the gallery'),
    ("circo", COCO, lambda content: [], 'under "images", must hold a list of objects'),
    ("circo", COCO, lambda content: {"images": []}, 'under "images", must hold a list of objects'),
    ("circo", COCO, under_images(without("id")), 'row 1: "id" is missing or no int'),
    ("circo", COCO, under_images(lambda images: images.append(3)), 'row 7: "id" is missing or no int'),
    ("circo", COCO, under_images(lambda images: images.append({"id": 10})), 'the id "10" stands twice'),
    ("genecis", OBJECT, without("condition"), 'row 1: "condition" is missing or no str'),
    ("genecis", OBJECT, with_(gallery=[{"image_id": 3}]), "row 1: a picture must have val_image_id"),
    ("genecis", OBJECT, with_(target={"val_image_id": "x"}), "row 1: a picture must have val_image_id"),
    ("genecis", ATTRIBUTE, with_(reference={"image_id": 3}), "row 1: a picture must have image_id and instance_bbox"),
    ("genecis", ATTRIBUTE, within("target", instance_bbox=[1, 2, 3]), "row 1: .*a box four numbers"),
    ("genecis", ATTRIBUTE, within("target", instance_bbox=[1, 2, 3, "4px"]), "row 1: .*a box four numbers"),
    ("genecis", ATTRIBUTE, within("target", instance_bbox=[1, 2, 3, "4"]), "row 1: .*a box four numbers"),
    ("genecis", ATTRIBUTE, within("target", instance_bbox=[1, 2, 3, True]), "row 1: .*a box four numbers"),
    ("genecis", ATTRIBUTE, within("target", instance_bbox=[1, 2, 3, float("nan")]), "row 1: .*a box four numbers"),
    ("genecis", ATTRIBUTE, within("target", instance_bbox=7), "row 1: .*a box four numbers"),
    ("genecis", OBJECT, with_(target={"val_image_id": 1.5}), "row 1: a picture must have val_image_id"),
    ("genecis", OBJECT, with_(target={"val_image_id": "3"}), "row 1: a picture must have val_image_id"),
    ("genecis", OBJECT, with_(target={"val_image_id": False}), "row 1: a picture must have val_image_id"),
    ("flickr30k", KARPATHY, lambda content: [], 'under "images", must hold a list of objects'),
    ("flickr30k", KARPATHY, lambda content: {"images": content["images"][3:]}, 'no pictures of the split "test"'),
    ("flickr30k", KARPATHY, under_images(without("filename")), 'row 1: "filename" is missing or no str'),
    ("flickr30k", KARPATHY, under_images(with_(sentences="a")), 'row 1: "sentences" is missing or no list'),
    ("flickr30k", KARPATHY, under_images(with_(filename="p0.jpg")), 'the id "p0.jpg" stands twice'),
    ("flickr30k", KARPATHY, under_images(with_(sentences=[])), "p1.jpg has an empty caption, or none"),
    ("flickr30k", KARPATHY, under_images(with_(sentences=[{"raw": " "}])), "p1.jpg has an empty caption, or none"),
    ("flickr30k", KARPATHY, under_images(with_(sentences=[{"tokens": []}])), 'a sentence of p1.jpg has no text "raw"'),
]


@pytest.mark.parametrize(("name", "file", "change", "words"), BAD)
def test_a_bad_row_is_refused_with_its_file_and_number(
    made: Callable, spoil: Callable, name: str, file: str, change: Callable, words: str
) -> None:
    folder = made(name)
    spoil(folder / file, change)
    message = refusal(lambda: open_suite(name, folder, pictures=False))
    assert message.startswith(str(folder / file)) or file in (NAMES, SPLIT)  # a name too few is noticed by who uses it
    assert re.search(words, message)


MADE = ("fashioniq", "cirr", "circo", "genecis", "flickr30k")


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("content", [b'[{"half": ', b'["\xff\xfe"]', b""], ids=["cut off", "no utf-8", "empty"])
def test_a_file_that_is_no_json_is_named(made: Callable, name: str, content: bytes) -> None:
    folder = made(name)
    for path in sorted(folder.rglob("*.json")):
        if path.name not in ("test.json", "cap.rc2.test1.json", "split.rc2.test1.json"):
            good = path.read_bytes()
            path.write_bytes(content)
            for call in (partial(open_suite, pictures=False), check_benchmark):
                message = refusal(lambda: call(name, folder))  # noqa: B023
                assert message.startswith(f"{path} is not JSON") and "fetch it again from" in message
            path.write_bytes(good)


@pytest.mark.parametrize("name", MADE)
def test_a_missing_annotation_file_is_counted_and_refused_with_where_to_get_it(made: Callable, name: str) -> None:
    folder = made(name)
    counts, suite = check_benchmark(name, folder)
    wanted = [(count.found, count.of, count.missing) for count in counts if not count.what.endswith("pictures")]
    assert suite is not None and set(wanted) == {(1, 1, None)}
    files = [path for path in folder.rglob("*.json") if "test" not in path.name]
    assert len(files) == len(wanted)
    for path in files:
        path.rename(path.with_suffix(".away"))
        counts, suite = check_benchmark(name, folder)
        (lost,) = [count for count in counts if not count.found]
        assert suite is None and len(counts) == len(wanted) and Path(lost.missing).name == path.name
        message = refusal(lambda: open_suite(name, folder))
        assert f"{lost.missing} not found under {folder}; get it from {BENCHMARKS[name].annotations}" in message
        path.with_suffix(".away").rename(path)


def test_missing_pictures_are_counted_by_task_and_the_first_is_named(fashioniq: Callable, paint: Callable) -> None:
    folder = fashioniq()
    paint(folder, *(f"images/D{number}.jpg" for number in range(5)), "images/S3.png", "images/S0.jpg", "images/S4.jpg")
    counts, suite = check_benchmark("fashioniq", folder)
    assert counts[6:] == [
        Count("dress pictures", 5, 5, None),
        Count("shirt pictures", 3, 5, "images/S1.jpg"),
        Count("toptee pictures", 0, 5, "images/T3.jpg"),
    ]
    assert [task.name for task in suite.tasks] == ["dress", "shirt", "toptee"]
    message = refusal(lambda: open_suite("fashioniq", folder))
    assert message.startswith("2 of 5 shirt pictures are missing under") and "the first is images/S1.jpg" in message
    assert f"mllm-embed-eval check fashioniq --data {folder}" in message
    counts, _ = check_benchmark("fashioniq", folder, options={"gallery": "val"})
    assert counts[7] == Count("shirt pictures", 2, 4, "images/S1.jpg")


@pytest.mark.parametrize(
    ("name", "painted", "count"),
    [
        ("cirr", ["dev/m0.png", "dev/m1.png"], Count("gallery pictures", 2, 8, "dev/m2.png")),
        (
            "circo",
            ["unlabeled2017/000000000070.jpg", "unlabeled2017/000000000060.jpg"],
            Count("gallery pictures", 2, 7, "COCO2017_unlabeled/unlabeled2017/000000000010.jpg"),
        ),
        ("genecis", ["VG_100K_2/3.jpg"], Count("focus_attribute pictures", 2, 4, "VG_All/1.jpg")),
        ("flickr30k", ["p1.jpg"], Count("test pictures", 1, 3, "flickr30k-images/p0.jpg")),
    ],
)
def test_missing_pictures_of_every_benchmark_are_counted(
    made: Callable, paint: Callable, name: str, painted: list[str], count: Count
) -> None:
    folder = made(name)
    paint(folder, *painted)
    counts, suite = check_benchmark(name, folder)
    assert count in counts and suite is not None
    message = refusal(lambda: open_suite(name, folder))
    assert message.startswith(f"{count.of - count.found} of {count.of} {count.what} are missing under {folder}, the ")
    assert f"the first is {count.missing};" in message
    open_suite(name, folder, pictures=False)


def test_the_hidden_splits_are_checked_as_the_others(made: Callable) -> None:
    for name, split in (("cirr", "test1"), ("circo", "test")):
        counts, suite = check_benchmark(name, made(name), split=split)
        assert [count.found for count in counts[:2]] == [1, 1] and not suite.labelled


def test_pictures_are_looked_for_in_the_folder_given_for_them(made: Callable, paint: Callable, tmp_path: Path) -> None:
    paint(tmp_path / "elsewhere", *(f"cirr/dev/m{number}.png" for number in range(8)))
    suite = open_suite("cirr", made("cirr"), images=tmp_path / "elsewhere")
    assert Path(suite.tasks[0].gallery[3].image) == tmp_path / "elsewhere/cirr/dev/m3.png"
    counts, _ = check_benchmark("cirr", made("cirr"), images=tmp_path / "elsewhere")
    assert counts[-1] == Count("gallery pictures", 8, 8, None)


def test_folders_that_are_none_are_refused(made: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, word in ((tmp_path / "file", "not a folder"), (tmp_path / "nowhere", "missing")):
        assert f"{folder} is {word}" in refusal(lambda: open_suite("cirr", folder))  # noqa: B023
        assert f"{folder} is {word}" in refusal(lambda: check_benchmark("cirr", made("cirr"), images=folder))  # noqa: B023


@pytest.mark.parametrize("call", [open_suite, check_benchmark])
@pytest.mark.parametrize(
    ("name", "how", "words"),
    [
        (
            "fasioniq",
            {},
            "no benchmark is called 'fasioniq'; there are fashioniq, cirr, circo, genecis, icir, pinpoint",
        ),
        ("cirr", {"split": "test"}, "cirr has no split 'test'; it has val, test1"),
        ("fashioniq", {"options": {"galery": "val"}}, "has no option 'galery'; it has gallery, captions, prompts"),
        ("cirr", {"options": {"text": "x"}}, "cirr has no option 'text'; it has none"),
        ("circo", {"options": {"text": "x"}}, "option text of circo is one of relative, magiclens, megapairs, not 'x'"),
        ("genecis", {"options": {"task": "x"}}, "option task of genecis is one of all, focus_attribute, .*, not 'x'"),
    ],
)
def test_unknown_names_splits_and_options_are_refused_with_those_that_exist(
    tmp_path: Path, call: Callable, name: str, how: dict, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        call(name, tmp_path, **how)


@pytest.mark.parametrize("name", MADE)
def test_the_fingerprint_is_of_the_content_and_not_of_its_place(
    made: Callable, spoil: Callable, tmp_path: Path, name: str
) -> None:
    folder = made(name)
    moved = shutil.copytree(folder, tmp_path / "moved")
    one = open_suite(name, folder, pictures=False).fingerprint()
    assert open_suite(name, moved, pictures=False).fingerprint() == one
    file, change = {
        "fashioniq": (CAPTIONS, with_(captions=["else", "too"])),
        "cirr": (PAIRS, with_(target_soft={"m3": 1.0})),
        "circo": (VAL, with_(gt_img_ids=[60])),
        "genecis": (ATTRIBUTE, within("target", instance_bbox=[1, 2, 3, 5])),
        "flickr30k": (KARPATHY, under_images(lambda images: images.reverse())),
    }[name]
    spoil(moved / file, change)
    assert open_suite(name, moved, pictures=False).fingerprint() != one


def test_a_box_outside_its_picture_is_an_error_that_names_the_file(genecis: Callable, paint: Callable) -> None:
    folder = genecis()
    paint(folder, *(f"VG_100K/{number}.jpg" for number in (1, 2, 3)), size=(4, 4))
    suite = open_suite("genecis", folder, options={"task": "focus_attribute"})
    crop = suite.tasks[0].queries[0][0].image
    with pytest.raises(ImageError, match=r"1\.jpg has 4 x 4 pixels, and nothing of the box \(9.0, 2.5, 6.0, 5.0\)"):
        crop.read()
    crop.path.unlink()
    with pytest.raises(ImageError, match=r"1\.jpg does not exist"):
        crop.read()


def test_crops_that_differ_by_a_hair_have_ids_of_their_own(genecis: Callable, spoil: Callable) -> None:
    def close(rows: list[dict]) -> None:
        rows[0]["gallery"] = [{"image_id": 1, "instance_bbox": [1234.00625 + step, 2, 3, 4]} for step in (0, 0.001)]

    folder = genecis()
    spoil(folder / ATTRIBUTE, close)
    (task,) = open_suite("genecis", folder, options={"task": "change_attribute"}, pictures=False).tasks
    assert len(set(task.gallery_ids)) == len(task.gallery_ids) == 5
