"""A damaged model or adapter folder gives the vectors of the whole one, another provenance, or a sentence."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuzz.tools.damages import DAMAGES, MISFITS
from fuzz.tools.harness import RIGHT, TOLD, Case, Told, attempt, expect, plain, sift
from fuzz.tools.json_doors import spoil
from fuzz.tools.pictures import made
from mllm_embed import MLLMEmbedder, Query

PICTURE = made()["png"]
INPUTS = ["a red car", "a blue boat on the sea", PICTURE, Query(image=PICTURE, instruction="make it red")]
ADAPTER, BASE = "adapter", "base"
OURS = ("mllm_embed.json", "adapter_config.json")
THEIRS = ("tokenizer.json", "tokenizer_config.json", "processor_config.json", "config.json")
_ADAPTER_FILES = (*OURS, "adapter_model.safetensors", "chat_template.jinja", *THEIRS[:3])
_BASE_FILES = ("config.json", "model.safetensors", "chat_template.jinja", *THEIRS[:3])
# a model takes longer to load than a row
_RARE = ("junk before", "a piece twice", "cut early", "only noise", "twenty bits", "words behind", "itself twice")
BYTE_CASES = [
    Case(f"{folder}/{file}, {damage}", (folder, file, damage, 0))
    for folder, files in ((ADAPTER, _ADAPTER_FILES), (BASE, _BASE_FILES))
    for file in files
    for damage in DAMAGES
    if damage not in _RARE
]
# what is the family's own to check has fewer seeds
JSON_CASES = [
    Case(f"{folder}/{file}, {kind} ({seed})", (folder, file, kind, seed))
    for folder, file, seeds in (
        (ADAPTER, "mllm_embed.json", 4),
        (ADAPTER, "adapter_config.json", 3),
        (ADAPTER, "tokenizer_config.json", 1),
        (ADAPTER, "processor_config.json", 1),
        (BASE, "config.json", 1),
    )
    for kind in (*MISFITS, "a key less", "a key twice")
    for seed in range(seeds)
]


def _header(edit: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    """Return an edit of the header of a safetensors file."""

    def apply(data: bytes) -> bytes:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        header = edit(header) or header
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    return apply


def _first(header: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = header[next(name for name in header if name != "__metadata__")]
    return entry


def _renamed(header: dict[str, Any]) -> dict[str, Any]:
    return {f"other.{name}" if at == 1 else name: entry for at, (name, entry) in enumerate(header.items())}


def _swapped(header: dict[str, Any]) -> None:
    """Two tensors of one shape change places."""
    names = [name for name in header if name != "__metadata__"]
    one = next(name for name in names if sum(header[other]["shape"] == header[name]["shape"] for other in names) > 1)
    other = next(name for name in names if name != one and header[name]["shape"] == header[one]["shape"])
    header[one]["data_offsets"], header[other]["data_offsets"] = (
        header[other]["data_offsets"],
        header[one]["data_offsets"],
    )


def _numbers(value: float) -> Callable[[bytes], bytes]:
    return lambda data: data[:-400] + struct.pack("<f", value) * 100


TENSORS: dict[str, Callable[[bytes], bytes]] = {
    "nan": _numbers(float("nan")),
    "infinity": _numbers(float("inf")),
    "huge numbers": _numbers(3e38),
    "a header of a terabyte": lambda data: struct.pack("<Q", 1 << 40) + data[8:],
    "no header": lambda data: struct.pack("<Q", 0) + data[8:],
    "a tensor less": _header(lambda header: header.pop(list(header)[-1]) and None),
    "another type": _header(lambda header: _first(header).update(dtype="I32")),
    "an unknown type": _header(lambda header: _first(header).update(dtype="X9")),
    "a shape turned": _header(lambda header: _first(header)["shape"].reverse()),
    "a shape too large": _header(lambda header: _first(header).update(shape=[1 << 20, 1 << 20])),
    "offsets beyond the end": _header(lambda header: _first(header).update(data_offsets=[0, 1 << 50])),
    "offsets backwards": _header(lambda header: _first(header)["data_offsets"].reverse()),
    "another name": _header(_renamed),
    "two tensors for each other": _header(_swapped),
    "all names others": _header(lambda header: {f"x.{name}": entry for name, entry in header.items()}),
    "no tensors": lambda data: struct.pack("<Q", 2) + b"{}",
    "a pickle": lambda data: b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.",
}
TENSOR_CASES = [
    Case(f"{folder}/{file}, {name}", (folder, file, name, 0))
    for folder, file in ((ADAPTER, "adapter_model.safetensors"), (BASE, "model.safetensors"))
    for name in TENSORS
]
_LOOP = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
TEMPLATES = {
    "nothing": "",
    "no words": "<|user|>hello<|end|><|assistant|>",
    "no picture": _LOOP,
    "a syntax error": "{% for m in messages %}{{ m.content }",
    "an unknown tag": "{% frobnicate %}",
    "an unknown name": "{{ nothing.at.all }}",
    "an unknown filter": "{{ messages | frobnicate }}",
    "it refuses": "{{ raise_exception('not\nlike this') }}",
    "a long loop": "{% for i in range(100000000) %}{{ i }}{% endfor %}",
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "a bomb": "{{ 'x' * 10000000000 }}",
    "a bomb of doubling": "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}"
    "{% endfor %}{{ ns.x }}",
    "an endless macro": "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    "a huge power": "{{ 9 ** 9 ** 9 }}",
    "a way out": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a division by zero": "{{ 1 / 0 }}",
    "an include": "{% include '/etc/passwd' %}",
    "words twice": _LOOP + _LOOP,
    "upper case": "{% for m in messages %}{% for part in m.content %}{{ part.text | upper }}{% endfor %}{% endfor %}",
    "a surrogate": "\\ud800" + _LOOP,
    "nul": "\0" + _LOOP,
    "deep": "{% if true %}" * 2000 + _LOOP + "{% endif %}" * 2000,
    "a list": '[{"name": "default", "template": "x"}]',
}
TEMPLATE_CASES = [
    Case(f"{folder}'s template, {name}", (folder, "chat_template.jinja", name, 0))
    for folder in (ADAPTER, BASE)
    for name in TEMPLATES
]
CASES = [*BYTE_CASES, *JSON_CASES, *TENSOR_CASES, *TEMPLATE_CASES]


@pytest.mark.slow
@pytest.mark.parametrize(
    "cases", [BYTE_CASES, JSON_CASES, [*TENSOR_CASES, *TEMPLATE_CASES]], ids=["bytes", "json", "more"]
)
def test_damaged_models(
    cases: list[Case], tmp_path: Path, tiny_llava: Path, saved_models: dict[str, Path], request: pytest.FixtureRequest
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(tiny_llava, whole / BASE)
    shutil.copytree(saved_models["adapter"], whole / ADAPTER)
    vectors, provenance = _load(whole)

    def judge(case: Case) -> str:
        folder, file, kind, seed = case.what
        spoilt = tmp_path / "spoilt"
        shutil.rmtree(spoilt, ignore_errors=True)
        shutil.copytree(whole, spoilt)
        _spoil(spoilt / folder / file, kind, seed)
        found = attempt(lambda: _load(spoilt))
        if isinstance(found, Told):
            return TOLD
        expect(bool(np.isfinite(found[0]).all()), "a vector of NaN")
        expect(bool(np.allclose(np.linalg.norm(found[0], axis=1), 1, atol=1e-3)), "a vector not of unit length")
        expect(float(found[0][0] @ found[0][1]) < 0.99999, "two texts have one vector")
        if np.abs(found[0] - vectors).max() > 1e-4:
            if file in OURS and kind in MISFITS:
                expect(False, f"{_changed(spoilt, whole, folder, file)} is taken as something")
            expect(
                found[1] != provenance, f"other vectors (cosine {_worst(found[0], vectors):.2f}), the same provenance"
            )
        return RIGHT

    sift(f"models, {request.node.callspec.id}", cases, judge)


def _load(folder: Path) -> tuple[np.ndarray, str]:
    embedder = MLLMEmbedder.from_pretrained(folder / BASE, adapter=folder / ADAPTER, dtype="float32", device="cpu")
    return embedder.encode(INPUTS, show_progress=False), plain(embedder.provenance)


def _spoil(path: Path, kind: str, seed: int) -> None:
    if not path.is_file():  # of an adapter of an older form
        return
    if kind in TENSORS:
        path.write_bytes(TENSORS[kind](path.read_bytes()))
    elif kind in TEMPLATES:
        path.write_text(TEMPLATES[kind])
    else:
        spoil(path, kind, seed)


def _changed(spoilt: Path, whole: Path, folder: str, file: str) -> str:
    new, old = (json.loads((place / folder / file).read_text()) for place in (spoilt, whole))
    return str({key: str(new.get(key))[:80] for key in old if old[key] != new.get(key)})


def _worst(found: np.ndarray, right: np.ndarray) -> float:
    return float((found * right).sum(axis=1).min())
