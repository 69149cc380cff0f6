"""What each part of the training adds to composed retrieval on the scenes: one change at a time, with intervals.

    python scripts/make_scenes.py --output runs/demo/data
    python scripts/ablation.py                          # hours on two cores; goes on after a stop
    python scripts/ablation.py --only "batch 16" "no query image"
    python scripts/ablation.py --model runs/base-without-heads --output runs/ablation-without-heads
    python scripts/make_scenes.py --output runs/open --open 0.5    # for the rows whose name starts with "open"

Every row is the demo's recipe with one change, trained from one base model, the embedded one or --model, and evaluated
on both test galleries. R@1 has the 95 % interval of a bootstrap over the queries; the difference is to the row that it
says, paired over the same queries, with its own interval and the p of a paired randomisation test. Queries are drawn,
not training runs: how far runs with other seeds lie apart is told by the rows of other seeds, and rows that start with
"open" are means of three. Leaves OUTPUT/table.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mllm_embed import MLLMEmbedder
from mllm_embed.data.folder import DataFolder
from mllm_embed.errors import ConfigError, user_errors
from mllm_embed.eval.benchmarks import open_suite
from mllm_embed.eval.scoring.evaluate import evaluate
from mllm_embed.files import atomic_folder, read_json, write_file, write_json
from mllm_embed.saving.checkpoint import model_fingerprint
from mllm_embed.training.recipe.config import Recipe
from mllm_embed.training.recipe.recipe_files import load_recipe
from mllm_embed.training.run.stages import run_recipe
from toy.intervals import gain, interval

DATA, OPEN = Path("runs/demo/data"), Path("runs/open")
TESTS = ("seen", "unseen")
TARGETS = {"query": "composed", "positive": "target_image", "negatives": ["query_image"]}
TEXTS = {"query": "composed", "positive": "target_text", "negatives": ["source_text"]}
REFERENCE = "stages 1 and 2"
CAPTIONS = {"query": "target_image", "positive": "target_text", "symmetric": True}


@dataclass(frozen=True)
class Variant:
    """One row: what it is, the overrides of the demo's recipe, the stages it has, and the row it is compared to.

    Of several seeds each query counts by the share of the runs that answer it.
    """

    about: str
    overrides: tuple[str, ...] = ()
    stages: tuple[str, ...] = ("captions", "instructions")
    beside: str = REFERENCE
    recipe: str = "demo"
    mined: bool = False
    seeds: tuple[int, ...] = (0,)


def _terms(*terms: dict[str, Any]) -> str:
    return f"stages.instructions.terms={json.dumps(terms)}"


def _both(key: str) -> tuple[str, str]:
    return f"stages.captions.{key}", f"stages.instructions.{key}"


def _more(*terms: dict[str, Any]) -> str:
    """Return the overrides for a stage after the others, at a fifth of the rate."""
    stage = {"data": str(DATA / "train"), "rows": "triplets", "batch_size": 64, "per_image": 4, "steps": 40}
    return f"stages.more={json.dumps({**stage, 'learning_rate': 3e-4, 'terms': terms})}"


def _open(*overrides: str) -> tuple[str, ...]:
    """Return the overrides of a run on data with several right answers, whose rows of one picture lie apart."""
    data = tuple(f"stages.{stage}.data={OPEN / 'train'}" for stage in ("captions", "instructions"))
    return *data, "stages.instructions.per_image=1", *(f"stages.instructions.{override}" for override in overrides)


ALL = ("captions", "instructions", "more")
BY_BATCH, SEEDS = "open, known by batch", (0, 1, 2)
MINED_ROWS = "stages.instructions.mined=MINED"
VARIANTS = {
    REFERENCE: Variant("the demo's recipe: batch 64, 14 and 62 steps"),
    "stage 1 alone": Variant("14 steps on captions", stages=("captions",)),
    "stage 2 alone": Variant("62 steps on instructions", stages=("instructions",)),
    "stages 0, 1 and 2": Variant(
        "40 steps on texts before the others", ("stages.instructions.steps=62",), ("texts", "captions", "instructions"),
        recipe="demo-stage0",
    ),
    "batch 16": Variant("both stages, as many steps", _both("batch_size=16")),
    "batch 128": Variant("both stages, as many steps", _both("batch_size=128")),
    "no query image": Variant(
        "the reference is no negative", (_terms({**TARGETS, "negatives": []}, TEXTS, CAPTIONS),)
    ),
    "no source caption": Variant(
        "InstructCIR's hard negative left out", (_terms(TARGETS, {**TEXTS, "negatives": []}, CAPTIONS),)
    ),
    "mined negatives": Variant(
        "two a row, found with the adapter of stage 1",
        (MINED_ROWS, _terms({**TARGETS, "negatives": ["query_image", "hard_negative"]}, TEXTS, CAPTIONS)), mined=True,
    ),
    "clustered batches": Variant(
        "B3: 16 rows that are hard for each other share a batch, instead of 4 of one picture",
        (MINED_ROWS, "stages.instructions.per_cluster=16", "stages.instructions.per_image=1"), mined=True,
    ),
    "40 more steps": Variant("stage 2 goes on at a fifth of its rate", (_more(TARGETS, TEXTS, CAPTIONS),), ALL),
    "stage 2b": Variant(
        "40 steps of queries against a static bank of all targets, at a fifth of the rate",
        (_more({**TARGETS, "bank": True}),), ALL, beside="40 more steps",
    ),
    "spread pictures": Variant("per_image 1: rows of one picture lie apart", ("stages.instructions.per_image=1",)),
    "seed 1": Variant("the same, another seed", ("seed=1",)),
    "seed 2": Variant("the same, another seed", ("seed=2",)),
    "neither": Variant(
        "neither of the two", (_terms({**TARGETS, "negatives": []}, {**TEXTS, "negatives": []}, CAPTIONS),)
    ),
    "batch 32": Variant("both stages, as many steps", _both("batch_size=32")),
    "hardness 9": Variant("LLaVE's weights on negatives in stage 2", ("stages.instructions.hardness=9",)),
    "margin 0.1": Variant("likely right answers left out in stage 2", ("stages.instructions.mask_margin=0.1",)),
    "learned temperature": Variant("from 0.05, within 0.01 and 0.2", _both("learn_temperature=[0.01,0.2]")),
    BY_BATCH: Variant(
        "half of the references have several right answers, and lie there twice; a batch tells what is right",
        _open("known_answers=batch"), seeds=SEEDS,
    ),
    "open, known by all rows": Variant(
        "the same; all rows tell it, and pictures are one where their files are equal", _open(), beside=BY_BATCH,
        seeds=SEEDS,
    ),
    "open, near-twins too": Variant(
        "the same; pictures that show the same are one", _open("near_twins=true"), beside=BY_BATCH, seeds=SEEDS
    ),
    "open, a guide": Variant(
        "a batch tells what is right, and the adapter of stage 1 masks what it finds nearer",
        _open("known_answers=batch", "guide.adapter=STAGE_1"), beside=BY_BATCH, seeds=SEEDS,
    ),
}  # fmt: skip


class Ablation:
    """The rows on one base model, kept in one folder.

    Args:
        model: folder of the base model.
        output: folder of the runs, their results, and the table.
    """

    def __init__(self, model: Path, output: Path):
        """Raise ConfigError where the folder holds rows of other scenes or of another base model."""
        self._model, self._output = model, output
        folders = (DATA / "train", *(DATA / test for test in TESTS))
        made_of = {path.name: DataFolder.open(path).fingerprint() for path in folders}
        made_of["model"] = model_fingerprint(model)
        kept = output / "made_of.json"
        if kept.is_file() and read_json(kept, f"remove {output}") != made_of:
            raise ConfigError(f"{output} holds rows of other scenes or of another base model; remove it")
        write_json(kept, made_of)

    def run(self, names: Sequence[str]) -> str:
        """Train and measure the rows that are not there yet; return the table, which is written after each row."""
        values = {"base model": self._measured("base model", str(self._model), None)}
        for name in names:
            variant = VARIANTS[name]
            if variant.mined:
                self._mine()
            runs = [self._row(name, variant, seed) for seed in variant.seeds]
            values[name] = {test: np.mean([hits[test] for hits in runs], axis=0) for test in TESTS}
            write_file(self._output / "table.md", _table(values).encode())
        return _table(values)

    def _row(self, name: str, variant: Variant, seed: int) -> dict[str, np.ndarray]:
        """Train a row with one seed, and return what `_measured` does."""
        recipe = self._recipe(name, variant, seed)
        self._take_over(name, recipe, seed)
        return self._measured(name if seed == 0 else f"{name}, seed {seed}", recipe.model, run_recipe(recipe))

    def _recipe(self, name: str, variant: Variant, seed: int = 0) -> Recipe:
        output = self._output / (name.replace(",", "").replace(" ", "_") + (f"_seed_{seed}" if seed else ""))
        places = {"STAGE_1": str(output / "captions"), "MINED": str(self._output / "mined.jsonl")}
        overrides = [_filled(override, places) for override in variant.overrides]
        overrides += [f"model={self._model}", f"output={output}", *([f"seed={seed}"] if seed else [])]
        whole = load_recipe(variant.recipe, overrides)
        return whole.model_copy(update={"stages": {stage: whole.stages[stage] for stage in variant.stages}})

    def _take_over(self, name: str, recipe: Recipe, seed: int) -> None:
        """Copy the first stages from a row that has trained the same ones: a run goes on from them."""
        for other, variant in VARIANTS.items():
            if other == name:
                return
            theirs = self._recipe(other, variant, seed)
            if _without_stages(theirs) != _without_stages(recipe):
                continue
            for (stage, keys), same in zip(recipe.stages.items(), theirs.stages.items(), strict=False):
                trained, wanted = theirs.output / stage, recipe.output / stage
                if (stage, keys) != same or not (trained / "adapter_config.json").is_file():
                    break
                if not wanted.exists():
                    with atomic_folder(wanted) as folder:
                        shutil.copytree(trained, folder, dirs_exist_ok=True)

    def _mine(self) -> None:
        """Mine hard negatives and clusters of the training triplets with the stage 1 of the first row."""
        mined = self._output / "mined.jsonl"
        if mined.is_file():
            return
        command = [sys.executable, "-m", "training", "mine", str(DATA / "train"), "--model", str(self._model)]
        command += ["--adapter", str(self._output / "stages_1_and_2/captions"), "--output", str(mined)]
        subprocess.run([*command, "--count", "2", "--clusters", "16", "--cluster-skip", "2"], check=True)

    def _measured(self, name: str, model: str, adapter: Path | None) -> dict[str, np.ndarray]:
        """Return 0 or 1 for each query of each test: whether its answer came first; kept for a run that was stopped."""
        kept = self._output / "results" / f"{name}.json"
        if not kept.is_file():
            embedder = MLLMEmbedder.from_pretrained(model, adapter=adapter)
            found = {}
            for test in TESTS:
                result = evaluate(embedder, open_suite("folder", DATA / test), batch_size=64)
                found[test] = result.tasks[""].values["R@1"].astype(int).tolist()
            write_json(kept, found)
        return {test: np.array(hits, float) for test, hits in json.loads(kept.read_text()).items()}


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="ROW", choices=VARIANTS, help="these rows alone")
    parser.add_argument("--model", type=Path, default=Path("scripts/assets/base"), help="folder of the base model")
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"), help="default: %(default)s")
    args = parser.parse_args()
    if not DATA.is_dir():
        raise ConfigError(f"{DATA} is missing: python scripts/make_scenes.py --output {DATA}")
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    names = [name for name in VARIANTS if not args.only or name in args.only]
    print(Ablation(args.model, args.output).run(names))
    return 0


def _filled(override: str, places: Mapping[str, str]) -> str:
    for word, path in places.items():
        override = override.replace(word, path)
    return override


def _without_stages(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(exclude={"output", "stages"})


def _table(values: dict[str, dict[str, np.ndarray]]) -> str:
    lines = [
        "| row | what differs | seen R@1 | unseen R@1 | beside | seen, difference | unseen, difference |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, hits in values.items():
        about, beside = ("untrained", None) if name == "base model" else (VARIANTS[name].about, VARIANTS[name].beside)
        cells = [str(interval([hits[test]])) for test in TESTS]
        if beside in values and beside != name:
            cells += [beside, *(str(gain([hits[test]], [values[beside][test]])) for test in TESTS)]
        else:
            cells += ["", "", ""]
        lines.append(f"| {name} | {about} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
