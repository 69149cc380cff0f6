"""Recipes that are damaged, malicious or absurd: one sentence that names file, key and line, and no work done."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mllm_embed.training.cli import main
from mllm_embed.training.recipe.recipe_files import load_recipe

MINIMAL = """\
model: some/model
output: runs/x
stages:
  one: {data: d, rows: pairs, terms: [{query: image, positive: caption}]}
"""
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
FILES = {
    "a tag": ("seed: !!python/object/apply:os.system [ls]", "line 5: the tag tag:yaml.org,2002:python/object/apply"),
    "a plain tag": ('seed: !!int "3"', "line 5: the tag tag:yaml.org,2002:int is not taken here; write the plain"),
    "binary": ("seed: !!binary x", "line 5: the tag"),
    "a date": ("seed: 2024-13-45", "seed: must be a whole number, not '2024-13-45'"),
    "5,000 digits": (f"seed: {'9' * 5000}", "line 5: a value of 5,000 characters"),
    "4,000 digits": (f"seed: {'9' * 4000}", "seed: Input should|seed: must be|seed: Unable"),
    "hexadecimal": (f"seed: 0x{'f' * 4000}", "seed: "),
    "lists in lists": (f"seed: {'[' * 10_000}", "line 5: values stand more than 30 levels deep"),
    "blocks in blocks": ("\n".join(f"{' ' * depth}k:" for depth in range(300)), "values stand more than 30 levels"),
    "a bomb": (LAUGHS, "line [0-9]+: more than 10,000 values, those that aliases repeat among them"),
    "a key that holds itself": ("lora: &a {rank: *a}", r"line 5: \*a stands within what it refers to"),
    "a merge of itself": ("lora: &a\n  <<: *a", r"line 6: \*a stands within what it refers to"),
    "an unknown alias": ("seed: *a", "line 5: found undefined alias 'a'"),
    "a key twice": ("seed: 1\nworkers: 1\nseed: 2", "line 7: key 'seed' stands twice, in line 5 and line 7"),
    "a key twice below": ("lora: {rank: 1, rank: 2}", "key 'rank' stands twice, in line 5 and line 5"),
    "a stage twice": ("stages: {}", "key 'stages' stands twice, in line 3 and line 5"),
    "a list for a key": ("? [a, b]\n: 1", "line 5: a key is a name"),
    "a surrogate": (r'prompts: "\ud800"', "line 5: half a character"),
    "a control character": ("prompts: \x07", "special characters are not allowed"),
    "two documents": ("---\na: 1", "expected a single document|found another document"),
    "a tab": ("lora:\n\trank: 2", "line 6: "),
    "many keys": ("\n".join(f"k{number}: 1" for number in range(4000)), "line [0-9]+: more than 10,000 values|unknown"),
}
VALUES = {
    "seed=true": "seed: must be a whole number, not True",
    "workers=yes": "workers: must be a whole number, not True",
    'workers="2"': "workers: must be a whole number, not '2'",
    "workers=2.5": "workers: must be a whole number, not 2.5",
    "workers=1000000": "workers: must be less than or equal to 1024, not 1000000",
    "workers=-1": "workers: must be greater than or equal to 0, not -1",
    "workers=010": "workers: must be a whole number, not '010'",
    "workers=1:30": "workers: must be a whole number, not '1:30'",
    "workers=0o10": "workers: must be a whole number, not '0o10'",
    'gradient_checkpointing="no"': "gradient_checkpointing: must be true or false, not 'no'",
    "gradient_checkpointing=0": "gradient_checkpointing: must be true or false, not 0",
    'bidirectional="off"': "bidirectional: must be true or false, not 'off'",
    "lora.alpha=.nan": "lora.alpha: must be a finite number, not nan",
    "lora.alpha=-.inf": "lora.alpha: must be a finite number, not -inf",
    "lora.alpha=true": "lora.alpha: must be a number, not True",
    "lora.rank=1e400": "lora.rank: must be a whole number, not inf|lora.rank: must be a finite number, not inf",
    "lora.rank=1000000000": "lora.rank: must be less than or equal to 16384",
    "stages.one.steps=1000000000000000000": "stages.one.steps: must be less than or equal to 1000000000, not 10000",
    "stages.one.steps=1e18": "stages.one.steps: must be less than or equal to 1000000000|must be a whole number",
    "stages.one.steps=0": "stages.one.steps: must be greater than 0",
    "stages.one.epochs=1e30": "stages.one.epochs: must be less than or equal to 1000000",
    "stages.one.epochs=1e400": "stages.one.epochs: must be a finite number",
    "stages.one.batch_size=1000000000000": "stages.one.batch_size: must be less than or equal to 10000000",
    "stages.one.save_steps=10000000000": "stages.one.save_steps: must be less than or equal to",
    "stages.one.chunk_tokens=true": "stages.one.chunk_tokens: must be auto or a number of tokens",
    "stages.one.chunk_tokens=1000000000000000": "stages.one.chunk_tokens: must be auto or a number of tokens",
    "stages.one.matryoshka=[true, 64]": "stages.one.matryoshka.0: must be a whole number, not True",
    "stages.one.terms.0.weight=true": "stages.one.terms.0.weight: must be a number, not True",
    "stages.one.terms.99999999999999999999.weight=1": "no entry '99999999999999999999' there",
    "stages.one.terms.².weight=1": "no entry '²' there",
    "stages.one.data=[{path: d, streaming: 1}]": "stages.one.data.0.streaming: must be true or false, not 1",
    "stages.one.data=[{path: d, wieght: 1}]": "unknown key 'stages.one.data.0.wieght'; did you mean 'weight'",
    "stages.one.terms.0.symetric=true": "unknown key 'stages.one.terms.0.symetric'; did you mean 'symmetric'",
    "lora.rnak=1": "unknown key 'lora.rnak'; did you mean 'rank'",
    "teacher.modle=x": "teacher.model: is missing|unknown key 'teacher.modle'; did you mean 'model'",
    "model=no": "model: must be text, not False",
    'model=""': "model: must not be empty",
    'output=" "': "output: must not be empty; give a path",
    'stages.one.data=""': "stages.one.data.0.path: must not be empty; give a path",
    'stages.one.data=[{path: d, columns: {text: ""}}]': "stages.one.data.0.columns.text: must not be empty",
    'stages.one.mined=""': "stages.one.mined: must not be empty; give a path",
    r'output="a\0b"': "the value is not valid YAML: line 1: the character NUL, which no name and no path holds",
    "output=s3://bucket/run": "output: is a URL, and nothing is downloaded; give a path on this machine",
    f"{'k' * 4000}=1": "unknown key 'kkk[k]*[.]{3}'",
    "n" * 4000: "override 'nnn[n]*[.]{3}' is not of the form key=value",
    "output=7": "output: must be a path, not 7",
    "seed=!!python/name:os.system x": "override 'seed=!!python/name:os.system x': the value is not valid YAML",
    "seed={a: 1, a: 2}": "the value is not valid YAML: line 1: key 'a' stands twice",
    f"seed={'[' * 5000}": "the value is not valid YAML: line 1: values stand more than 30 levels deep",
    f"{'a.' * 5000}b=1": "no key of a recipe has so many parts",
    f"seed={'9' * 5000}": "a value of 5,000 characters",
}


def _refused(path: Path, capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    """Run the command, which ends in one sentence, and return that."""
    assert main(["run", str(path), *(word for override in overrides for word in ("--override", override))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and len(line) < 1000
    return line


@pytest.mark.parametrize("name", FILES)
def test_a_recipe_that_holds_what_none_does_is_refused_by_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    text, message = FILES[name]
    path = tmp_path / "r.yaml"
    path.write_text(f"{MINIMAL}{text}\n")
    told = _refused(path, capsys)
    assert str(path) in told and re.search(message, told)


@pytest.mark.parametrize("override", VALUES, ids=lambda override: override[:40])
def test_a_value_that_is_absurd_or_of_another_kind_is_refused_by_its_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(MINIMAL)
    assert re.search(VALUES[override], _refused(path, capsys, override))


def test_files_that_are_no_recipe_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contents = {
        "is not UTF-8 text (byte 0); save it as UTF-8": MINIMAL.encode("utf-16"),
        "is not UTF-8 text": b"\x89PNG\r\n\x1a\n\x00",
        "is empty": b"# nothing\n",
        "is larger than 64 KiB": b"# " + b"x" * 100_000,
        "is a list, not keys with values": b"- a",
        "is a str, not keys with values": b"hello",
    }
    for message, content in contents.items():
        (tmp_path / "r.yaml").write_bytes(content)
        assert f"recipe {tmp_path / 'r.yaml'} {message}" in _refused(tmp_path / "r.yaml", capsys)
    assert f"recipe {tmp_path} is a folder; give a YAML file" in _refused(tmp_path, capsys)
    assert "recipe /dev/zero is no file; give a YAML file" in _refused(Path("/dev/zero"), capsys)


def test_a_base_is_read_as_strictly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, message in (
        ("seed: 1\nseed: 2", "base.yaml is not valid YAML: line 2"),
        ("[1", "base.yaml is not valid"),
    ):
        (tmp_path / "base.yaml").write_text(text)
        (tmp_path / "r.yaml").write_text("base: base.yaml\n")
        assert message in _refused(tmp_path / "r.yaml", capsys)
    (tmp_path / "r.yaml").write_text("base: r.yaml\n")
    assert "its bases go in a circle" in _refused(tmp_path / "r.yaml", capsys)


@pytest.mark.parametrize(
    ("written", "rate"), [("1e-3", 1e-3), ("1.5e-3", 1.5e-3), (".001", 1e-3), ("1_0.5", 10.5), ("1E0", 1.0), ("1", 1.0)]
)
def test_numbers_are_read_as_people_write_them(tmp_path: Path, written: str, rate: float) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"{MINIMAL}seed: 1_000\n")
    for name in (f"stages.one.learning_rate={written}", f"stages={{one: {{learning_rate: {written}}}}}"):
        if name.startswith("stages="):
            (tmp_path / "over.yaml").write_text(f"base: r.yaml\nstages: {{one: {{learning_rate: {written}}}}}\n")
            loaded = load_recipe(tmp_path / "over.yaml")
        else:
            loaded = load_recipe(path, [name, "stages.one.steps=1e3"])
            assert loaded.stages["one"].steps == 1000
        assert (loaded.stages["one"].learning_rate, loaded.seed) == (rate, 1000)


def test_anchors_and_dates_that_mean_what_they_say_are_read(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "model: m\noutput: 2024-01-05\nlora: &small {rank: 2}\nstages:\n  one: &stage\n    data: d\n    rows: pairs\n"
        "    terms: [{query: image, positive: caption}]\n  two: {<<: *stage, batch_size: 8}\n"
    )
    loaded = load_recipe(path)
    assert (loaded.output, loaded.stages["two"].batch_size) == (Path("2024-01-05"), 8)
    assert loaded.stages["two"].terms == loaded.stages["one"].terms
