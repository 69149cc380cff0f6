"""Kill training runs at random moments, let them go on, and compare what they leave with runs that nobody killed.

    python scripts/kill_runs.py --kills 50

A small random LLaVA is trained in two stages, with everything that a run keeps between two steps: dropout, AdamW, a
learned temperature, a bank, gradient caching, a worker process. Each run is started as a user starts it, and killed
(SIGKILL, the process and its workers) a random time after each start until it has had its share; then it may end. Its
adapters must be those of the unkilled run to the bit, and nothing half-written may be left. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import yaml
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
KILLS_A_RUN = 10


def make_recipe(folder: Path) -> Path:
    """Write a model, its data and a recipe to `folder`."""
    tiny = _tests_tiny()
    model, data = tiny.make_tiny_llava(folder / "model"), tiny.make_data(folder / "data", count=16)
    stage = {
        "data": str(data), "batch_size": 4, "learning_rate": 1e-2, "steps": 10, "save_steps": 2, "chunk_tokens": 60,
        "learn_temperature": [0.01, 0.2],
    }  # fmt: skip
    captions = {"rows": "pairs", "terms": [{"query": "image", "positive": "caption", "symmetric": True}]}
    terms = [
        {"query": "composed", "positive": "target_image", "negatives": ["query_image"]},
        {"query": "composed", "positive": "target_text", "negatives": ["source_text"], "bank": True},
    ]
    values = {
        "model": str(model), "output": "set", "bf16": False, "workers": 1, "lora": {"rank": 4, "dropout": 0.1},
        "stages": {"captions": stage | captions, "instructions": stage | {"rows": "triplets", "terms": terms}},
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def _tests_tiny() -> ModuleType:
    """Import tests/tiny.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("tiny", ROOT / "tests" / "tiny.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(recipe: Path, output: Path) -> subprocess.Popen[bytes]:
    """Start a training of the recipe into `output`, in a group of processes of its own."""
    command = [sys.executable, "-m", "training", str(recipe), "--override", f"output={output}"]
    log = (output.parent / f"{output.name}.log").open("ab")
    with log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def moment(output: Path) -> str:
    """Say what a run was doing, by what it has left."""
    if not (output / "run.json").is_file():
        return "loading, first start"
    if any(path.is_dir() for path in output.glob(".*-*")):
        return "saving an adapter"
    home = output / "checkpoints"
    if any(path.is_dir() and any(path.iterdir()) for path in home.glob("*/.unfinished")):
        return "writing a checkpoint"
    if any(home.glob("*/.bank-*")):
        return "writing a bank"
    stage = "instructions" if (output / "captions/adapter_config.json").is_file() else "captions"
    checkpoints = len(list((home / stage).glob("checkpoint-*")))
    return f"{stage}, {'between checkpoints' if checkpoints else 'before its first checkpoint'}"


def run_killed(recipe: Path, output: Path, kills: int, longest: float, rng: random.Random) -> list[str]:
    """Kill a run `kills` times at most, then let it end. Return the moments."""
    moments: list[str] = []
    while True:
        process, after = start(recipe, output), rng.uniform(0, longest)
        try:
            code = process.wait(timeout=after if len(moments) < kills else None)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            moments.append(moment(output))
            continue
        if code:
            raise SystemExit(f"a run ended with code {code} after kills at {moments}; see {output}.log")
        return moments


def differences(whole: Path, killed: Path) -> list[str]:
    """Return what a killed run left that differs from the whole one."""
    found = []
    for stage in ("captions", "instructions"):
        one, other = (load_file(run / stage / "adapter_model.safetensors") for run in (whole, killed))
        if one.keys() != other.keys() or any(not one[name].equal(other[name]) for name in one):
            found.append(f"{stage}: adapter")
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (whole, killed)]
    # a row's loss is a mean over the steps since the row before, or since the run went on; these are the step's own
    own = ("stage", "step", "grad_norm", "learning_rate")
    steps = [[[row[key] for key in own] for row in log if "loss" in row] for log in logs]
    found += ["log.jsonl"] if steps[0] != steps[1] else []
    return found + [f"left over: {path.relative_to(killed)}" for path in killed.rglob(".*")]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how many, over all runs")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output", type=Path, default=Path("runs/kills"), help="a folder that is replaced")
    args = parser.parse_args()
    shutil.rmtree(args.output, ignore_errors=True)
    args.output.mkdir(parents=True)
    output = args.output.resolve()
    recipe, rng = make_recipe(output), random.Random(args.seed)
    began = time.monotonic()
    whole = output / "whole"
    if code := start(recipe, whole).wait():
        raise SystemExit(f"the run that nobody kills ended with code {code}; see {whole}.log")
    longest = time.monotonic() - began
    print(f"a whole run takes {longest:.0f} s; each start is killed within that time")
    moments: Counter[str] = Counter()
    wrong = []
    for number in range(-(-args.kills // KILLS_A_RUN)):
        killed = output / f"killed-{number}"
        while True:  # a run that ends before its share of kills is no loss: another takes its place
            share = min(KILLS_A_RUN, args.kills - sum(moments.values()))
            moments.update(run_killed(recipe, killed, share, longest, rng))
            wrong += [f"{killed.name}: {what}" for what in differences(whole, killed)]
            print(f"{sum(moments.values())} kills, {len(wrong)} differences", flush=True)
            if sum(moments.values()) >= min(args.kills, KILLS_A_RUN * (number + 1)):
                break
            killed = killed.with_name(f"{killed.name}x")
    width = max(map(len, moments))
    print(f"\n{'killed while':<{width}}  kills")
    for name, count in moments.most_common():
        print(f"{name:<{width}}  {count:>5}")
    print(f"{'all':<{width}}  {sum(moments.values()):>5}\n")
    print("\n".join(wrong) or "every run left the adapters and the log of the run that nobody killed, to the bit")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
