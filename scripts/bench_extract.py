"""How fast inputs become vectors: this library with each part of its planning on and off, beside what people use now.

    python scripts/bench_extract.py                         # four loads on SmolLM2-135M with a SigLIP tower
    python scripts/bench_extract.py --loads cirr texts --repeat 1

The loads have the shape of real ones, scaled down by --scale: `cirr` asks 1.8 instructions of each picture beside
embedding it (2,315 pictures, 4,148 queries), `genecis` shows each picture in many galleries (29,400 candidates of 2,198
pictures, 1,960 queries), `gallery` holds pictures of many shapes once, `texts` short captions. Pictures are JPEG files.

Every path has the same model in one process and takes its turn in every round, so that a busy machine disturbs all
alike: trust the ratios. On a CPU all profit from pages that are kept (encode/memory.py), which this library asks for
once a process. `sentence-transformers` is its `encode` on the folder that this library saves. `plain loop` is written
as VLM2Vec and E5-V write it: batches in the order given, padded to the longest, prepared between two forward passes,
with the LM head and a list of all hidden states. Differences of vectors are taken in float32. Prints Markdown and
writes runs/extract.json.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.encode.planning import EncodingPlan, Step
from mllm_embed.encode.suffixes import Input
from mllm_embed.errors import ConfigError, user_errors
from mllm_embed.files import write_json
from mllm_embed.saving.versions import versions
from mllm_embed.types import Item
from toy.smollm2_llava import BASE, smollm2_idefics3, smollm2_llava

WORDS = (
    "the same dress but with longer sleeves make it darker and remove the belt show two dogs instead of one running on "
    "a beach at sunset with more people in the background add a red hat and let the sky be cloudy as seen from above"
)
SHAPES = ((640, 480), (480, 640), (640, 640), (960, 320), (320, 960), (800, 400), (400, 800), (640, 160))


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS), metavar="LOAD")
    parser.add_argument("--scale", type=int, default=48, help="how much smaller than real the loads are (default 48)")
    parser.add_argument("--repeat", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", help="default: the GPU where there is one")
    parser.add_argument("--cache", type=Path, default=Path("runs/bench-models"), help="where the models are kept")
    parser.add_argument("--output", type=Path, default=Path("runs/extract.json"))
    args = parser.parse_args()
    if min(args.scale, args.repeat, args.batch_size) < 1:
        raise ConfigError("--scale, --repeat and --batch-size must be at least 1")
    result: dict[str, Any] = {"machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"}
    result |= {"threads": torch.get_num_threads(), "versions": versions(), "loads": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.loads:
            result["loads"][name] = measured(name, Path(folder), args)
            sys.stdout.write(f"{_table(name, result['loads'][name])}\n\n")
            sys.stdout.flush()
            write_json(args.output, result)
    return 0


def cirr(folder: Path, scale: int) -> list[Item]:
    """Return a gallery, and 1.8 instructions on each of its pictures."""
    pictures = _pictures(folder, 2315 // scale, SHAPES[:1])
    queries = [Query(pictures[at % len(pictures)], _words(at, 4, 22)) for at in range(4148 // scale)]
    return [*map(Document, pictures), *queries]


def genecis(folder: Path, scale: int) -> list[Item]:
    """Return galleries of fifteen for each query, drawn from few pictures."""
    pictures = _pictures(folder, 2198 // scale, SHAPES[:1])
    queries = [Query(pictures[at % len(pictures)], _words(at, 1, 2)) for at in range(1960 // scale)]
    drawn = np.random.default_rng(0).integers(len(pictures), size=29400 // scale)
    return [*(Document(pictures[at]) for at in drawn), *queries]


def gallery(folder: Path, scale: int) -> list[Item]:
    """Return pictures of many shapes, in no order."""
    return list(map(Document, _pictures(folder, 4800 // scale, SHAPES)))


def texts(folder: Path, scale: int) -> list[Item]:
    """Return captions of 3 to 25 words."""
    return [Document(text=f"{at} {_words(at, 3, 25)}") for at in range(48000 // scale)]


LOADS: dict[str, Callable[[Path, int], list[Item]]] = {
    "cirr": cirr, "genecis": genecis, "gallery": gallery, "texts": texts,
}  # fmt: skip


def measured(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of each path in each round, what they computed, and how far off the vectors are."""
    model = (
        smollm2_idefics3(args.cache / "idefics3") if name == "gallery" else smollm2_llava(args.cache / "llava", BASE)
    )
    items = LOADS[name](folder, args.scale)
    embedder = MLLMEmbedder.from_pretrained(model, device=args.device)
    work = embedder.plan(items, batch_size=args.batch_size)
    paths = _paths(model, embedder, args.batch_size)
    seconds: dict[str, list[float]] = {path: [] for path in paths}
    for turn in range(args.repeat + 1):
        for path, run in paths.items():
            started = time.perf_counter()
            run(items if turn else items[:: max(1, len(items) // 16)])  # the first round is for warming up
            if turn:
                seconds[path].append(time.perf_counter() - started)
    found = {
        "inputs": len(items), "dtype": str(embedder.dtype), "seconds": seconds, "useful": work.planned.tokens
        / work.planned.computed, "plan": str(work), "floor": _flops(embedder, work) / _rate(embedder.device),
    }  # fmt: skip
    del paths, embedder
    gc.collect()
    return found | {"differences": _differences(model, items, args)}


def _paths(model: Path, embedder: MLLMEmbedder, size: int) -> dict[str, Callable[[Sequence[Item]], np.ndarray]]:
    """Return what is compared, by name: all of it, each part of the planning taken away, and the others."""

    def ours(
        change: Callable[[EncodingPlan, list[Item]], EncodingPlan] | None = None,
    ) -> Callable[[Sequence[Item]], np.ndarray]:
        def run(items: Sequence[Item]) -> np.ndarray:
            work = embedder.plan(items, batch_size=size)
            return embedder.execute(change(work, list(items)) if change else work, show_progress=False).vectors

        return run

    return {
        "mllm_embed": ours(),
        "prefixes not shared": ours(_unshared),
        "nothing once, in the order given": ours(_as_given),
        "sentence-transformers": _sentence_transformers(model, embedder, size),
        "plain loop": _plain_loop(model, embedder, size),
    }


def _unshared(work: EncodingPlan, items: list[Item]) -> EncodingPlan:
    """Plan each input by itself, still once and by length."""
    steps: list[Step] = []
    for step in work.steps:
        numbers = [number for group in step.groups for number in group]
        parts = range(0, len(numbers), work.batch_size) if step.shared else (0,)
        many = work.batch_size if step.shared else len(numbers)
        steps += [Step(tuple((number,) for number in numbers[at : at + many])) for at in parts]
    return replace(work, steps=steps)


def _as_given(work: EncodingPlan, items: list[Item]) -> EncodingPlan:
    """Plan batches of the inputs as they come, those with pictures and those without apart; only read ahead."""
    kinds = [[at for at, item in enumerate(items) if bool(item.images) == shown] for shown in (True, False)]
    parts = [kind[at : at + work.batch_size] for kind in kinds for at in range(0, len(kind), work.batch_size)]
    steps = [Step(tuple((number,) for number in part)) for part in parts]
    return replace(work, inputs=list(map(Input, items)), places=[[at] for at in range(len(items))], steps=steps)


def _sentence_transformers(model: Path, embedder: MLLMEmbedder, size: int) -> Callable[[Sequence[Item]], np.ndarray]:
    from sentence_transformers import SentenceTransformer

    saved = model.with_name(f"{model.name}-saved")
    embedder.save_pretrained(saved)
    theirs = SentenceTransformer(
        str(saved), device=str(embedder.device), local_files_only=True, model_kwargs={"dtype": embedder.dtype}
    )
    return lambda items: theirs.encode([_theirs(item) for item in items], batch_size=size, show_progress_bar=False)


def _theirs(item: Item) -> Any:
    """Return an input in sentence-transformers' words."""
    if not item.images:
        return item.words
    return str(item.images[0]) if item.words is None else {"image": str(item.images[0]), "text": item.words}


def _plain_loop(model: Path, embedder: MLLMEmbedder, size: int) -> Callable[[Sequence[Item]], np.ndarray]:
    from transformers import AutoModelForImageTextToText

    whole = AutoModelForImageTextToText.from_pretrained(model, dtype=embedder.dtype).to(embedder.device).eval()

    @torch.inference_mode()
    def run(items: Sequence[Item]) -> np.ndarray:
        kinds = [[at for at, item in enumerate(items) if bool(item.images) == shown] for shown in (True, False)]
        found: dict[int, torch.Tensor] = {}
        for part in (kind[at : at + size] for kind in kinds for at in range(0, len(kind), size)):
            batch = embedder.item_processor([items[at] for at in part])
            moved = {key: value.to(embedder.device) for key, value in batch.items()}
            moved = {key: v.to(embedder.dtype) if v.is_floating_point() else v for key, v in moved.items()}
            hidden = whole(**moved, output_hidden_states=True, return_dict=True).hidden_states[-1]
            found |= zip(part, F.normalize(hidden[:, -1].float(), dim=-1).cpu(), strict=True)
        return torch.stack([found[at] for at in range(len(items))]).numpy()

    return run


def _differences(model: Path, items: list[Item], args: argparse.Namespace) -> dict[str, float]:
    """Return the largest difference of any number of a vector from the same input's alone, in float32."""
    embedder = MLLMEmbedder.from_pretrained(model, device=args.device, dtype="float32")
    some = items[:: max(1, len(items) // 24)]
    alone = np.concatenate([embedder.encode([item], show_progress=False) for item in some])
    paths = _paths(model, embedder, args.batch_size)
    return {path: float(np.abs(run(some) - alone).max()) for path, run in paths.items()}


def _flops(embedder: MLLMEmbedder, work: EncodingPlan) -> float:
    """Return the least operations of the planned tokens and pictures: two for each weight of a layer that sees them."""
    base = embedder.model.base
    vision = {id(p) for name, m in base.named_modules() for p in m.parameters() if _in(name, embedder.family.vision)}
    embedded = {id(p) for p in base.get_input_embeddings().parameters()}
    language = sum(p.numel() for p in base.parameters() if id(p) not in vision | embedded)
    seeing = sum(p.numel() for p in base.parameters() if id(p) in vision)
    patches = sum(_patches(embedder, work, step) for step in work.steps)
    return 2.0 * (language * work.planned.tokens + seeing * patches)


def _in(name: str, fragments: tuple[str, ...]) -> bool:
    return bool(set(name.split(".")) & set(fragments))


def _patches(embedder: MLLMEmbedder, work: EncodingPlan, step: Step) -> int:
    """Return the number of patches of a step's pictures: its pixels over those of a patch."""
    first = [work.inputs[group[0]].item for group in step.groups]
    if not first[0].images:
        return 0
    pixels = embedder.item_processor(first[:1])["pixel_values"]
    side = embedder.model.base.config.vision_config.patch_size
    return len(first) * pixels[0].numel() // 3 // side**2


def _rate(device: torch.device) -> float:
    """Measure the operations a second of a product of bfloat16 matrices."""
    a, b = (torch.randn(2048, 2048, device=device).bfloat16() for _ in range(2))
    best = 0.0
    for _ in range(6):
        started = time.perf_counter()
        (a @ b).sum().item()
        best = max(best, 2 * 2048**3 / (time.perf_counter() - started))
    return best


def _pictures(folder: Path, count: int, shapes: Sequence[tuple[int, int]]) -> list[Path]:
    """Write JPEG files of coarse noise, which decode like photographs."""
    rng = np.random.default_rng(count)
    paths = []
    for number in range(count):
        width, height = shapes[int(rng.integers(len(shapes)))]
        noise = rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
        path = folder / f"{count}-{number}.jpg"
        Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)
        paths.append(path)
    return paths


def _words(seed: int, least: int, most: int) -> str:
    rng = np.random.default_rng(seed)
    return " ".join(rng.choice(WORDS.split(), int(rng.integers(least, most + 1))))


def _table(name: str, load: dict[str, Any]) -> str:
    ours = load["seconds"]["mllm_embed"]
    lines = [
        f"### {name}: {load['inputs']:,} inputs, {load['dtype']}", "",
        "| path | items/s | ours is faster by | spread | largest difference |", "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for path, spent in load["seconds"].items():
        ratios = [theirs / own for theirs, own in zip(spent, ours, strict=True)]
        rate = load["inputs"] / statistics.median(spent)
        spread = f"{min(ratios):.2f} - {max(ratios):.2f}"
        far = load["differences"][path]
        lines.append(f"| {path} | {rate:.1f} | {statistics.median(ratios):.2f} x | {spread} | {far:.1e} |")
    times = statistics.median(ours) / load["floor"]
    return "\n".join([
        *lines, "", f"{load['useful']:.1%} of the computed tokens are useful; {times:.1f} times the floor of "
        f"{load['floor']:.1f} s", "", load["plan"],
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
