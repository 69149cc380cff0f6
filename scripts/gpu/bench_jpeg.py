"""What decoding JPEGs at a part of their size saves and costs: `jpeg_side`, on made-up photographs of 12 megapixels.

    PYTHONPATH=scripts python scripts/gpu/bench_jpeg.py                    # the embedded model, two minutes on a CPU
    PYTHONPATH=scripts python scripts/gpu/bench_jpeg.py --photographs 16 --processors 96 384 672

Time is that of the processor, since others may use the machine, all threads together, the least of three: decoding,
and then what an image processor of squares does by itself (SigLIP's in PIL, bicubic). Differences are of the pixels
that come out of it, in levels of 255, and of the embedded model's vectors; for scale, the same between the photographs
and copies of them saved again at quality 75. Prints Markdown.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from gpu.photographs import photographs
from mllm_embed import MLLMEmbedder
from mllm_embed.errors import user_errors
from mllm_embed.inputs.images import load_image

ASSETS = Path(__file__).resolve().parents[1] / "assets"
AGAIN = 75  # quality


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=8, help="how many (default 8)")
    parser.add_argument("--size", type=int, nargs=2, default=(4000, 3000), metavar=("W", "H"))
    parser.add_argument("--processors", type=int, nargs="+", default=[96, 384, 672], help="sides of their squares")
    args = parser.parse_args()
    files = photographs(args.photographs, *args.size)
    mean = sum(map(len, files)) / len(files)
    print(f"{len(files)} photographs of {args.size[0]} x {args.size[1]}, {mean / 1e6:.1f} MB\n")
    print("| processor | jpeg_side | decoded at | decode, ms | process, ms | pixels differ by, mean | at most |")
    print("| --- " * 7 + "|")
    for side in args.processors:
        _pixels(files, side)
    print()
    _vectors(files)
    return 0


def _pixels(files: list[bytes], side: int) -> None:
    """Print what a processor of squares takes and makes, of whole photographs and of scaled ones."""
    processor = SiglipImageProcessorPil(size={"height": side, "width": side})
    whole = [_levels(processor, load_image(file)) for file in files]
    for chosen in (None, 2 * side, side):
        decoded = [load_image(file, jpeg_side=chosen) for file in files]
        cells = [f"{side} x {side}", str(chosen or "–"), f"{decoded[0].width} x {decoded[0].height}"]
        cells.append(
            f"{_milliseconds(lambda c=chosen: [load_image(file, jpeg_side=c) for file in files], len(files)):.0f}"
        )
        cells.append(
            f"{_milliseconds(lambda d=decoded: [_levels(processor, picture) for picture in d], len(files)):.1f}"
        )
        print(f"| {' | '.join([*cells, *_differences(processor, whole, decoded)])} |", flush=True)
    again = [load_image(_again(file)) for file in files]
    print(
        f"| {side} x {side} | saved again | – | – | – | {' | '.join(_differences(processor, whole, again))} |",
        flush=True,
    )


def _levels(processor: Any, picture: Image.Image) -> np.ndarray:
    """Return what a processor of squares makes of a picture, as levels [3, S, S] of 255."""
    return (np.asarray(processor([picture])["pixel_values"][0], np.float32) + 1) * 127.5


def _differences(processor: Any, whole: list[np.ndarray], pictures: list[Image.Image]) -> list[str]:
    far = [np.abs(one - _levels(processor, picture)) for one, picture in zip(whole, pictures, strict=True)]
    return [f"{np.mean([part.mean() for part in far]):.2f}", f"{max(part.max() for part in far):.0f}"]


def _vectors(files: list[bytes]) -> None:
    """Print what becomes of the embedded model's vectors, and how long it takes to make them."""
    model = ASSETS / "base", ASSETS / "adapters" / "instructions"
    print("| embedded model | ms a photograph | cosine to whole, least | mean | nearest is itself |")
    print("| --- " * 5 + "|")
    whole = None
    for side in (0, 192, 96):
        embedder = MLLMEmbedder.from_pretrained(
            model[0], adapter=model[1], dtype="float32", device="cpu", jpeg_side=side
        )
        found = []
        spent = _milliseconds(lambda e=embedder, f=found: f.append(e.encode(files, show_progress=False)), len(files))
        whole = found[0] if whole is None else whole
        print(
            f"| {f'jpeg_side {side}' if side else 'whole'} | {spent:.0f} | {_cosines(whole, found[0])} |",
            flush=True,
        )
    embedder = MLLMEmbedder.from_pretrained(model[0], adapter=model[1], dtype="float32", device="cpu")
    for name, others in (
        (f"saved again at quality {AGAIN}", [_again(file) for file in files]),
        ("given as PIL pictures, whole", [load_image(file) for file in files]),
    ):
        print(f"| {name} | – | {_cosines(whole, embedder.encode(others, show_progress=False))} |", flush=True)


def _cosines(whole: np.ndarray, others: np.ndarray) -> str:
    scores = others @ whole.T
    own = np.diag(scores)
    return f"{own.min():.5f} | {own.mean():.5f} | {(scores.argmax(1) == np.arange(len(own))).sum()} of {len(own)}"


def _again(file: bytes) -> bytes:
    out = io.BytesIO()
    load_image(file).save(out, "JPEG", quality=AGAIN)
    return out.getvalue()


def _milliseconds(work: Callable[[], object], count: int) -> float:
    """Return the processor's milliseconds of the fastest of three runs, for each of `count`."""
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return 1000 * best / count


if __name__ == "__main__":
    sys.exit(main())
