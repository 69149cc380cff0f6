"""A benchmark measured with a model, and the folder of all that is said of it, as `run` and `table` write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_embed.encode.encoder import check_single

from ..scoring.asking import AskedSuite
from ..scoring.evaluate import evaluate_with_vectors
from ..scoring.score import DEFAULT_TIES, Result, Ties
from ..scoring.suite import Suite
from ..scoring.vectors import write_vectors
from .pages import MEGABYTES
from .pages.result_page import write_report
from .report import CONTACT_SHEET, write_result, write_sheet

if TYPE_CHECKING:
    from mllm_embed.encode.encoder import PromptedEncoder


@dataclass(frozen=True)
class Measuring:
    """How a benchmark is measured, and what is kept of it.

    Attributes:
        batch_size: items encoded at once.
        ties: how equal scores are settled, a key of `score.TIES`.
        edit_strength: how far a composed query goes from its picture.
        pool_factor: how many near vectors of a gallery item become one, of a model that makes several an input.
        sheet: queries on the contact sheet; 0 for none.
        thumbnails: megabytes of them in the report page; 0 for a page without pictures.
        vectors: folder that keeps the vectors; None for none.
        progress: whether to show a progress bar; None leaves it to the embedder.
    """

    batch_size: int = 32
    ties: Ties = DEFAULT_TIES
    edit_strength: float = 1.0
    pool_factor: int = 1
    sheet: int = 8
    thumbnails: float = MEGABYTES
    vectors: Path | None = None
    progress: bool | None = None


def evaluate_into(
    folder: Path,
    embedder: PromptedEncoder,
    suite: Suite,
    asked: AskedSuite,
    settings: Mapping[str, Any],
    measuring: Measuring,
) -> tuple[Result, list[Path]]:
    """Measure a benchmark, write its result folder, and return the result with the paths of what was written.

    Args:
        folder: for result.json, per_query.json, report.html and the contact sheet.
        embedder, suite, asked: as of `scoring.evaluate.evaluate`.
        settings: what result.json says of the model, as `report.settings_of` returns it.
        measuring: how, and what is kept.

    Raises as `evaluate`, and DataError where the disk fails.
    """
    if measuring.vectors:
        check_single(embedder, "--save-vectors")
    result, vectors = evaluate_with_vectors(
        embedder,
        suite,
        batch_size=measuring.batch_size,
        progress=measuring.progress,
        ties=measuring.ties,
        edit_strength=measuring.edit_strength,
        pool_factor=measuring.pool_factor,
        asked=asked,
    )
    written = write_result(result, suite, folder, settings)
    if measuring.vectors:
        write_vectors(measuring.vectors, suite, vectors)
        written.append(measuring.vectors)
    sheet = write_sheet(result, suite, folder / CONTACT_SHEET, measuring.sheet)
    if sheet is not None:
        written.append(sheet)
    page = write_report(result, suite, folder, settings, measuring.thumbnails, measuring.progress)
    return result, [*written, page]
