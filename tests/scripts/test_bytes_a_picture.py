"""What a picture weighs in each form: what forms find beside loops, the front, the names on it, and the table."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import bytes_a_picture
import numpy as np
import pytest
from forms import models, plot, rows
from forms.measuring import Measured
from forms.models import Both
from forms.several import Encodings, Several
from forms.single import Codes, Numbers, TunedCodes
from forms.words import Fused, Words
from scipy.sparse import csr_array

import make_scenes
from mllm_embed.index.engines import new_engine
from mllm_embed.index.jpq.quantizer import QUANTIZER_FILE, TunedQuantizer
from mllm_embed.index.kinds import OF_STORES
from mllm_embed.vectors.multi import MultiVectors
from mllm_embed.vectors.unit import unit
from toy import scenes

RNG = np.random.default_rng(0)


def vectors(count: int, width: int = 16) -> np.ndarray:
    return unit(RNG.standard_normal((count, width)).astype(np.float32))


def by_scores(scores: list[list[float]]) -> np.ndarray:
    return np.array([sorted(range(len(row)), key=lambda at: (-row[at], at)) for row in scores])


def test_numbers_and_codes_rank_and_weigh_as_they_are_kept(tmp_path: Path) -> None:
    gallery, queries = vectors(40), vectors(5)
    for form, bytes_ in ((Numbers("float32"), 64), (Numbers("float16"), 32), (Numbers("int8", 8), 8)):
        built = form.build(gallery, tmp_path)
        cut = [row[: form.dim] for row in gallery]
        if form.dtype == "int8":
            cut = [np.round(row * (127 / np.abs(row).max())) for row in cut]
        right = by_scores([[float(q[: form.dim] @ row) / np.linalg.norm(row) for row in cut] for q in queries])
        assert built.bytes == bytes_ and (built.search(queries, 3) == right[:, :3]).all()
    signs = Codes("binary")
    signs.train(gallery, tmp_path, 40)
    built = signs.build(gallery, tmp_path)
    right = by_scores([[float(((q > 0) == (row > 0)).sum()) for row in gallery] for q in queries])
    assert built.bytes == 2 and (built.search(queries, 40) == right).all()
    sizes = {name: new_engine(kind, 680, 256, tmp_path).code_bytes for name, kind in OF_STORES.items()}
    a_number = {"fp16": 512, "sq8": 256, "rabitq4": 4 * 32 + 20, "rabitq": 32 + 8}
    bits = dict.fromkeys(("pq", "binary", "learned-signs", "bebr"), 32)
    assert sizes == dict.fromkeys(OF_STORES, 1024) | a_number | bits


def test_codes_tuned_with_queries_are_scored_as_their_quantizer_says(tmp_path: Path) -> None:
    gallery, queries = vectors(300), vectors(5)
    learned = TunedQuantizer.learn(gallery, 4)
    tuned = replace(learned, scored=learned.scored + 0.1 * RNG.standard_normal(learned.scored.shape).astype(np.float32))
    tuned.save(tmp_path / QUANTIZER_FILE)
    built = TunedCodes(tmp_path).build(gallery, tmp_path)
    right = by_scores((queries @ tuned.decoded(tuned.codes(gallery)).T).tolist())
    assert (built.search(queries, 9) == right[:, :9]).all()
    assert (built.bytes, built.shared) == (4, 4 * (16 * 16 + 2 * 256 * 16))


def test_a_vector_a_token_and_encodings_of_them(tmp_path: Path) -> None:
    sets = MultiVectors.of([vectors(6) for _ in range(20)], 16)
    asked = MultiVectors.of([vectors(3) for _ in range(4)], 16)
    right = by_scores([[float((own @ row.T).max(axis=1).mean()) for row in sets] for own in asked])
    whole = Several("float32").build(sets, tmp_path)
    assert whole.bytes == 6 * 16 * 4 and (whole.search(asked, 5) == right[:, :5]).all()
    assert Several("int8", 3).build(sets, tmp_path).bytes == 2 * 16  # two clusters of six
    again = Encodings(2, 3, depth=20, sets=Several("float32")).build(sets, tmp_path)  # which ranks all candidates
    assert again.bytes == 4 * 3 * 4 * 16 + whole.bytes and (again.search(asked, 5) == right[:, :5]).all()
    alone = Encodings(2, 3).build(sets, tmp_path)
    assert alone.bytes == 4 * 3 * 4 * 16 and alone.search(asked, 5).shape == (4, 5)


def test_words_alone_and_beside_dense_vectors(tmp_path: Path) -> None:
    words = [csr_array(unit((RNG.random((count, 30)) * (RNG.random((count, 30)) < 0.3)).astype(np.float32) + 1e-6))
             for count in (25, 4)]  # fmt: skip
    gallery, queries = Both(vectors(25), words[0]), Both(vectors(4), words[1])
    lexical, dense = words[1].toarray() @ words[0].toarray().T, queries.dense @ gallery.dense.T
    alone, fused = Words().build(gallery, tmp_path), Fused(0.5).build(gallery, tmp_path)
    assert (alone.search(queries, 6) == by_scores(lexical.tolist())[:, :6]).all()
    assert (fused.search(queries, 6) == by_scores((dense + 0.5 * lexical).tolist())[:, :6]).all()
    assert fused.bytes == 64 + alone.bytes == 64 + 8 * words[0].nnz / 25


def test_the_front_is_what_nothing_as_small_equals_and_its_names_do_not_meet() -> None:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    titles = [title for title, row in rows.ROWS.items() if row.model == "shipped"]
    own = sorted((plot.Point(title, float(2 ** RNG.integers(3, 8)), float(RNG.integers(50, 100))) for title in titles),
                 key=lambda point: (point.bytes, -point.first))  # fmt: skip
    best = plot.front(own)
    slow = [p for p in own if not any(o.first >= p.first and o.bytes <= p.bytes and o is not p for o in own)]
    assert {(p.bytes, p.first) for p in slow} <= {(p.bytes, p.first) for p in best}
    assert all(any((o.bytes, o.first) == (p.bytes, p.first) for o in own) for p in best)
    assert [p.first for p in best] == sorted({p.first for p in best})
    axes = Figure(figsize=(6, 5)).add_subplot()
    axes.set_xscale("log")
    axes.plot([p.bytes for p in own], [p.first for p in own], ".")
    axes.margins(0.2)
    axes.figure.draw_without_rendering()
    boxes = [Text.get_window_extent(note) for note in plot.name_front(axes, own, best).values()]
    assert len(boxes) >= len(best) - 1
    assert not any(one.overlaps(other) for at, one in enumerate(boxes) for other in boxes[:at])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    painter, pictures = scenes.Painter(Path(make_scenes.__file__).parent / "assets" / "sprites"), make_scenes.Pictures()
    for name in ("seen", "unseen", "train"):
        (tmp_path / name).mkdir()
    for name, references in make_scenes.benchmarks(painter.nouns, 1).items():
        make_scenes.write_benchmark(tmp_path / name, name, references, pictures)
    make_scenes.write_training(tmp_path / "train", random.Random(3), painter.nouns, set(), (2, 2, 2), pictures)
    pictures.paint(painter)
    return tmp_path


def test_the_command_leaves_a_table_and_a_picture_and_measures_a_row_once(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(
        models.MODELS,
        "multi",
        models.Model("a vector a token", models.ALIKE, data / "none", "train it", models.SEVERAL),
    )
    command = ["bytes_a_picture", "--data", str(data), "--output", str(data / "out"), "--models", "shipped", "multi"]
    monkeypatch.setattr("sys.argv", [*command, "--only", "float", "signs"])
    assert bytes_a_picture.main() == 0
    said = capsys.readouterr()
    assert f"multi: left out, since {data / 'none'} is missing, which `train it` trains" in said.err
    lines = [line.split(" | ") for line in said.out.splitlines() if line.startswith("| shipped")]
    assert [line[1:3] for line in lines[:2]] == [["float, float32", "1,024"], ["float, float16", "512"]]
    assert lines[0][6:8] == ["1.000", "1.000"]  # of the exact ranking it is itself
    assert (data / "out/bytes_a_picture.png").read_bytes().startswith(b"\x89PNG")

    def never(*_: object) -> Measured:
        raise AssertionError("measured again")

    monkeypatch.setattr(bytes_a_picture.Bench, "_measure", never)
    assert bytes_a_picture.main() == 0
    assert capsys.readouterr().out == said.out
    monkeypatch.setattr("sys.argv", ["bytes_a_picture", "--data", str(data / "nothing")])
    assert bytes_a_picture.main() == 2
    assert "has no scenes: python scripts/make_scenes.py --output" in capsys.readouterr().err
