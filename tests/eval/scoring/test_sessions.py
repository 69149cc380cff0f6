"""Sessions of several turns: rows of the rules that carry the past, and what is found by when, worked out anew."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.benchmarks import open_suite
from eval.reports.compare import compare
from eval.reports.report import result_table, write_result
from eval.reports.saved_result import read_saved_result
from eval.scoring.evaluate import evaluate
from eval.scoring.metrics import recall
from eval.scoring.result import Result
from eval.scoring.score import TIES, Vectors, score
from eval.scoring.sessions.found import found_tasks
from eval.scoring.sessions.turns import Session, turn_tasks
from eval.scoring.suite import Suite
from eval.studies.compare_methods import composed_part
from mllm_embed.errors import DataError
from mllm_embed.inputs.prompts import PROMPT_SETS
from mllm_embed.types import Document, Query

NAMES = [f"p{number}" for number in range(9)]
# the pictures that annotators chose, with what was said; a turn without a picture is about that of the turn before
TURNS = {
    "long": [("p0", "in blue"), ("p1", "larger."), ("p2", "with laces")],
    "short": [("p3", "in red"), (None, "smaller")],
    "other": [("p4", "in blue"), ("p5", "higher")],
    "single": [("p6", "in red")],
}
TARGETS = {"long": ["p7"], "short": ["p8", "p1"], "other": ["p0"], "single": ["p5"]}


def seeded(picture: str | None, words: str | None) -> np.ndarray:
    """The vector [16] of a picture by its name, words, or both."""
    seed = hashlib.sha256(repr((picture, words)).encode()).digest()
    vector = np.random.default_rng(list(seed)).standard_normal(16)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class NameEncoder:
    """Vectors that hang on names and words alone; `asked` keeps what was encoded."""

    prompts = PROMPT_SETS["instructcir"]

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, str | None]] = []

    def encode(self, inputs: list, *, batch_size: int = 32, show_progress: bool | None = None) -> np.ndarray:
        parts = [(item.side, item.image and Path(item.image).stem, item.words) for item in inputs]
        self.asked += parts
        return np.stack([seeded(picture, words) for _, picture, words in parts])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sessions")
    for number, name in enumerate(NAMES):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{name}.png")
    sessions = []
    for name, turns in TURNS.items():
        rows = [{"instruction": words, **({"image": f"{image}.png"} if image else {})} for image, words in turns]
        sessions.append({"id": name, "turns": rows, "targets": TARGETS[name], "exclude": [turns[0][0]]})
    sessions[0]["kind"] = "shoes"
    gallery = [{"id": name, "image": f"{name}.png"} for name in NAMES]
    (folder / "benchmark.json").write_text(json.dumps({"name": "made", "gallery": gallery, "sessions": sessions}))
    return folder


@pytest.fixture(scope="module")
def measured(folder: Path) -> Result:
    return evaluate(NameEncoder(), open_suite("folder", folder))


def order(query: np.ndarray, left_out: str) -> list[str]:
    scores = {name: float(np.float32(seeded(name, None).astype(float) @ query.astype(float))) for name in NAMES}
    return sorted((name for name in NAMES if name != left_out), key=lambda name: -scores[name])


def mix(*parts: tuple[float, np.ndarray]) -> np.ndarray:
    total = sum(weight * vector.astype(float) for weight, vector in parts)
    return (total / np.linalg.norm(total)).astype(np.float32)


def walk(row: str, turns: list[tuple[str | None, str]]) -> list[list[str]]:
    """What answers in each turn of a session, by a rule, in order."""
    first, words = turns[0][0], [said for _, said in turns]
    annotated: list[str] = []
    for picture, _ in turns:
        annotated.append(picture or annotated[-1])
    protocol, _, rule = row.partition(": ") if ": " in row else ("annotated", "", "last turn")
    given = annotated if protocol == "annotated" else [first] * len(turns)
    found: list[list[str]] = []
    for at, said in enumerate(words):
        answers = [first, *(ranked[0] for ranked in found)]
        weights = [0.25 ** (at - past) for past in range(at + 1)]
        asked = {
            "last turn": lambda at=at, said=said: seeded(given[at], said),
            "last answer": lambda at=at, said=said, answers=answers: seeded(answers[at], said),
            "joined": lambda at=at: seeded(given[at], ", ".join([*(w.rstrip(".") for w in words[:at]), words[at]])),
            "mixed": lambda weights=weights: mix(*zip(weights, map(seeded, given, words), strict=False)),
            "mixed answers": lambda weights=weights, answers=answers: mix(
                *zip(weights, map(seeded, answers, words), strict=False)
            ),
        }[rule]
        found.append(order(asked(), first))
    return found


def test_each_row_goes_through_the_sessions_by_its_rule(measured: Result) -> None:
    rows = list(measured.tasks["turn-1"].rows)
    assert rows[:4] == ["composed", "image only", "text only", "sum"]
    assert rows[4:] == [
        *(f"annotated: {rule}" for rule in ("joined", "mixed")),
        *(f"target-free: {rule}" for rule in ("joined", "last answer", "last turn", "mixed", "mixed answers")),
    ]
    for row in ("composed", *rows[4:]):
        for number in (1, 2, 3):
            task = measured.tasks[f"turn-{number}"]
            there = [name for name, turns in TURNS.items() if len(turns) >= number]
            answers = [walk(row, TURNS[name])[number - 1] for name in there]
            assert [[NAMES[at] for at in line if at >= 0] for line in task.row_answers[row].tolist()] == answers
            best = [min(map(ranked.index, TARGETS[name])) for name, ranked in zip(there, answers, strict=True)]
            for k in (1, 5):
                assert task.row_values[row][f"R@{k}"].tolist() == [place < k for place in best], (row, number)
    assert measured.protocol["target-free: mixed"].startswith("sum of d^(t - i) q(r_i, m_i)")
    assert measured.protocol["target-free: mixed"].endswith("; decay 0.25")


def test_no_rule_changes_what_is_asked_first_and_nothing_is_encoded_twice(folder: Path, measured: Result) -> None:
    encoder = NameEncoder()
    evaluate(encoder, open_suite("folder", folder))
    queries = [part for part in encoder.asked if part[0] == "query"]
    composed = [part for part in queries if part[1] and part[2]]
    assert len(composed) == len(set(composed))
    first = measured.tasks["turn-1"].row_answers
    for row, answers in first.items():
        if row not in ("image only", "text only", "sum"):
            assert np.array_equal(answers, first["composed"]), row


def test_an_edits_strength_is_that_of_every_row(folder: Path) -> None:
    strong = evaluate(NameEncoder(), open_suite("folder", folder), edit_strength=1.5)
    for row in ("target-free: last turn", "target-free: last answer", "annotated: joined"):
        for at, (name, turns) in enumerate(TURNS.items()):
            picture, said = turns[0]
            wanted = order(mix((1.5, seeded(picture, said)), (-0.5, seeded(picture, None))), picture)
            assert [NAMES[to] for to in strong.tasks["turn-1"].row_answers[row][at] if to >= 0] == wanted, name
    said = ", ".join(["in red", "smaller"])
    wanted = order(mix((1.5, seeded("p3", said)), (-0.5, seeded("p3", None))), "p3")
    at = [name for name, turns in TURNS.items() if len(turns) > 1].index("short")
    assert [NAMES[to] for to in strong.tasks["turn-2"].row_answers["target-free: joined"][at] if to >= 0] == wanted


@pytest.mark.parametrize("ties", TIES)
def test_found_by_turn_counts_sessions(ties: str) -> None:
    rng = np.random.default_rng(3)
    gallery = rng.standard_normal((24, 6)).astype(np.float32)
    gallery[12:] = gallery[:12]  # every row has a twin: equal scores
    ids = [f"g{at}" for at in range(24)]
    lengths = [1 + at % 4 for at in range(20)]
    sessions = [
        Session(
            f"s{at}",
            [Query(f"r{at % 15 + 100 * turn}.png", f"turn {turn}") for turn in range(count)],
            (at, (at + 5) % 23),
            (23,),
        )
        for at, count in enumerate(lengths)
    ]
    tasks = turn_tasks(sessions, ids, [Document(text=name) for name in ids], recall((1, 10)), "R@1")
    suite = Suite("made", "", {}, tasks, turns=tuple(task.name for task in tasks))
    assert found_tasks(suite)[0].references.tolist() == [at % 15 for at in range(20)]  # five share their first picture
    vectors, best = {}, np.full((20, 4), 99)
    for turn, task in enumerate(tasks):
        asked = rng.standard_normal((len(task.queries), 6)).astype(np.float32)
        vectors[task.name] = Vectors(gallery, {"composed": asked, "twice": 2 * asked})
        for query, name in zip(asked, task.query_ids, strict=True):
            session = sessions[int(name[1:])]
            scores = np.float32(gallery.astype(float) @ query.astype(float))
            ranks = []
            for target in session.targets:
                others = [at for at in range(23) if at not in session.targets]
                same = [at for at in others if scores[at] == scores[target]]
                tied = {"optimistic": 0, "pessimistic": len(same), "gallery": sum(at < target for at in same)}[ties]
                twin = sum(
                    scores[at] > scores[target] or (scores[at] == scores[target] and at < target)
                    for at in session.targets
                    if at != target
                )
                ranks.append(1 + sum(scores[at] > scores[target] for at in others) + tied + twin)
            best[int(name[1:]), turn] = min(ranks)
    result = score(suite, vectors, ties)
    for k in (1, 10):
        found, rows = result.tasks[f"found@{k}"], result.turns[f"found@{k}"]
        for turn in range(4):
            wanted = (best[:, : turn + 1] <= k).any(axis=1)
            assert found.row_values["composed"][f"by turn {turn + 1}"].tolist() == wanted.tolist()
            assert found.rows["composed"][f"by turn {turn + 1}"].hits == wanted.sum()
            assert found.rows["composed"][f"by turn {turn + 1}"].queries == 20
        ends = [bool(best[at, count - 1] <= k) for at, count in enumerate(lengths)]
        assert found.row_values["composed"]["at the end"].tolist() == ends
        turns = []
        for at, count in enumerate(lengths):
            hits = np.flatnonzero(best[at, :count] <= k)
            turns.append(int(hits[0]) + 1 if len(hits) else count + 1)
        own = rows["composed"]
        assert (own.mean, own.sessions) == (np.mean(turns), 20) and own.low < own.mean < own.high
        assert own.found == (best <= k).any(axis=1).sum()
        assert rows["twice"] == own  # by the same sessions, drawn alike
        assert list(found.groups) == ["1 turn", "2 turns", "3 turns", "4 turns"]
        assert found.groups["2 turns"]["by turn 4"].queries == 5
    curve = [result.percent(f"by turn {turn}", task="found@10") for turn in (1, 2, 3, 4)]
    assert all(one <= other for one, other in pairwise(curve)) and curve[0] < curve[-1]


def test_results_of_sessions_are_written_read_and_compared(measured: Result, folder: Path, tmp_path: Path) -> None:
    suite = open_suite("folder", folder)
    for name in ("one", "other"):
        write_result(measured, suite, tmp_path / name, {"model": name, "adapter": None})
    content = json.loads((tmp_path / "one/result.json").read_text())
    own = content["turns to find"]["found@10"]["target-free: joined"]
    assert own == measured.turns["found@10"]["target-free: joined"].to_dict() and own["sessions"] == 4
    kept = json.loads((tmp_path / "one/per_query.json").read_text())["tasks"]["found@1"]
    assert kept["ids"] == list(TURNS) and set(kept["rows"]) == set(measured.tasks["turn-1"].rows)
    last = [walk("target-free: last answer", turns)[-1] for turns in TURNS.values()]
    assert kept["rows"]["target-free: last answer"]["answers"] == last
    assert measured.tasks["found@10"].groups["shoes"]["at the end"].queries == 1
    gains = content["gains of rules"]["found@10"]
    values = measured.tasks["found@10"].row_values
    for row in set(measured.tasks["turn-1"].rows) - {
        "image only",
        "text only",
        "sum",
        "composed",
        "target-free: last turn",
    }:
        other = "target-free: last turn" if row.startswith("target-free") else "composed"
        more = values[row]["at the end"] - values[other]["at the end"]
        assert gains[row]["points"] == pytest.approx(100 * more.mean()) and 0 < gains[row]["p"] <= gains[row]["p_holm"]
    assert len(gains) == 6
    assert read_saved_result(tmp_path / "one").headline == "found@10/at the end"
    table = result_table(measured)
    assert "gains of carrying the past: points at the end over the last turn alone" in table
    assert "turns to find; a session that never does counts a turn more than it has" in table
    text = compare([tmp_path / "one", tmp_path / "other"], "markdown")
    assert "turn-3/R@1" in text and "found@10/by turn 3" in text


def test_turns_without_the_rest_of_their_session_are_queries_by_themselves(folder: Path, measured: Result) -> None:
    suite = open_suite("folder", folder)
    told = "each turn by itself, since not all turns of each session are named"
    # as lists of the audit name turns: one turn of a session, another of another
    for members in ({"turn-2": [0, 1]}, {"turn-1": [0], "turn-2": [1]}, {"turn-1": [0], "turn-3": [0]}):
        some = suite.only(members, "few")
        result = evaluate(NameEncoder(), some)
        assert told in some.protocol["only"] and set(result.tasks) == set(members) and not result.turns
        for name, own in members.items():
            assert list(result.tasks[name].rows) == ["composed", "image only", "text only", "sum"]
            assert result.tasks[name].answers.tolist() == measured.tasks[name].answers[own].tolist()
    whole = suite.only({"turn-1": [0, 3], "turn-2": [0], "turn-3": [0]}, "few")  # "long" and "single"
    found = evaluate(NameEncoder(), whole).tasks["found@10"].row_values
    assert told not in whole.protocol["only"] and whole.turns == suite.turns
    for row, values in measured.tasks["found@10"].row_values.items():
        assert {name: own.tolist() for name, own in found[row].items()} == {
            name: own[[0, 3]].tolist() for name, own in values.items()
        }


def test_composed_turns_after_a_picture_alone_are_no_sessions() -> None:
    names = ["g0", "g1"]
    sessions = [Session("s", [Query("a.jpg"), Query("b.jpg", "in blue")], [1])]
    tasks = turn_tasks(sessions, names, [Document(text=name) for name in names], recall((1,)), "R@1")
    part = composed_part(Suite("made", "", {}, tasks, turns=("turn-1", "turn-2")))
    assert [task.name for task in part.tasks] == ["turn-2"] and found_tasks(part) == ()


def test_a_benchmark_without_sessions_has_nothing_of_them(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "benchmark.json").read_text())
    turn = content["sessions"][0]["turns"][0]
    query = {"id": "q", "image": turn["image"], "instruction": "x", "targets": ["p7"]}
    (tmp_path / "plain").mkdir()
    for name in NAMES:
        (tmp_path / f"plain/{name}.png").write_bytes((folder / f"{name}.png").read_bytes())
    plain = {"name": "plain", "gallery": content["gallery"], "queries": [query]}
    (tmp_path / "plain/benchmark.json").write_text(json.dumps(plain))
    result = evaluate(NameEncoder(), open_suite("folder", tmp_path / "plain"))
    assert list(result.tasks) == [""] and "turns to find" not in result.to_dict()
    assert list(result.tasks[""].rows) == ["composed", "image only", "text only", "sum"]
    both = {**plain, "sessions": content["sessions"]}
    (tmp_path / "plain/benchmark.json").write_text(json.dumps(both))
    suite = open_suite("folder", tmp_path / "plain")
    assert [task.name for task in suite.tasks] == ["", "turn-1", "turn-2", "turn-3"] and len(suite.turns) == 3
    assert evaluate(NameEncoder(), suite).tasks[""].rows == result.tasks[""].rows


def test_an_answer_without_a_picture_is_named_with_its_session() -> None:
    session = Session("s", [Query("a.png", "x"), Query("b.png", "y")], (0,))
    tasks = turn_tasks([session], ["g"], [Document(text="words")], recall((1,)), "R@1")
    suite = Suite("made", "", {}, tasks, turns=("turn-1", "turn-2"))
    with pytest.raises(DataError, match='turn-2 of session "s", target-free: last answer: turn 1 was not answered by'):
        evaluate(NameEncoder(), suite)
