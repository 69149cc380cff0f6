"""What float32, bfloat16, int8 and nf4 cost in memory and time, and what they do to the vectors and the retrieval.

    python scripts/make_scenes.py --output runs/demo/data
    python scripts/bench_precision.py runs/demo/data/seen runs/demo/data/unseen

Measures the embedded model with its adapters, and a LLaVA whose language model is SmolLM2-135M (made once from a Python
package; skipped with a line where that is not installed). Each is loaded in every precision in one process, and all
take turns on the same inputs, so that a busy machine disturbs them alike: trust the ratios. Prints Markdown tables and
writes runs/precision.json.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mllm_embed import MLLMEmbedder
from mllm_embed.errors import ConfigError, ModelError, user_errors
from mllm_embed.eval.benchmarks import open_suite
from mllm_embed.eval.scoring.score import Vectors, score
from mllm_embed.eval.scoring.suite import Suite, Task
from mllm_embed.files import write_json
from mllm_embed.model.devices import bfloat16_pays
from mllm_embed.model.embedding_model import is_part
from mllm_embed.model.lora import LoraSpec, add_lora, load_adapter
from mllm_embed.saving.versions import versions
from mllm_embed.types import Item
from mllm_embed.vectors.precision import to_precision, truncate
from toy.smollm2_llava import smollm2_llava

ASSETS = Path(__file__).parent / "assets"
# what the products are computed in, and what the language model's weights are kept in where that is something else
PRECISIONS = {
    "float32": ("float32", None),
    "bfloat16": ("bfloat16", None),
    "int8": ("float32", "int8"),
    "nf4": ("float32", "nf4"),
    "int8, bfloat16": ("bfloat16", "int8"),
    "nf4, bfloat16": ("bfloat16", "nf4"),
}
# bits a weight: int8 has a float32 scale a row; nf4 a byte a block of 64, and a float32 for 256 of those
IDEAL: dict[str, Callable[[int], float]] = {
    "float32": lambda inputs: 32,
    "bfloat16": lambda inputs: 16,
    "int8": lambda inputs: 8 + 32 / inputs,
    "nf4": lambda inputs: 4 + 8 / 64 + 32 / (64 * 256),
}
STARTED = time.perf_counter()
SLOW = 100  # seconds a turn, above which once is enough: emulated bfloat16


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="+", type=Path, metavar="DIR", help="folders with a benchmark.json")
    parser.add_argument("--items", type=int, default=8, help="queries and as many documents that are timed")
    parser.add_argument("--repeat", type=int, default=5, help="turns, of which the best counts")
    parser.add_argument("--cache", type=Path, default=Path("runs/smollm2-llava"), help="where the second model is kept")
    parser.add_argument("--output", type=Path, default=Path("runs/precision.json"))
    parser.add_argument("--peak", nargs=2, metavar=("MODEL", "PRECISION"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if min(args.items, args.repeat) < 1:
        raise ConfigError(f"--items and --repeat must be at least 1, not {args.items} and {args.repeat}")
    suites = {folder.name: _composed(open_suite("folder", folder)) for folder in args.benchmarks}
    timed = _timed(next(iter(suites.values())), args.items)
    if args.peak:
        print(_peak(args.peak[0], args.peak[1], timed))
        return 0
    result = {"machine": _machine(), "versions": versions(), "models": {}}
    print(f"{result['machine']}, torch {torch.__version__}\n", flush=True)
    models = {"embedded": (ASSETS / "base", ASSETS / "adapters/instructions", suites)}
    try:
        models["SmolLM2-135M LLaVA"] = (smollm2_llava(args.cache), None, {})
    except ModelError as error:
        print(f"skipping the LLaVA of SmolLM2-135M: {error}\n")
    for name, (model, adapter, tests) in models.items():
        rows = _measure(model, adapter, tests, timed, args)
        result["models"][name] = rows
        print(f"{name}\n\n{_table(rows)}\n", flush=True)
    result["stored"] = _stored(_load(*models["embedded"][:2], "float32"), suites)
    print(f"Vectors of the embedded model as they are kept\n\n{_stored_table(result['stored'])}")
    write_json(args.output, result)
    return 0


def _stored(embedder: MLLMEmbedder, suites: dict[str, Suite]) -> dict[str, dict[str, Any]]:
    """Return composed R@1 of cut and coarse vectors, ranked as floats: int8 as numbers, binary as -1 and 1."""
    kept: dict[str, dict[str, Any]] = {}
    for title, suite in suites.items():
        task = suite.tasks[0]
        found = _embed(embedder, task)
        for dim in (None, *(embedder.dimension // part for part in (2, 4, 8))):
            for precision in ("float32", "int8", "binary"):
                gallery, asked = (
                    _ranked(to_precision(truncate(part, dim), precision))
                    for part in (found.gallery, found.rows[task.query_kind])
                )
                width = dim or embedder.dimension
                row = kept.setdefault(
                    f"{width} x {precision}", {"bytes": width * {"float32": 32, "int8": 8, "binary": 1}[precision] // 8}
                )
                vectors = Vectors(gallery, {task.query_kind: asked})
                row[f"R@1 {title}"] = score(suite, {task.name: vectors}).percent("R@1")
    return kept


def _ranked(vectors: np.ndarray) -> np.ndarray:
    floats = vectors.astype(np.float32)
    if vectors.dtype == np.uint8:
        floats = np.unpackbits(vectors, axis=1).astype(np.float32) * 2 - 1
    return floats / np.linalg.norm(floats, axis=1, keepdims=True)


def _stored_table(kept: dict[str, dict[str, Any]]) -> str:
    tests = [key for key in next(iter(kept.values())) if key.startswith("R@1")]
    lines = [["vector", "bytes", *tests], ["---"] * (2 + len(tests))]
    lines += [[name, str(row["bytes"]), *(f"{row[test]:.1f}" for test in tests)] for name, row in kept.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _measure(
    model: Path, adapter: Path | None, suites: dict[str, Suite], timed: tuple[list[Item], list[Item]], args: Any
) -> dict[str, dict[str, Any]]:
    """Return one row of figures a precision."""
    names = [name for name in PRECISIONS if "," not in name or bfloat16_pays(torch.device("cpu"))]
    rows: dict[str, dict[str, Any]] = {name: memory(_load(model, None, name)) for name in names}
    for name in names:
        rows[name]["peak bytes"] = _in_subprocess(model, name, args)
        _say(f"{name}: memory")
    embedders = {name: _load(model, adapter, name) for name in names}
    vectors: dict[str, np.ndarray] = {}
    for name, embedder in embedders.items():
        parts = [] if suites else [embedder.encode(items, show_progress=False) for items in timed]
        for title, suite in suites.items():
            found = _embed(embedder, suite.tasks[0])
            rows[name][f"R@1 {title}"] = score(suite, {suite.tasks[0].name: found}).percent("R@1")
            parts += [found.gallery, *found.rows.values()]
        vectors[name] = np.concatenate(parts)
        _say(f"{name}: vectors")
    for name in names:
        cosines = (vectors[name] * vectors["float32"]).sum(1)
        rows[name] |= {
            "cosine min": float(cosines.min()),
            "cosine mean": float(cosines.mean()),
            "vectors": len(cosines),
        }
    batch = {name: embedder.item_processor([*timed[0], *timed[1]]) for name, embedder in embedders.items()}
    tokens = int(batch["float32"]["attention_mask"].sum())
    seconds = _turns({name: lambda e=e, b=batch[name]: _forward(e, b) for name, e in embedders.items()}, args.repeat)
    for name in names:
        rows[name]["tokens/s"] = tokens / seconds[name]
    _say("forward")
    del embedders
    gc.collect()
    trained = {name: _trainable(_load(model, None, name), adapter) for name in names}
    steps = _turns({name: lambda e=e, b=batch[name]: _step(e, b) for name, e in trained.items()}, args.repeat)
    for name in names:
        rows[name]["step seconds"] = steps[name]
    return rows


def _composed(suite: Suite) -> Suite:
    """Return the first task alone: composed queries, without the captions that a folder may hold beside them."""
    return replace(suite, tasks=suite.tasks[:1])


def _embed(embedder: MLLMEmbedder, task: Task) -> Vectors:
    """Embed the gallery and the composed queries, without the baselines of `mllm-embed-eval run`: half the time."""
    queries = [group[0] for group in task.queries]
    gallery, asked = (embedder.encode(items, batch_size=64, show_progress=False) for items in (task.gallery, queries))
    return Vectors(gallery, {task.query_kind: asked})


def _say(text: str) -> None:
    print(f"[{time.perf_counter() - STARTED:4.0f} s] {text}", file=sys.stderr, flush=True)


def _load(model: str | Path, adapter: Path | None, precision: str) -> MLLMEmbedder:
    dtype, quantization = PRECISIONS[precision]
    return MLLMEmbedder.from_pretrained(model, adapter=adapter, dtype=dtype, quantization=quantization, device="cpu")


def _trainable(embedder: MLLMEmbedder, adapter: Path | None) -> MLLMEmbedder:
    torch.manual_seed(0)
    if adapter:
        load_adapter(embedder.model, adapter, trainable=True)
    else:
        add_lora(embedder.model, LoraSpec(), embedder.family)
    return embedder


def _timed(suite: Suite, count: int) -> tuple[list[Item], list[Item]]:
    """Return queries, and as many documents of the gallery: pictures."""
    task = suite.tasks[0]
    return [group[0] for group in task.queries[:count]], list(task.gallery[:count])


@torch.inference_mode()
def _forward(embedder: MLLMEmbedder, batch: dict[str, Tensor]) -> None:
    embedder.model.eval()
    embedder.model(**batch)


def _step(embedder: MLLMEmbedder, batch: dict[str, Tensor]) -> None:
    """Run forward and backward of InfoNCE between the two halves of the batch, as training does."""
    embedder.model.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=embedder.dtype == torch.bfloat16):
        vectors = embedder.model(**batch)
        half = len(vectors) // 2
        logits = vectors[:half] @ vectors[half:].T / 0.05
        loss = nn.functional.cross_entropy(logits.float(), torch.arange(half))
    loss.backward()
    embedder.model.zero_grad()


def _turns(ways: dict[str, Callable[[], None]], repeat: int) -> dict[str, float]:
    """Return the seconds of the best turn of each after one to warm up; they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeat + 1):
        for name, way in ways.items():
            if turn == 0 or (turn == 1 and seconds[name][0] < SLOW) or (turn >= 2 and len(seconds[name]) > 1):
                started = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - started)
    return {name: min(times) for name, times in seconds.items()}


def memory(embedder: MLLMEmbedder) -> dict[str, Any]:
    """Return the bytes of all weights with their scales, and bits a weight of the language model's linear layers."""
    backbone, family = embedder.model.backbone, embedder.family
    layers = [
        layer
        for name, layer in backbone.named_modules()
        if isinstance(layer, nn.Linear) and not is_part(name, family.vision + family.projector)
    ]
    sizes = [(layer.in_features, layer.in_features * layer.out_features) for layer in layers]
    linear = sum(size for _, size in sizes)
    ideal = IDEAL[embedder.quantization or str(embedder.dtype).removeprefix("torch.")]
    return {
        "weight bytes": _bytes(backbone.modules()),
        "bits a linear weight": 8 * _bytes(layers) / linear,
        "ideal bits": sum(ideal(inputs) * size for inputs, size in sizes) / linear,
    }


def _bytes(modules: Iterable[nn.Module]) -> int:
    """Return the bytes of the storages behind the tensors of modules, each counted once (tied weights, views)."""
    tensors = (tensor for module in modules for tensor in _tensors(module))
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    """Yield a module's own tensors; of bitsandbytes' layers the scales and tables too, which are no buffers."""
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)
    weight = getattr(module, "weight", None)
    state = getattr(weight, "quant_state", None)
    for holder in (weight, getattr(module, "state", None), state, getattr(state, "state2", None)):
        for value in getattr(holder, "__dict__", {}).values():
            if isinstance(value, Tensor):
                yield value


def _in_subprocess(model: Path, name: str, args: argparse.Namespace) -> int:
    command = [sys.executable, __file__, *map(str, args.benchmarks), "--items", str(args.items)]
    done = subprocess.run([*command, "--peak", str(model), name], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def _peak(model: str, name: str, timed: tuple[list[Item], list[Item]]) -> int:
    """Return the bytes by which loading and encoding raise the process's resident set at its largest (Linux)."""
    import bitsandbytes  # noqa: F401  before the first look, in every precision
    import peft  # noqa: F401
    from transformers import AutoModel, AutoProcessor  # noqa: F401

    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the imports (man 5 proc)
    embedder = _load(model, None, name)
    for items in timed:
        embedder.encode(items, show_progress=False)
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def _machine() -> str:
    """Describe processor, threads, and whether bfloat16 is computed or emulated."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    pays = "with" if bfloat16_pays(torch.device("cpu")) else "without"
    return f"{model} ({os.cpu_count()} cores, {torch.get_num_threads()} used) {pays} bfloat16 instructions"


def _table(rows: dict[str, dict[str, Any]]) -> str:
    """Return Markdown, with speeds as ratios to float32's."""
    base = rows["float32"]
    tests = [key for key in base if key.startswith("R@1")]
    head = [
        "weights",
        "MB",
        "bits a linear weight (ideal)",
        "peak MB",
        "tokens/s",
        "LoRA step",
        "cosine min",
        "mean",
        *tests,
    ]
    lines = [head, ["---"] * len(head)]
    for name, row in rows.items():
        lines.append(
            [
                name,
                f"{row['weight bytes'] / 1e6:.1f}",
                f"{row['bits a linear weight']:.2f} ({row['ideal bits']:.2f})",
                f"{row['peak bytes'] / 1e6:.0f}",
                f"{row['tokens/s'] / base['tokens/s']:.2f} x",
                f"{row['step seconds'] / base['step seconds']:.2f} x",
                f"{row['cosine min']:.4f}",
                f"{row['cosine mean']:.4f}",
                *(f"{row[test]:.1f}" for test in tests),
            ]
        )
    speed = f"float32: {base['tokens/s']:.0f} tokens/s, {base['step seconds']:.2f} s a step"
    note = f"{speed}; {base['vectors']} vectors compared"
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", note])


if __name__ == "__main__":
    raise SystemExit(main())
