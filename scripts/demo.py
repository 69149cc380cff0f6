"""The demo: scenes, the base model, two live stages of training, the shipped adapters, one table and one picture.

Everything it calls is what a user calls: `make_scenes.py` writes the folder format, a recipe is trained, folders are
evaluated. Leaves runs/demo/ with data, adapters, log.jsonl, results and contact_sheet.png.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHIPPED = HERE / "assets" / "adapters"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder of the run, made anew")
    args = parser.parse_args()
    started = time.time()

    def say(text: str) -> None:
        print(f"\n[{time.time() - started:4.0f} s] {text}", flush=True)

    if args.output.exists() and not (args.output / "data" / "train").is_dir():
        parser.error(f"{args.output} exists and is no earlier demo; choose another folder or remove it")
    shutil.rmtree(args.output, ignore_errors=True)
    data = args.output / "data"
    say("composing scenes: training pairs and triplets, and two dense test galleries")
    subprocess.run([sys.executable, str(HERE / "make_scenes.py"), "--output", str(data)], check=True)

    from mllm_embed import DataFolder, MLLMEmbedder
    from mllm_embed.eval.evaluate import Result, evaluate
    from mllm_embed.eval.report import comparison_table, write_result, write_sheet
    from mllm_embed.training.config import load_recipe
    from mllm_embed.training.stages import run_recipe

    tests = {name: DataFolder.open(data / name).benchmark for name in ("seen", "unseen")}
    table: dict[str, dict[str, Result]] = {}

    def measure(row: str, embedder: MLLMEmbedder) -> None:
        say(f"evaluating: {row}")
        table[row] = {test.name: evaluate(embedder, test, batch_size=64, progress=True) for test in tests.values()}
        for name, result in table[row].items():
            write_result(result, args.output / "results" / row.replace(" ", "_") / name, {"model": row})
        composed = {name: f"{result.rows['composed'].percent(1):.1f}" for name, result in table[row].items()}
        print(f"composed R@1: {composed}", flush=True)

    overrides = [f"output={args.output}", *(f"stages.{s}.data={data / 'train'}" for s in ("captions", "instructions"))]
    recipe = load_recipe("demo", [f"model={HERE / 'assets' / 'base'}", *overrides])
    measure("base model", MLLMEmbedder.from_pretrained(recipe.model))
    say("training live: stage 1 on captions, then stage 2 on instructions (training/recipes/demo.yaml)")
    names = {"captions": "after stage 1", "instructions": "after stage 2"}
    run_recipe(
        recipe,
        after_stage=lambda stage, adapter: measure(
            f"{names[stage]}, live", MLLMEmbedder.from_pretrained(recipe.model, adapter=adapter)
        ),
    )
    for stage, name in names.items():
        shipped = MLLMEmbedder.from_pretrained(recipe.model, adapter=SHIPPED / stage)
        measure(f"{name}, shipped", shipped)
    test = tests["unseen"]
    write_sheet(table[f"{names['instructions']}, shipped"][test.name], test, args.output / "contact_sheet.png", 12)
    say(f"done; results, adapters and log.jsonl are in {args.output}/\n")
    text = comparison_table(table)
    (args.output / "table.txt").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
