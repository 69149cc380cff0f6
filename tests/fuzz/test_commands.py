"""Command lines as nobody should type them: exit code 2, and one sentence on the screen."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fuzz.test_stores import make_store
from fuzz.tools.harness import RIGHT, TOLD, Case, expect, sift
from made_benchmarks import circo_files
from mllm_embed import MLLMEmbedder, VectorStore
from mllm_embed.cli import main as embed
from mllm_embed.eval.cli import main as evaluate
from mllm_embed.training.cli import main as train
from tiny import make_data

MAINS: dict[str, Callable[[Sequence[str]], int]] = {"embed": embed, "eval": evaluate, "train": train}
# {new} is a path where nothing is; the others are made by the test
WHOLE: dict[str, tuple[str, ...]] = {
    "embed encode": ("{photos}", "--output", "{new}", "--model", "{model}"),
    "embed search": ("--gallery", "{store}", "--model", "{model}", "--instruction", "red", "--output", "{new}.png"),
    "embed index": ("{store}", "--output", "{new}", "--kind", "flat"),
    "embed remove": ("{copy}",),
    "embed upload": ("{store}", "qdrant:{new}/c"),
    "embed card": ("{adapter}",),
    "eval check": ("{data}",),
    "eval run": ("{data}", "--model", "{model}", "--output", "{new}"),
    "eval score": ("circo", "--data", "{circo}", "--output", "{new}"),
    "eval submit": ("circo", "--data", "{circo}", "--split", "val", "--vectors", "{photos}", "--output", "{new}"),
    "eval compare": (),
    "eval methods": ("{data}", "--model", "{model}", "--output", "{new}"),
    "eval robustness": ("{data}", "--model", "{model}", "--output", "{new}"),
    "train run": ("demo", "--override", "output={new}", "--override", "model={model}"),
    "train plan": ("demo", "--override", "output={new}", "--override", "model={model}"),
    "train show": ("demo", "--override", "output={new}"),
    "train mine": ("{data}", "--model", "{model}", "--output", "{new}.jsonl"),
    "train merge": ("{adapter}", "--output", "{new}"),
    "train report": ("{photos}",),
    "train make-triplets": ("{data}", "--output", "{new}"),
}
_PATHS = ("", "{missing}", "{file}", "/dev/null", "{long}", "\udce9", "https://example.org/x", "file:///etc")
_HUGE = "9" * 400
_COUNTS = ("0", "-1", "1.5", "x", "", "nan", "1e3", _HUGE)
_FLOATS = ("x", "", "nan", "inf", "-inf", "1e999")
_MODELS = (
    "",
    "{missing}",
    "{file}",
    "{photos}",
    "{store}",
    "{long}",
    "a\0b",
    "\udce9",
    "https://example.org/m",
    "a/b/c",
)
_WORDS = ("", " ", "\udce9")
_MODEL_OPTIONS = {
    "--model": _MODELS,
    "--adapter": (*_MODELS, "{model}"),
    "--batch-size": _COUNTS,
    "--device": ("", "gpu", "cuda:99", "cpu:x", "meta", "\udce9"),
    "--dtype": ("float8", "", "int8"),
    "--quantization": ("nf5", ""),
    "--dim": (*_COUNTS, "65"),
}
_ANYWHERE = ("--frobnicate", "--output", "surplus", "--model")
OPTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "embed encode": {
        **_MODEL_OPTIONS,
        "--output": ("", "{file}", "{file}/x", "{photos}", "{adapter}", "{long}", "/proc/x"),
        "--fields": ("", "x", "image", "image=", "=image", "picture=image", "id=id image=image", "text=text"),
        "--store-dtype": ("float64", ""),
        "--shard-rows": _COUNTS,
        "--workers": ("2", *_COUNTS),
    },
    "embed search": {
        **_MODEL_OPTIONS,
        "--gallery": (
            *_PATHS,
            "qdrant:",
            "qdrant:x",
            "qdrant:{missing}/c",
            "qdrant:http://127.0.0.1:1/c",
            "{adapter}",
            "postgresql://127.0.0.1:1/db#t",
        ),
        "--image": _PATHS,
        "--instruction": _WORDS,
        "-k": _COUNTS,
        "--output": ("", "{photos}", "{file}/x.png", "{long}.png", "/proc/x.png", "{new}.exe"),
        "--edit-strength": _FLOATS,
        "--rerank": _COUNTS,
        "--allow": (*_PATHS, "{ids}", "{blank}"),
        "--exclude": (*_PATHS, "{ids}"),
        "--filter": ("", "x", "[1]", "null", "\udce9"),
    },
    "embed index": {
        "--output": ("", "{file}", "{photos}", "{store}", "{long}", "/proc/x"),
        "--kind": ("", "flatt", "IVF"),
        "--target": ("", "recall", "recall>=2", "recall>=x", "recall<=1", "size>=1", "size<=1/0", "latency<=-1ms"),
        "--queries": _PATHS,
        "--seed": ("x", "-1", "1.5", _HUGE, "99999999999999999999"),
        "--update": ("",),
    },
    "embed remove": {"--ids": (*_PATHS, "{ids}", "{blank}"), "ID": ("", "a1", "zz", "\udce9", "A0")},
    "embed upload": {
        "PLACE": (
            *("", "x", "qdrant:", "qdrant:{file}/c", "qdrant:http://127.0.0.1:1/c", "postgresql://", "postgres://#"),
            *("postgresql://127.0.0.1:1/db#t", "postgresql:///db?host={missing}#t", "postgresql://h:x/#t"),
            *("postgresql://127.0.0.1:1/\udce9#t", "postgresql://127.0.0.1:1/db?x=1#t"),
        )
    },
    "embed card": {"--result": _PATHS, "--license": ("",), "--dataset": ("",)},
    "eval check": {"--data": ("{data}",), "--split": ("test",), "--option": ("", "x", "a=b", "=b")},
    "eval run": {
        **_MODEL_OPTIONS,
        "--output": ("{file}", "{file}/x", "{long}", "/proc/x"),
        "--save-vectors": ("{file}", "{long}", "/proc/x"),
        "--edit-strength": _FLOATS,
        "--sheet": ("-1", "x", "1.5", "", _HUGE),
        "--thumbnails": (*_FLOATS, "-1"),
        "--ties": ("", "first"),
        "--query-model": _MODELS,
        "--query-adapter": ("{adapter}", ""),
    },
    "eval score": {
        "--vectors": _PATHS,
        "--ranking": _PATHS,
        "--split": ("test1", ""),
        "--images": _PATHS,
        "--option": ("", "x", "gallery=val"),
    },
    "eval submit": {"--files": _PATHS, "--split": ("x",), "--vectors": _PATHS, "--dim": ("8",)},
    "eval compare": {"RESULT": _PATHS, "--format": ("html",), "--thumbnails": (*_FLOATS, "-1")},
    "eval methods": {
        "--only": ("", "pdv", "image_only"),
        "--tune-on": (*_PATHS, "circo={missing}", "=", "folder={data}", "{data}"),
        "--captions": _PATHS,
        "--batch-size": ("0", "x"),
    },
    "eval robustness": {"--output": ("{file}", "/proc/x"), "--model": _MODELS, "--dim": ("0", "65")},
    "train run": {
        "--override": ("", "x", "seed=x", "stages.captions.data={missing}", "output=/proc/x", "model={missing}")
    },
    "train plan": {
        "--memory": _FLOATS[:3],
        "--picture": ("", "x", "0x0", "1x", "-1x5", "9999999999x9"),
        "--override": ("", "x"),
    },
    "train mine": {
        "--rows": ("texts", "x"),
        "--query": ("x", "", "caption"),
        "--count": _COUNTS,
        "--skip": ("-1", "x"),
        "--ceiling": ("x", "", "nan", "-inf", "-1", "0"),  # infinite, it leaves nothing out
        "--at-most": (*_FLOATS[:3], "2"),
        "--depth": _COUNTS,
        "--clusters": _COUNTS,
        "--output": ("{photos}", "{file}/x", "/proc/x"),
        "--sheet": ("{photos}", "{file}/x.png"),
        "--vectors": ("{file}", "/proc/x"),
    },
    "train merge": {
        "--weights": (*_FLOATS, "1 2"),
        "--rank": _COUNTS,
        "--output": ("", "{file}", "{photos}", "/proc/x"),
        "ADAPTER": (*_MODELS, "{model}"),
    },
    "train report": {"RUN": _PATHS},
    "train make-triplets": {
        "--endpoint": ("", "x", "ftp://x", "http://127.0.0.1:1/v1"),
        "--local": _MODELS,
        "--temperature": (*_FLOATS, "-1"),
        "--max-tokens": _COUNTS,
        "--concurrency": _COUNTS,
        "--prompt": _PATHS,
        "--extra": ("", "x", "[]", "3", "{{", '{"a": 1, "a": 2}'),
        "--limit": _COUNTS,
        "--timeout": _FLOATS,
    },
}
# where a value is fine, or what it does not say is taken from elsewhere
_FINE = {
    ("embed search", "--gallery", "{adapter}"),
    ("eval methods", "--tune-on", "folder={data}"),
    ("embed search", "--rerank", "0"),
    ("embed index", "--seed", "99999999999999999999"),
}


def _cases() -> list[Case]:
    found = []
    for command, options in OPTIONS.items():
        for option, values in options.items():
            found += [Case(f"{command} {option} {value[:40]!r}", (command, option, value)) for value in values]
        found += [
            Case(f"{command} {word} {place}", (command, word, place))
            for word in _ANYWHERE
            for place in ("first", "last")
        ]
        found.append(Case(f"{command} and nothing", (command, "", "nothing")))
    found += [
        Case(f"{name} {word!r}", (name, word, None)) for name in MAINS for word in ("", "frobnicate", "encod", "-x")
    ]
    return found


CASES = _cases()


def _line(command: str, option: str, value: str) -> list[str]:
    """Return the words of a command line with one that is odd."""
    if value is None:
        return [option]
    name = command.split()[1]
    words = list(WHOLE[command])
    if value == "nothing":
        return [name]
    if value in ("first", "last"):
        return [name, option, *words] if value == "first" else [name, *words, option]
    more = value.split(" ") if option in ("--fields", "--weights") and " " in value else [value]
    if not option.startswith("-"):
        return [name, *words, *more]
    if option in words:
        at = words.index(option)
        return [name, *words[: at + 1], *more, *words[at + 2 :]]
    return [name, *words, option, *more]


@pytest.mark.slow
def test_odd_command_lines(
    tmp_path: Path, tiny_llava: Path, saved_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    places = _places(tmp_path, tiny_llava, saved_models)
    monkeypatch.chdir(tmp_path)
    whole = _listing(tmp_path)

    def judge(case: Case) -> str:
        command, option, value = case.what
        _swept(tmp_path, whole)  # of a command line that fell over
        line = [_filled(word, places) for word in _line(command, option, value)]
        code, out, err = _run(MAINS[command.split()[0]], line)
        left = _swept(tmp_path, whole)
        if code in (0, 1) and (case.what in _FINE or value == _HUGE):
            return RIGHT  # of a huge number there is as much as there is
        # argparse says how the command is used, and then what is wrong
        told = [text for text in err.splitlines() if text.startswith("error: ") or ": error: " in text]
        expect(code == 2, f"exit code {code}: {(err or out)[-200:]}")
        assert len(told) == 1 and err.rstrip().endswith(told[0].rstrip()), f"no sentence: {err[-300:]!r}"
        assert len(told[0]) < 3000, f"a sentence of {len(told[0]):,} letters"
        # a figure that was measured is kept where the vectors cannot be
        expect(not left or case.what == ("eval run", "--save-vectors", "/proc/x"), f"left {left[:3]} behind")
        return TOLD

    sift("commands", CASES, judge)


def _swept(folder: Path, whole: set[str]) -> list[str]:
    """Remove from a folder what is not of the whole one; return its names."""
    left = sorted(_listing(folder) - whole)
    for name in left:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    return left


def _run(main: Callable[[Sequence[str]], int], line: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(line)
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, out.getvalue(), err.getvalue()


def _filled(word: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        word = word.replace(f"{{{name}}}", place)
    return word


def _listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _places(folder: Path, model: Path, saved: dict[str, Path]) -> dict[str, str]:
    make_data(folder / "data")
    (folder / "data" / "texts.jsonl").write_text('{"id": "s", "source_text": "a", "target_text": "b"}\n')
    circo_files(folder / "circo")
    embedder = MLLMEmbedder.from_pretrained(model, device="cpu", dtype="float32")
    store = VectorStore.create(folder / "store", embedder.model.width, provenance=embedder.provenance)
    store.add(["a0", "a1", "a2"], embedder.encode(["a", "b", "c"], show_progress=False))
    make_store(folder / "copy")
    (folder / "file").write_text("what\n")
    (folder / "ids").write_text("no such id\n")
    (folder / "blank").write_text("\n")
    shutil.copytree(saved["adapter"], folder / "adapter")
    names = ("data", "circo", "store", "copy", "file", "ids", "blank", "adapter", "new", "missing")
    return {name: str(folder / name) for name in names} | {
        "model": str(model),
        "photos": str(folder / "data" / "images"),
        "long": str(folder / ("x" * 300)),
    }
