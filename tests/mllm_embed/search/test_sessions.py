"""Sessions of several turns: what each rule searches with, picking, going back, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllm_embed import MLLMEmbedder, Query, Searcher
from mllm_embed.cli import main
from mllm_embed.data.sources import open_sources
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.search.searcher import Hit
from mllm_embed.search.sessions.rules import rules
from mllm_embed.store.extract import encode_sources
from mllm_embed.store.gallery import MemoryGallery
from mllm_embed.vectors.fusion import weighted

FIRST, SECOND, THIRD = "in blue.", "with laces", "smaller"


@pytest.fixture(scope="module")
def embedder(tiny_llava: Path) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def searcher(embedder: MLLMEmbedder, photos: Path) -> Searcher:
    return Searcher.from_folder(embedder, photos, show_progress=False)


def seen(hits: list[Hit]) -> list[tuple[str, float]]:
    return [(hit.id, pytest.approx(hit.score, abs=1e-5)) for hit in hits]


def vector(searcher: Searcher, image: object, words: str) -> np.ndarray:
    return searcher.embedder.encode([Query(image, words)], show_progress=False)


def test_each_rule_searches_with_what_it_says(searcher: Searcher, photos: Path) -> None:
    picture = photos / "0.png"
    asked = {name: searcher.session(name) for name in rules()}
    answers = {}
    for name, session in asked.items():
        answers[name] = [session.ask(FIRST, picture, k=8), session.ask(SECOND, k=8), session.ask(THIRD, k=8)]
        assert session.hits == answers[name][-1]
        assert answers[name][0] == searcher.search(Query(picture, FIRST), 8)
    assert answers["last turn"][2] == searcher.search(Query(picture, THIRD), 8)
    assert answers["joined"][2] == searcher.search(Query(picture, "in blue, with laces, smaller"), 8)
    second, third = (answers["last answer"][turn][0].image for turn in (0, 1))
    assert answers["last answer"][1] == searcher.search(Query(second, SECOND), 8)
    assert answers["last answer"][2] == searcher.search(Query(third, THIRD), 8)
    words = list(zip((0.0625, 0.25, 1.0), (FIRST, SECOND, THIRD), strict=True))
    mixed = weighted(*[(weight, vector(searcher, picture, text)) for weight, text in words])
    assert seen(answers["mixed"][2]) == seen(searcher.find(mixed, 8))
    from_answers = [picture, *(answers["mixed answers"][turn][0].image for turn in (0, 1))]
    parts = [(weight, vector(searcher, image, text)) for (weight, text), image in zip(words, from_answers, strict=True)]
    assert seen(answers["mixed answers"][2]) == seen(searcher.find(weighted(*parts), 8))


def test_without_decay_the_mixed_rules_forget(searcher: Searcher, photos: Path) -> None:
    for mixed, plain in (("mixed", "last turn"), ("mixed answers", "last answer")):
        one, other = searcher.session(mixed, decay=0.0), searcher.session(plain)
        for text, image in ((FIRST, photos / "0.png"), (SECOND, None), (THIRD, None)):
            assert seen(one.ask(text, image, k=8)) == seen(other.ask(text, image, k=8))


def test_what_was_picked_is_what_is_asked_about(searcher: Searcher, photos: Path) -> None:
    session = searcher.session("last answer")
    first = session.ask(FIRST, photos / "0.png", k=3)
    session.pick(first[2].id)
    assert session.ask(SECOND) == searcher.search(Query(photos / first[2].id, SECOND))
    session.pick(first[1].id)
    other = photos / "7.png"
    assert session.ask(THIRD, other) == searcher.search(Query(other, THIRD))  # given in its place
    assert session.ask(THIRD) == searcher.search(Query(session.turns[2].answer, THIRD))  # and it is gone


def test_a_session_goes_back_turn_by_turn(searcher: Searcher, photos: Path) -> None:
    session = searcher.session("joined")
    first = session.ask(FIRST, photos / "0.png")
    second = session.ask(SECOND)
    session.pick("3.png")
    assert session.back() == second and len(session.turns) == 2  # what was picked, first
    assert session.back() == first == session.hits
    assert session.ask(SECOND) == second  # as if nothing had been
    session.back()
    assert (session.back(), session.turns) == ([], ())
    with pytest.raises(DataError, match="the session is at its start"):
        session.back()


def test_what_was_shown_is_left_out_only_where_that_is_asked_for(searcher: Searcher, photos: Path) -> None:
    session = searcher.session("last turn")
    shown = {hit.id for hit in session.ask(FIRST, photos / "0.png", k=3)}
    assert len(session.ask(FIRST, k=8)) == 8
    session.back()
    fresh = session.ask(FIRST, k=8, unseen=True, exclude=["7.png"], exclude_reference=True)
    assert {hit.id for hit in fresh} == {f"{number}.png" for number in range(1, 7)} - shown
    narrow = session.ask(SECOND, allow=["1.png", "2.png"])
    assert {hit.id for hit in narrow} == {"1.png", "2.png"}


def test_rows_that_are_gone_since_they_were_shown_stop_no_session(embedder: MLLMEmbedder, photos: Path) -> None:
    searcher = Searcher.from_folder(embedder, photos, show_progress=False)
    session = searcher.session("last turn")
    [first, *_] = session.ask(FIRST, photos / "0.png", k=2)
    searcher.remove([first.id])
    assert len(session.ask(SECOND, k=8, unseen=True)) == 6


def test_words_alone_begin_a_session_and_edits_have_a_strength(searcher: Searcher, photos: Path) -> None:
    session = searcher.session("last answer")
    [first, *_] = session.ask("a shoe")
    assert session.ask(SECOND) == searcher.search(Query(first.image, SECOND))
    strong = searcher.session("last turn").ask(FIRST, photos / "0.png", edit_strength=1.7)
    assert strong == searcher.search(Query(photos / "0.png", FIRST), edit_strength=1.7)


@pytest.mark.parametrize("rule", rules())
def test_a_later_turn_in_which_nothing_is_said_is_refused(rule: str, searcher: Searcher, photos: Path) -> None:
    session = searcher.session(rule)
    first = session.ask(FIRST, photos / "0.png")
    with pytest.raises(DataError, match="nothing is said: give an instruction"):
        session.ask()
    assert (len(session.turns), session.hits) == (1, first)
    session.pick(first[1].id)
    assert session.ask() and len(session.turns) == 2  # a picture says enough


def test_a_refused_turn_leaves_the_session_as_it_was(searcher: Searcher, embedder: MLLMEmbedder, photos: Path) -> None:
    with pytest.raises(ConfigError, match="there is no rule 'joint' .*; did you mean 'joined'?"):
        searcher.session("joint")
    with pytest.raises(ConfigError, match="the rule 'mixed' has no setting 'decoy'; it has decay"):
        searcher.session("mixed", decoy=0.1)
    session = searcher.session("last turn")
    with pytest.raises(DataError, match="nothing is said: give an instruction"):
        session.ask()
    with pytest.raises(DataError, match='"none" is not in the gallery'):
        session.pick("none")
    with pytest.raises(DataError, match="k must be at least 1"):
        session.ask(FIRST, k=0)
    assert (session.turns, session.hits) == ((), [])
    gallery = MemoryGallery(["gone"], searcher.gallery.vectors[:1], [photos / "0.png"])
    gallery.add(["a"], searcher.gallery.vectors[1:2])  # nobody says where its picture is
    session = Searcher(embedder, gallery).session("mixed answers")
    assert [hit.id for hit in session.ask(FIRST, allow=["a"])] == ["a"]
    with pytest.raises(DataError, match="turn 1 was not answered by a picture, from which to go on: give an image"):
        session.ask(SECOND)
    with pytest.raises(DataError, match='the picture of "a" is not known or gone'):
        session.pick("a")
    assert len(session.turns) == 1


def test_stores_and_indexes_have_sessions_alike(
    embedder: MLLMEmbedder, searcher: Searcher, photos: Path, tmp_path: Path
) -> None:
    encode_sources(embedder, open_sources([str(photos)]), str(tmp_path / "store"), show_progress=False)
    main(["index", str(tmp_path / "store"), "--kind", "hnsw"])
    wanted = searcher.session()
    right = [wanted.ask(FIRST, photos / "0.png"), wanted.ask(SECOND), wanted.ask(THIRD, unseen=True)]
    for place in ("store", "store.index"):
        session = Searcher.open(embedder, tmp_path / place, show_progress=False).session()
        found = [session.ask(FIRST, photos / "0.png"), session.ask(SECOND), session.ask(THIRD, unseen=True)]
        assert [list(map(id_of, hits)) for hits in found] == [list(map(id_of, hits)) for hits in right]


def id_of(hit: Hit) -> str:
    return Path(hit.id).name
