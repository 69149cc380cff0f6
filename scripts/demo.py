"""The demo: scenes, the base model, two live stages of training, the shipped adapters, one table and one picture.

Everything it calls is what a user calls: `make_scenes.py` writes the folder format, a recipe is trained, folders are
evaluated. Leaves runs/demo/, made anew, with data, adapters, log.jsonl, results, report.png and contact_sheet.png.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from mllm_embed.errors import user_errors

SCRIPTS = Path("scripts")
OUTPUT = Path("runs/demo")  # the recipe's output: training/recipes/demo.yaml
SHIPPED = SCRIPTS / "assets" / "adapters" / "instructions"
STAGES = {"captions": "after stage 1, live", "instructions": "after stage 2, live"}


@user_errors
def main() -> int:
    """Run the command line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    os.chdir(Path(__file__).parents[1])  # the recipe's paths start there
    started = time.time()

    def say(text: str) -> None:
        print(f"\n[{time.time() - started:4.0f} s] {text}", flush=True)

    if OUTPUT.exists():
        shutil.rmtree(OUTPUT)
    say("composing scenes: training pairs and triplets, and two dense test galleries")
    subprocess.run([sys.executable, SCRIPTS / "make_scenes.py", "--output", OUTPUT / "data"], check=True)

    from transformers.utils.logging import disable_progress_bar

    from mllm_embed import MLLMEmbedder
    from mllm_embed.eval.benchmarks import open_suite
    from mllm_embed.eval.reports.report import comparison_table, settings_of, write_result, write_sheet
    from mllm_embed.eval.scoring.evaluate import evaluate
    from mllm_embed.eval.scoring.result import Result
    from mllm_embed.training.recipe.recipe_files import load_recipe
    from mllm_embed.training.run.stages import run_recipe

    disable_progress_bar()  # weights of 14 MB load in a blink
    recipe = load_recipe("demo")
    tests = {name: open_suite("folder", OUTPUT / "data" / name) for name in ("seen", "unseen")}
    table: dict[str, dict[str, Result]] = {}

    def measure(row: str, adapter: Path | None) -> None:
        say(f"evaluating: {row}")
        embedder = MLLMEmbedder.from_pretrained(recipe.model, adapter=adapter)
        table[row] = {name: evaluate(embedder, test, batch_size=64, progress=True) for name, test in tests.items()}
        for name, result in table[row].items():
            settings = settings_of(embedder, recipe.model, adapter)
            folder = OUTPUT / "results" / row.replace(", ", "-").replace(" ", "_") / name
            write_result(result, tests[name], folder, settings)
        print("composed R@1:", {name: round(result.percent("R@1"), 1) for name, result in table[row].items()})

    measure("base model", None)
    say("training live: stage 1 on captions, then stage 2 on instructions (training/recipes/demo.yaml)")
    run_recipe(recipe, after_stage=lambda stage, adapter: measure(STAGES[stage], adapter))
    measure("shipped adapters", SHIPPED)
    unseen = tests["unseen"]
    write_sheet(table["shipped adapters"]["unseen"], unseen, OUTPUT / "contact_sheet.png", 12)
    text = comparison_table(table)
    (OUTPUT / "table.txt").write_text(text + "\n", encoding="utf-8")
    say(f"done; data, adapters, log.jsonl, results, report.png and contact_sheet.png are in {OUTPUT}/\n\n{text}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
