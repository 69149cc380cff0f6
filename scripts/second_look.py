"""What a second look at a search gains and costs on the scenes: re-rankers, and what spares them, over three seeds.

    python scripts/make_scenes.py --output runs/demo/data
    python scripts/make_scenes.py --output runs/reranker/data --triplets 16000 --edits 16
    python scripts/make_scenes.py --output runs/validation --draw 1 --pairs 1 --triplets 1
    python scripts/second_look.py                        # hours on two cores; goes on after a stop
    python scripts/second_look.py --seeds 0 --only "embedder" "captions, depth 10"

For each seed an embedder is trained by the demo's recipe; a re-ranker on lists that it mines; an embedder that learns
the re-ranker's judgement, and beside it one that goes on as long without; queries that think first; and embedders with
fewer tokens a picture. Captions are the untrained base's. R@1 has its 95 % interval; so has the gain over the embedder
of the same seed, paired over the same queries; with several seeds both are over pictures and seeds. "Of the gap": which
share of what lies between the embedder's R@1 and R@10 is gained. What the search's own score counts beside another is
chosen at depth 10, on other scenes. Milliseconds are those of one query in a batch, the search's own encoding included,
on this machine. Leaves OUTPUT/table.md and OUTPUT/second_look.png.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mllm_embed import DataFolder, MLLMEmbedder, Reranker
from mllm_embed.errors import ConfigError, user_errors
from mllm_embed.eval.benchmarks import open_suite
from mllm_embed.eval.methods import methods
from mllm_embed.eval.scoring.suite import Suite
from mllm_embed.eval.studies.cached_generator import CachedGenerator
from mllm_embed.eval.studies.cached_reranker import CachedReranker
from mllm_embed.eval.studies.compare_methods import EmbeddedSuite, MethodRun
from mllm_embed.eval.studies.tuning import best_settings
from mllm_embed.files import atomic_file, read_json, write_file, write_json
from mllm_embed.training.recipe.config import Recipe
from mllm_embed.training.recipe.recipe_files import as_text, load_any
from mllm_embed.training.reranking.stages import run_rerank
from mllm_embed.training.run.stages import run_recipe
from toy.intervals import gain, interval

DATA, LISTS, VALIDATION = Path("runs/demo/data"), Path("runs/reranker/data"), Path("runs/validation")
TESTS = ("seen", "unseen")
TUNED_AT = 10  # answers
REFERENCE = "embedder"
LABELS = "{query: composed, positive: target_image, negatives: [query_image, hard_negative]}"


@dataclass(frozen=True)
class Run:
    """What is trained once a seed: a recipe with overrides, in which words in capitals are places of the same seed."""

    recipe: str
    overrides: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


_GOES_ON = ("adapter=EMBEDDER", f"stages.judged.data={LISTS / 'train'}", "stages.judged.mined=SIBLINGS")
RUNS = {
    "embedder": Run("demo"),
    "reranker": Run(
        "demo-reranker",
        (*(f"stages.{name}.data={LISTS / 'train'}" for name in ("rerank", "siblings")),
         "stages.rerank.mined=MINED", "stages.siblings.mined=SIBLINGS"),
        ("embedder",),
    ),
    "judged": Run("demo-judged", (*_GOES_ON, "stages.judged.judge.adapter=RERANKER"), ("embedder", "reranker")),
    "longer": Run(
        "demo-judged", (*_GOES_ON, "stages.judged.judge=null", f"stages.judged.terms=[{LABELS}]"), ("embedder",)
    ),
    "thoughts": Run("demo-thoughts"),
    **{f"tokens_{count}": Run("demo-tokens", (f"token_learner.tokens={count}",)) for count in (4, 9, 16)},
}  # fmt: skip


MINING = {"MINED": "--count 20 --ceiling 1", "SIBLINGS": "--count 12 --siblings 9 --ceiling inf"}
"""The lists that runs learn by, and how they are mined with the seed's embedder."""


@dataclass(frozen=True)
class Row:
    """A row of the table: which run's adapter embeds, and by which of `eval.methods` its answers are scored again.

    With `weighed` the weight of that is chosen on other scenes.
    """

    about: str
    run: str = "embedder"
    method: str = ""
    depth: int = 0
    weighed: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """The runs whose adapters it loads."""
        return (self.run, "reranker") if self.method == "rerank" else (self.run,)


def _by_depth(name: str, about: str, method: str, weighed: bool = False) -> dict[str, Row]:
    return {f"{name}, depth {k}": Row(about, method=method, depth=k, weighed=weighed) for k in (5, TUNED_AT, 50)}


ROWS = {
    REFERENCE: Row("the demo's recipe"),
    **_by_depth("captions", "the search's score, and the untrained base's of a caption", "rerank caption", True),
    **_by_depth("re-ranker", "trained, its score alone", "rerank"),
    **_by_depth("re-ranker and search", "trained, its score and the search's (LamRA)", "rerank", True),
    "judged": Row("80 more steps, on the re-ranker's judgement", "judged"),
    "as long without": Row("80 more steps on the same lists, by their labels", "longer"),
    "thoughts": Row("the query's caption is written first", "thoughts"),
    **{f"{count} tokens a picture": Row("in the place of 36", f"tokens_{count}") for count in (4, 9, 16)},
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """A row on one test with one seed: R@1 and R@10 of each query, [Q] of 0 and 1, and milliseconds a query."""

    first: np.ndarray
    in_ten: np.ndarray
    milliseconds: float


class Seed:
    """The runs of one seed, and what they find, kept in one folder."""

    def __init__(self, seed: int, output: Path, suites: Mapping[str, Suite]):
        self._seed, self._output, self._suites = seed, output / f"seed_{seed}", suites
        self._places = {
            "EMBEDDER": self._output / "embedder/instructions",
            "RERANKER": self._output / "reranker/siblings",
            "MINED": self._output / "mined.jsonl",
            "SIBLINGS": self._output / "siblings.jsonl",
        }

    def measured(self, name: str) -> dict[str, Measured]:
        """Return a row on every test, by now or from before."""
        row, kept = ROWS[name], self._output / "results" / f"{name}.json"
        if not kept.is_file():
            for run in row.needs:
                self._train(run)
            write_json(kept, {"recipes": recipes_of(row.needs), "found": self._measure(row)})
        whole = read_json(kept, "remove it")
        if whole["recipes"] != recipes_of(row.needs):
            raise ConfigError(
                f"{kept} is of other recipes than those of {', '.join(row.needs)} now; remove it, the folders of "
                f"these runs in {self._output}, and the weights and lists that hang on them, or give another --output"
            )
        return {
            test: Measured(np.array(of["R@1"], float), np.array(of["R@10"], float), of["ms"])
            for test, of in whole["found"].items()
        }

    def _train(self, name: str) -> Path:
        """Train a run after those that it needs, or what is left of it; return the folder of its adapter. Raises
        ConfigError where its folder holds a run of another recipe."""
        run = RUNS[name]
        for other in run.after:
            self._train(other)
        if "MINED" in " ".join(run.overrides):
            self._mine()
        overrides = [f"output={self._output / name}", f"seed={self._seed}", *map(self._filled, run.overrides)]
        recipe = load_any(run.recipe, overrides)
        print(f"seed {self._seed}: training {name}", file=sys.stderr, flush=True)
        return run_recipe(recipe) if isinstance(recipe, Recipe) else run_rerank(recipe)

    def _filled(self, override: str) -> str:
        for word, path in self._places.items():
            override = override.replace(word, str(path))
        return override

    def _mine(self) -> None:
        """Mine the lists with the seed's embedder, where they are not there yet."""
        command = [sys.executable, "-m", "training", "mine", str(LISTS / "train"), "--model", self._base]
        command += ["--adapter", str(self._places["EMBEDDER"])]
        command += ["--vectors", f"{self._places['MINED']}.vectors"]
        for name, options in MINING.items():
            if not self._places[name].is_file():
                subprocess.run([*command, *options.split(), "--output", str(self._places[name])], check=True)

    @cached_property
    def _base(self) -> str:
        return str(load_any("demo").model)

    def _measure(self, row: Row) -> dict[str, Any]:
        adapter = self._train(row.run)
        embedder = MLLMEmbedder.from_pretrained(self._base, adapter=adapter)
        answers = self._output / "answers"
        judge = Reranker.beside(embedder, self._places["RERANKER"]) if row.method == "rerank" else None

        def embedded(suite: Suite) -> EmbeddedSuite:
            reranker = None if judge is None else CachedReranker(judge, answers)
            return EmbeddedSuite(embedder, suite, CachedGenerator(embedder, answers), reranker=reranker)

        settings = self._settings(row, embedded)
        return {test: _plain(_run(embedded(suite), row, settings)) for test, suite in self._suites.items()}

    def _settings(self, row: Row, embedded: Callable[[Suite], EmbeddedSuite]) -> dict[str, float]:
        """Return the settings of a row's method, its weight chosen on other scenes, once a seed."""
        if not row.weighed:
            return {"depth": row.depth}
        kept = self._output / "results" / "weights" / f"{row.method}.json"
        if not kept.is_file():
            method = methods()[row.method].with_settings({"depth": TUNED_AT})
            write_json(kept, best_settings(embedded(open_suite("folder", VALIDATION / "seen")), method))
        return {**read_json(kept, "remove it"), "depth": row.depth}


def recipes_of(runs: Sequence[str]) -> dict[str, str]:
    """Return the recipes of runs and of those that they come after, with the overrides of all seeds, as text."""
    found = {name: as_text(load_any(RUNS[name].recipe, RUNS[name].overrides)) for name in runs}
    found |= {word: how for word, how in MINING.items() for name in runs if word in " ".join(RUNS[name].overrides)}
    return found | {name: text for run in runs for name, text in recipes_of(RUNS[run].after).items()}


def _run(embedded: EmbeddedSuite, row: Row, settings: Mapping[str, float]) -> MethodRun:
    return embedded.run(methods()[row.method], settings) if row.method else embedded.plain()


def _plain(run: MethodRun) -> dict[str, Any]:
    [task] = run.result.tasks.values()
    hits = {metric: task.values[metric].astype(int).tolist() for metric in ("R@1", "R@10")}
    return {**hits, "ms": 1000 * run.seconds}


Found = Mapping[str, Sequence[dict[str, Measured]]]
"""Of each row what every seed found, by test."""


def table(found: Found, suites: Mapping[str, Suite]) -> str:
    """Return the rows as Markdown."""
    head = ["row", "what it is"]
    for test in TESTS:
        head += [f"R@1 {test}", "gain", "of the gap"]
    lines = [f"| {' | '.join([*head, 'ms a query'])} |", "| --- " * (len(head) + 1) + "|"]
    for name, row in ROWS.items():
        if name in found:
            cells = [part for test in TESTS for part in _cells(found, name, test, suites[test])]
            spent = np.mean([one.milliseconds for seed in found[name] for one in seed.values()])
            lines.append(f"| {' | '.join([name, row.about, *cells, f'{spent:.1f}'])} |")
    return "\n".join(lines) + "\n"


def _cells(found: Found, name: str, test: str, suite: Suite) -> list[str]:
    """Return a row's R@1 on a test, its gain, and which share of the embedder's gap that is."""
    own, before = ([seed[test] for seed in found[row]] for row in (name, REFERENCE))
    references = suite.tasks[0].references
    shown = str(interval([one.first for one in own], references))
    if name == REFERENCE:
        return [shown, "", ""]
    difference = gain([one.first for one in own], [one.first for one in before], references)
    gap = 100 * float(np.mean([one.in_ten.mean() - one.first.mean() for one in before]))
    return [shown, str(difference), f"{difference.points / gap:.0%}" if gap else ""]


def draw(found: Found, suites: Mapping[str, Suite], path: Path) -> None:
    """Write a PNG: what each row gains over what it costs, a panel a test."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, test in zip(figure.subplots(1, 2, sharey=True), TESTS, strict=True):
        references = suites[test].tasks[0].references
        for place, (name, seeds) in enumerate(found.items()):
            shown = interval([seed[test].first for seed in seeds], references)
            spent = float(np.mean([seed[test].milliseconds for seed in seeds]))
            marker, colour = "os^D"[place // 10 % 4], f"C{place % 10}"
            around = [[max(0.0, shown.points - shown.low)], [max(0.0, shown.high - shown.points)]]
            axes.errorbar(spent, shown.points, around, fmt=marker, color=colour, capsize=2, label=name)
        in_ten = 100 * float(np.mean([seed[test].in_ten.mean() for seed in found[REFERENCE]]))
        axes.axhline(in_ten, color="black", linewidth=0.8, linestyle=":")
        axes.annotate("R@10 of the embedder", (0.01, in_ten), xycoords=("axes fraction", "data"), va="bottom")
        axes.set_xscale("log")
        axes.set_xlabel("milliseconds a query")
        axes.set_title(f"{test} objects")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("R@1 in percent, with 95 % intervals")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the training (default 0 1 2)")
    parser.add_argument("--only", nargs="+", metavar="ROW", choices=ROWS, help="these rows alone, and the embedder")
    parser.add_argument("--output", type=Path, default=Path("runs/second-look"), help="default: %(default)s")
    args = parser.parse_args()
    made = {DATA: "", LISTS: " --triplets 16000 --edits 16", VALIDATION: " --draw 1 --pairs 1 --triplets 1"}
    for folder, options in made.items():
        if not folder.is_dir():
            raise ConfigError(f"{folder} is missing: python scripts/make_scenes.py --output {folder}{options}")
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    suites = {test: open_suite("folder", DATA / test) for test in TESTS}
    _check_same(args.output)
    found: dict[str, list[dict[str, Measured]]] = {}
    for name in [name for name in ROWS if name == REFERENCE or not args.only or name in args.only]:
        found[name] = [Seed(seed, args.output, suites).measured(name) for seed in args.seeds]
        write_file(args.output / "table.md", table(found, suites).encode())
        draw(found, suites, args.output / "second_look.png")
    print(f"{table(found, suites)}\nwrote {args.output / 'table.md'} and {args.output / 'second_look.png'}")
    return 0


def _check_same(output: Path) -> None:
    """Raise ConfigError where a folder holds rows of other scenes."""
    folders = (DATA / "train", *(DATA / test for test in TESTS), LISTS / "train", VALIDATION / "seen")
    made_of = {str(folder): DataFolder.open(folder).fingerprint() for folder in folders}
    kept = output / "made_of.json"
    if kept.is_file() and read_json(kept, f"remove {output}") != made_of:
        raise ConfigError(f"{output} holds rows of other scenes; remove it, or give another --output")
    write_json(kept, made_of)


if __name__ == "__main__":
    raise SystemExit(main())
