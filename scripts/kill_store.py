"""Kill `mllm-embed encode` and `mllm-embed index` at random moments, let them go on, and compare what they leave.

    python scripts/kill_store.py --kills 20
    python scripts/kill_store.py --kills 20 --form several     # or lexical

A small random LLaVA embeds a folder of pictures, some of which cannot be read, in shards of a few rows, and the store
is indexed; one of several vectors a row, which no index takes, is not. Each command is started as a user starts it and
killed (SIGKILL) after a random time until it has had its share; then it may end. A store that is being made must not
open as a whole one, a finished store must be the unkilled one to the byte, and so must the index; nothing half-written
may be left. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from mllm_embed import MLLMEmbedder
from mllm_embed.errors import DataError
from mllm_embed.index.faiss_index import Index
from mllm_embed.index.files import CARD_FILE, SETTINGS_FILE
from mllm_embed.store.files import MANIFEST, RECORD_SUFFIX, SHARDS
from mllm_embed.store.plans import PLANS
from mllm_embed.store.vector_store import VectorStore

ROOT = Path(__file__).resolve().parent.parent
PICTURES, SHARD_ROWS = 1500, 50
_KILLS_A_STORE = 5


@dataclass(frozen=True)
class Form:
    """What a row of the store has: the model's pooling, options of `encode`, and the kind of index, None for none."""

    pooling: str | None = None
    options: tuple[str, ...] = ()
    index: str | None = "rabitq"


FORMS = {
    "dense": Form(),
    "several": Form(pooling="multi", index=None),
    "lexical": Form(options=("--lexical-words", "20"), index="bebr"),
}


def make_inputs(folder: Path, form: Form) -> tuple[Path, Path]:
    """Write a model of a form, and pictures of which every hundredth cannot be read."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    for number in range(PICTURES):
        path = photos / f"{number:04d}.jpg"
        pixels = np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        if number % 100 == 7:
            path.write_bytes(path.read_bytes()[:200])
    model = _tests_tiny().make_tiny_llava(folder / "model")
    if form.pooling is None:
        return model, photos
    saved = folder / f"model-{form.pooling}"
    MLLMEmbedder.from_pretrained(model, dtype="float32", pooling=form.pooling).save_pretrained(saved)
    return saved, photos


def _tests_tiny() -> ModuleType:
    """Import tests/tiny.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("tiny", ROOT / "tests" / "tiny.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_killed(command: list[str], kills: int, rng: random.Random, shortest: float, longest: float, look) -> list[str]:
    """Kill a command `kills` times at most, then let it end. Return what it was doing each time."""
    moments: list[str] = []
    while True:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = rng.uniform(shortest, longest)
        try:
            code = process.wait(timeout=after if len(moments) < kills else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            moments.append(look())
            continue
        if code:
            raise SystemExit(f"`{' '.join(command)}` ended with code {code} after kills at {moments}")
        return moments


def encoding(store: Path) -> str:
    """Say what a killed encode was doing. Raise SystemExit where what it left opens as a whole store too early."""
    if any(store.glob(f"{SHARDS}/.*.tmp")):
        what = "encode, writing a shard"
    elif {path.name.split(".")[0] for path in store.glob(f"{SHARDS}/0*")} - {
        path.stem for path in store.glob(f"{SHARDS}/0*{RECORD_SUFFIX}")
    }:
        what = "encode, between a shard's files"
    elif any(store.glob(f"{PLANS}/*.json")):
        made = any(store.glob(f"{SHARDS}/*{RECORD_SUFFIX}"))
        what = "encode, between shards" if made else "encode, before its first shard"
    else:
        what = "encode, loading" if not (store / MANIFEST).is_file() else "encode, planning or done"
    try:
        rows = len(VectorStore.open(store))
    except DataError:
        return what
    if rows < PICTURES - PICTURES // 100:
        raise SystemExit(f"{store} opens with {rows} rows while it is being made")
    return "encode, done"


def indexing(index: Path) -> str:
    """Say what a killed build was doing. Raise SystemExit where what it left opens and is not whole."""
    building = any(index.parent.glob(f".{index.name}-*"))
    try:
        Index.open(index)
    except DataError:
        return "index, building" if building else "index, loading"
    return "index, building again" if building else "index, done"


def files(folder: Path) -> dict[str, bytes]:
    """Return every file of a store; of an index what was built, since a card has timings."""
    kept = (path for path in folder.rglob("*") if path.is_file() and path.name not in (SETTINGS_FILE, CARD_FILE))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how many in all, some of an index (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output", type=Path, default=Path("runs/kills-store"), help="a folder that is replaced")
    parser.add_argument("--form", choices=FORMS, default="dense", help="what a row of the store has (default dense)")
    args = parser.parse_args()
    form = FORMS[args.form]
    shutil.rmtree(args.output, ignore_errors=True)
    output, rng = args.output.resolve(), random.Random(args.seed)
    model, photos = make_inputs(output, form)
    program = [sys.executable, "-m", "mllm_embed.cli"]

    def encode(store: Path) -> list[str]:
        options = ["--model", str(model), "--dtype", "float32", "--shard-rows", str(SHARD_ROWS), *form.options]
        return [*program, "encode", str(photos), "--output", str(store), *options]

    def index(store: Path) -> list[str]:
        return [*program, "index", str(store), "--kind", str(form.index)]

    whole, took = output / "whole", []
    for command in (encode(whole), index(whole))[: 1 if form.index is None else 2]:
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        took.append(time.monotonic() - began)
    of_index = "".join(f", an index {seconds:.1f} s" for seconds in took[1:])
    sys.stdout.write(f"an unkilled encode takes {took[0]:.1f} s{of_index}\n")
    moments: Counter[str] = Counter()
    wrong: list[str] = []
    number = 0
    while sum(moments.values()) < args.kills:
        store = output / f"killed-{number}"
        built = store.with_name(f"{store.name}.index")
        left = args.kills - sum(moments.values())
        share = min(_KILLS_A_STORE - 1 if form.index else _KILLS_A_STORE, left)
        looks = (lambda store=store: encoding(store)), (lambda built=built: indexing(built))
        moments.update(run_killed(encode(store), share, rng, 0.4 * took[0], 0.9 * took[0], looks[0]))
        if form.index:
            moments.update(run_killed(index(store), min(1, left - share), rng, 0.5 * took[1], 0.95 * took[1], looks[1]))
        pairs = ((whole, store), (whole.with_name("whole.index"), built))
        wrong += [f"{made.name} differs from the unkilled one" for one, made in pairs if files(one) != files(made)]
        wrong += [f"left over: {path.relative_to(output)}" for path in output.rglob(".*")]
        sys.stdout.write(f"{sum(moments.values())} kills, {len(wrong)} differences\n")
        sys.stdout.flush()
        number += 1
    width = max(map(len, moments))
    sys.stdout.write("\n" + "".join(f"{name:<{width}}  {count:>4}\n" for name, count in moments.most_common()))
    sys.stdout.write("\n".join(wrong) + "\n" if wrong else "every store and index is the unkilled one, to the byte\n")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
