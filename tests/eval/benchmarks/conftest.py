"""What the tests of the benchmarks share: the real annotation files, seeded vectors, and small made-up benchmarks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mllm_embed.inputs.images import content_key
from mllm_embed.inputs.prompts import PROMPT_SETS, PromptSet

REAL = Path(__file__).parents[4] / "shared" / "data" / "benchmarks"


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def real() -> Callable[[str], Path]:
    """The folder of a benchmark's own annotation files, which may not be handed on: they lie beside this repository."""

    def folder(name: str) -> Path:
        if not (REAL / name).is_dir():
            pytest.skip(f"NOT COMPARED with the official rules: {name}'s annotation files are not in {REAL}")
        return REAL / name

    return folder


@pytest.fixture
def draw() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Seeded unit vectors: a gallery, and queries that lie near the given rows of it, or have nothing to do with it."""

    def vectors(count: int, near: Sequence[Sequence[int]], noise: float, seed: int = 0, size: int = 32):
        rng = np.random.default_rng(seed)
        gallery = _unit(rng.standard_normal((count, size)))
        centres = np.stack([gallery[list(rows)].mean(axis=0) for rows in near])
        return gallery, _unit(centres + noise / np.sqrt(size) * rng.standard_normal(centres.shape))

    return vectors


@pytest.fixture
def write() -> Callable[[Path, Any], Path]:
    def write(path: Path, content: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


@pytest.fixture
def spoil(write: Callable) -> Callable[[Path, Callable[[Any], Any]], None]:
    """Change the content of a JSON file: in place, or to what the change returns."""

    def spoil(path: Path, change: Callable[[Any], Any]) -> None:
        content = json.loads(path.read_text(encoding="utf-8"))
        made = change(content)
        write(path, content if made is None else made)

    return spoil


@pytest.fixture
def paint() -> Callable[..., None]:
    """Small pictures; a name has the same colour wherever it lies."""

    def paint(root: Path, *paths: str, size: tuple[int, int] = (24, 24)) -> None:
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            colour = tuple(hashlib.sha256(Path(path).stem.encode()).digest()[:3])
            Image.new("RGB", size, colour).save(root / path)

    return paint


class HashEncoder:
    """Equal inputs asked through equal prompts get equal vectors, others get others. It keeps what it was asked."""

    def __init__(self, prompts: PromptSet = PROMPT_SETS["instructcir"], asked: list | None = None) -> None:
        self.prompts = prompts
        self.asked: list[tuple[str, str, str | None]] = [] if asked is None else asked

    def with_prompts(self, prompts: PromptSet) -> HashEncoder:
        return HashEncoder(prompts, self.asked)

    def encode(self, inputs: list, *, batch_size: int = 32, show_progress: bool | None = None) -> np.ndarray:
        self.asked.extend((item.role, self.prompts.prompt(item.role).words, item.words) for item in inputs)
        return np.stack([self.vector(item) for item in inputs])

    def vector(self, item: Any) -> np.ndarray:
        keys = [content_key(image) for image in item.images]
        picture = keys if len(keys) > 1 else next(iter(keys), None)
        seed = hashlib.sha256(repr((self.prompts.prompt(item.role).words, picture, item.words)).encode()).digest()
        return _unit(np.random.default_rng(list(seed)).standard_normal((1, 16)))[0]


@pytest.fixture
def encoder() -> HashEncoder:
    return HashEncoder()


@pytest.fixture
def fashioniq(tmp_path: Path, write: Callable) -> Callable[..., Path]:
    """Annotations: 5 pictures (D0 to D4) and 3 queries a category; one caption is empty, then both."""

    def make(folder: str = "") -> Path:
        for category in ("dress", "shirt", "toptee"):
            names = [f"{category[0].upper()}{number}" for number in (3, 1, 2, 0, 4)]
            pairs = [(0, 1, "is red.", " has, longer sleeves?"), (1, 2, "", "is blue"), (2, 3, " .", "?")]
            rows = [
                {"target": f"{names[0][0]}{target}", "candidate": f"{names[0][0]}{reference}", "captions": captions}
                for reference, target, *captions in pairs
            ]
            write(tmp_path / folder / f"captions/cap.{category}.val.json", rows)
            write(tmp_path / folder / f"image_splits/split.{category}.val.json", names)
        return tmp_path

    return make


@pytest.fixture
def cirr(tmp_path: Path, write: Callable) -> Callable[..., Path]:
    """Annotations: 8 pictures, 3 queries with hard and soft targets; test1 is the same without. m7 has no words."""

    def make(folder: str = "", place: str = "dev") -> Path:
        labels = {
            12: ("m0", "m1", {"m1": 1.0}),
            5: ("m1", "m0", {"m0": 1.0, "m6": 0.5, "m2": -1.0}),
            7: ("m2", "m3", {"m2": 1.0}),  # the slip of 37 rows of CIRR: the soft target is the reference
        }
        rows = []
        for pair, (reference, hard, soft) in labels.items():
            members = {"id": 1, "members": [f"m{number}" for number in (5, 4, 3, 2, 1, 0)]}
            caption = " " if pair == 7 else f"make it {pair}"
            rows.append({"pairid": pair, "reference": reference, "caption": caption, "img_set": members})
            rows[-1] |= {"target_hard": hard, "target_soft": soft}
        hidden = [{key: value for key, value in row.items() if not key.startswith("target")} for row in rows]
        for split, content in (("val", rows), ("test1", hidden)):
            write(tmp_path / folder / f"captions/cap.rc2.{split}.json", content)
            listing = {f"m{number}": f"./{place}/m{number}.png" for number in range(8)}
            write(tmp_path / folder / f"image_splits/split.rc2.{split}.json", listing)
        return tmp_path

    return make


@pytest.fixture
def circo(tmp_path: Path, write: Callable) -> Callable[..., Path]:
    """Annotations: 7 pictures in an order that is not their ids', 2 queries; test has no labels."""

    def make(folder: str = "", listing: str = "COCO2017_unlabeled/annotations") -> Path:
        rows = []
        for number, (reference, right, aspects) in enumerate([(10, [30, 20], ["negation"]), (20, [50], [])]):
            words = {"relative_caption": f"has {number} dogs", "shared_concept": "a dog"}
            rows.append({"id": number, "reference_img_id": reference, **words, "target_img_id": right[0]})
            rows[-1] |= {"gt_img_ids": right, "semantic_aspects": ["viewpoint", *aspects]}
        hidden = [{key: row[key] for key in ("id", "reference_img_id", *words)} for row in rows]
        write(tmp_path / folder / "annotations/val.json", rows)
        write(tmp_path / folder / "annotations/test.json", hidden)
        images = [{"id": number, "file_name": f"{number:012d}.jpg"} for number in (70, 10, 60, 30, 20, 50, 40)]
        write(tmp_path / folder / listing / "image_info_unlabeled2017.json", {"images": images})
        return tmp_path

    return make


@pytest.fixture
def genecis(tmp_path: Path, write: Callable) -> Callable[..., Path]:
    """Annotations of the four tasks: 2 queries each, over 4 pictures of COCO or 3 of Visual Genome, in crops."""

    def make(folder: str = "genecis") -> Path:
        def entry(kind: str, number: int) -> dict[str, Any]:
            if kind == "object":
                return {"val_image_id": number}
            return {"image_id": number % 3 + 1, "instance_bbox": [number, 2.5, 6, 5]}

        for kind in ("object", "attribute"):
            for what in ("focus", "change"):
                rows = [
                    {
                        "condition": condition,
                        "reference": entry(kind, 9),
                        "target": entry(kind, target),
                        "gallery": [entry(kind, number) for number in others],
                    }
                    for condition, target, others in [("red", 8, [3, 5, 8]), ("wall", 5, [8, 3])]
                ]
                write(tmp_path / folder / f"{what}_{kind}.json", rows)
        return tmp_path

    return make


@pytest.fixture
def karpathy(tmp_path: Path, write: Callable) -> Callable[..., Path]:
    """Annotations of three test pictures, of which one has six captions, and a training picture."""

    def make(name: str = "flickr30k", folder: str = "") -> Path:
        rows = [
            {
                "filename": f"p{number}.jpg",
                "filepath": "val2014",
                "split": "test" if number < 3 else "train",
                "sentences": [{"raw": f" caption {at} of {number}"} for at in range(6 if number == 1 else 5)],
            }
            for number in range(4)
        ]
        write(tmp_path / folder / f"dataset_{name}.json", {"images": rows, "dataset": name})
        return tmp_path

    return make
