"""From values to reported numbers: the official arithmetic in every digit, intervals, means."""

from __future__ import annotations

import numpy as np
import pytest

from eval.scoring.estimate import BLOCK_RESAMPLES, RESAMPLES, Estimate, bootstrap_means, estimate, means, resamples
from eval.scoring.metrics import MRR, recall, soft_recall
from eval.scoring.suite import Mean

SINGLE, DOUBLE = recall((10,), single=True)[0], recall((10,))[0]


def hits(found: int, queries: int) -> np.ndarray:
    return np.arange(queries) < found


@pytest.mark.parametrize(
    ("found", "queries", "expected"),
    [(1711, 2017, 84.82895493507385), (1, 3, 33.33333432674408), (4181, 4181, 100.0), (0, 7, 0.0)],
)
def test_recall_that_the_official_code_divides_in_float32_has_its_digits(
    found: int, queries: int, expected: float
) -> None:
    assert 100 * SINGLE.mean(hits(found, queries).astype(float)) == expected
    assert expected == float(np.float32(found) / np.float32(queries)) * 100


def test_everything_else_is_a_float64_mean_times_a_hundred() -> None:
    assert 100 * DOUBLE.mean(hits(1711, 2017).astype(float)) == 1711 / 2017 * 100 != 84.82895493507385
    values = np.random.default_rng(0).random(220)
    assert 100 * MRR.mean(values) == float(np.mean(values)) * 100


def test_soft_recall_is_added_up_query_by_query_as_its_authors_do() -> None:
    values = np.random.default_rng(1).choice([0.0, 1.0, 0.5, 0.2], 4181)
    total = 0.0
    for value in values:
        total += float(value)
    (soft,) = soft_recall((1,), [], "soft R")
    assert soft.mean(values) == total / 4181


def test_a_figure_has_its_hits_its_ties_and_a_plausible_interval() -> None:
    values, tied = hits(400, 1000).astype(float), hits(7, 1000)
    made = estimate(DOUBLE, values, tied, resamples(values[:, None], "dress")[:, 0])
    assert (made.percent, made.hits, made.queries, made.tied) == (40, 400, 1000, 7)
    error = 100 * np.sqrt(0.4 * 0.6 / 1000)  # the normal approximation of the same interval
    assert made.low == pytest.approx(40 - 1.96 * error, abs=0.5)
    assert made.high == pytest.approx(40 + 1.96 * error, abs=0.5)
    assert "hits" not in estimate(MRR, values, tied, values).to_dict()


def test_the_bootstrap_draws_the_same_queries_for_every_metric_and_run_but_others_for_another_task() -> None:
    rng = np.random.default_rng(3)
    values = rng.random((200, 2))
    drawn = resamples(values, "dress")
    assert drawn.shape == (RESAMPLES, 2) and (drawn == resamples(values, "dress")).all()
    assert np.allclose(resamples(1 - values, "dress"), 1 - drawn)
    assert drawn.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=0.005)
    assert drawn.std(axis=0) == pytest.approx(values.std(axis=0) / np.sqrt(200), rel=0.1)
    assert abs(np.corrcoef(drawn[:, 0], resamples(values, "shirt")[:, 0])[0, 1]) < 0.1
    assert np.allclose(resamples(np.ones((5, 1)), ""), 1)


def test_pictures_are_drawn_with_all_of_their_queries_as_in_a_slow_loop() -> None:
    rng = np.random.default_rng(4)
    values, references = rng.random((30, 2)), np.array([0] * 9 + [1, 1, 2, 0, 1] + [3] * 10 + [4, 5, 6, 4, 5, 7])
    found = bootstrap_means(values, np.random.default_rng(5), references)
    again, slow = np.random.default_rng(5), []
    for _ in range(RESAMPLES // BLOCK_RESAMPLES):
        for times in again.multinomial(8, np.full(8, 1 / 8), size=BLOCK_RESAMPLES).tolist():
            drawn = []
            for picture, count in enumerate(times):
                for _ in range(count):
                    drawn += [value for value, own in zip(values, references, strict=True) if own == picture]
            slow.append(np.mean(drawn, axis=0))
    assert np.allclose(found, slow, rtol=1e-12, atol=0)


def test_where_no_two_queries_share_a_picture_the_samples_are_those_of_the_queries_to_the_last_bit() -> None:
    values = np.random.default_rng(6).random((50, 3))
    again, times = np.random.default_rng(7), RESAMPLES // BLOCK_RESAMPLES
    draws = [again.multinomial(50, np.full(50, 1 / 50), size=BLOCK_RESAMPLES) for _ in range(times)]
    old = [block @ values / 50 for block in draws]
    for references in (None, np.arange(50), np.zeros(50, int)):  # the last: one picture for all tells nothing
        assert (bootstrap_means(values, np.random.default_rng(7), references) == np.concatenate(old)).all()


def test_sixteen_equal_queries_a_picture_are_no_more_than_one() -> None:
    once = (np.arange(40) % 3 == 0).astype(float)[:, None]
    sixteen = np.repeat(once, 16, axis=0)
    by_picture = resamples(sixteen, "", np.repeat(np.arange(40), 16))
    assert np.allclose(by_picture, resamples(once, ""))
    assert by_picture.std() == pytest.approx(4 * resamples(sixteen, "").std(), rel=0.1)


def test_means_take_figures_and_earlier_means_by_name() -> None:
    names = ("a/R", "b/R", "b/S")
    samples = np.random.default_rng(0).random((3, RESAMPLES))
    known = {
        name: (Estimate(value, 0, 100, 9, 3, 0), row)
        for name, value, row in zip(names, (10.0, 20.0, 60.0), samples, strict=True)
    }
    wanted = (Mean("mean R", ("a/R", "b/R")), Mean("mean", ("mean R", "b/S")))
    found = {name: estimate for name, (estimate, _) in means(wanted, known).items()}
    assert list(found) == ["mean R", "mean"]
    assert (found["mean R"].percent, found["mean"].percent) == (15, (15 + 60) / 2)
    drawn = ((samples[0] + samples[1]) / 2 + samples[2]) / 2
    assert [found["mean"].low, found["mean"].high] == pytest.approx(100 * np.percentile(drawn, (2.5, 97.5)))
    assert set(found["mean"].to_dict()) == {"percent", "low", "high"}
