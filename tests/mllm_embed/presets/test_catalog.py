"""Presets are found by hub id, by name and as files, and belong to the models that they are for."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest

from mllm_embed import MLLMEmbedder, Query
from mllm_embed.cli import main
from mllm_embed.errors import ConfigError
from mllm_embed.presets import catalog

GME = "Alibaba-NLP/gme-Qwen2-VL-2B-Instruct"
OWN = (
    "model_types: [llava]\n"
    'prompts: {template: none, image: "{image}", composed: "{image}{instruction}", text: "{text}", captioned: '
)


def test_every_preset_says_what_it_is_for_and_where_it_is_from() -> None:
    ids: list[str] = []
    for name in catalog.names():
        preset = catalog.preset(name)
        assert preset.models and preset.sources and preset.title != name, name
        assert all(model.licence and model.size and model.dimension for model in preset.models), name
        ids += [model.id for model in preset.models]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    "place",
    [
        GME,
        GME.lower(),
        f"models/{GME}",
        f"models/{GME}/",
        "/cache/hub/models--Alibaba-NLP--gme-Qwen2-VL-2B-Instruct/snapshots/0123abcd",
    ],
)
def test_a_model_is_known_by_its_hub_id_wherever_it_lies(place: str) -> None:
    found = catalog.preset_of(place)
    assert found is not None and found.name == "gme"


@pytest.mark.parametrize("place", ["gme-Qwen2-VL-2B-Instruct", "someone/gme-Qwen2-VL-2B-Instruct", "Alibaba-NLP/gme"])
def test_another_owner_or_none_is_another_model(place: str) -> None:
    assert catalog.preset_of(place) is None


def test_a_folder_with_the_models_name_alone_is_told_of(tiny_llava: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llava, tmp_path / "gme-Qwen2-VL-2B-Instruct")
    with pytest.warns(UserWarning, match=f"has the name of {GME}, whose prompts are not used.*--preset gme"):
        embedder = MLLMEmbedder.from_pretrained(folder)
    assert embedder.preset is None and embedder.prompts.name == "instructcir"


def test_a_preset_of_ones_own_decides_how_a_model_is_asked_and_is_saved_with_it(
    tiny_llava: Path, tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_text(OWN + '"{image}{text}"}\nsettings: {max_tokens: 99}\n')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedder = MLLMEmbedder.from_pretrained(tiny_llava, preset=tmp_path / "own.yaml")
    assert embedder.item_processor.render(Query(text="a hat")) == "a hat" and embedder.settings.max_tokens == 99
    embedder.save_pretrained(tmp_path / "saved")
    assert MLLMEmbedder.from_pretrained(tmp_path / "saved").settings.prompts == embedder.prompts
    with pytest.raises(ConfigError, match="saved with prompts and settings of its own .*preset gme"):
        MLLMEmbedder.from_pretrained(tmp_path / "saved", preset="gme")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('"{text}"}\n', "the captioned prompt must hold {image} where pictures stand"),
        ('"{image}{text}"}\nsettings: {position: model}\n', "settings.position is no key of it; did you"),
        ('"{image}{text}"}\nsettings: {base: {name: x}}\n', "settings.base is of a saved model, not of a preset"),
        ('"{image}{text}"}\nbenchmark: {}\n', "'benchmark' is no key of it; did you mean 'benchmarks'"),
        ('"{image}{text}"}\ndtype: int8\n', "dtype is 'int8', not 'float16', 'bfloat16' or 'float32'"),
        ('"{image}{text}"}\nmodels: [a/b]\n', 'models.0 is "a/b", not keys with values'),
        ('"{image}{text}"}\nmodels: [{name: a/b}]\n', "it has no models.0.id"),
        ('"{image}{text}"}\nsettings: mean\n', 'settings is "mean", not keys with values'),
        ('"{image}{text}"}\nsettings: {pooled: some}\n', "settings: pooled is 'some', which are no tokens"),
        (
            '"{image}{text}"}\nbenchmarks: {cirr: {prompts: {pictures: x}}}\n',
            "benchmarks.cirr.prompts.pictures is no key of it",
        ),
        (
            '"{image}{text}"}\nbenchmarks: {cirr: {querytask: x}}\n',
            "'benchmarks.cirr.querytask' is no key of it; did you mean 'query_task'",
        ),
    ],
)  # fmt: skip
def test_a_preset_that_is_amiss_is_named(tiny_llava: Path, tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "own.yaml").write_text(OWN + content)
    with pytest.raises(ConfigError, match=f"preset .*own.yaml: .*{reason}"):
        MLLMEmbedder.from_pretrained(tiny_llava, preset=tmp_path / "own.yaml")


def test_a_file_of_prompts_is_told_from_a_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.yaml").write_text('image: "{image}"\ntext: "{text}"\ncomposed: "{image}{instruction}"\n')
    assert main(["presets", str(tmp_path / "own.yaml")]) == 2
    assert "own.yaml: it has no model_types; prompts alone are given as such: --prompts" in capsys.readouterr().err


def test_a_preset_of_another_family_is_refused(tiny_llava: Path) -> None:
    said = "the preset gme is for qwen2_vl models, and .* is a llava; .* `mllm-embed prompt --preset gme > own.yaml`"
    with pytest.raises(ConfigError, match=said):
        MLLMEmbedder.from_pretrained(tiny_llava, preset="gme")


def test_an_unknown_name_gets_the_nearest(tiny_llava: Path) -> None:
    with pytest.raises(ConfigError, match="preset: 'gne' is not one of .*; did you mean 'gme'"):
        MLLMEmbedder.from_pretrained(tiny_llava, preset="gne")
    with pytest.raises(ConfigError, match="preset is the name of one, or a YAML or JSON file, not 3"):
        MLLMEmbedder.from_pretrained(tiny_llava, preset=3)


@pytest.mark.parametrize("wrong", [{"preset": "gne"}, {"prompts": "instructcri"}])
def test_a_wrong_name_is_told_before_weights_are_read(
    tiny_llava: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str]
) -> None:
    monkeypatch.setattr("mllm_embed.encode.embedder.load_model", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(ConfigError, match="did you mean"):
        MLLMEmbedder.from_pretrained(tiny_llava, **wrong)


def test_the_guide_holds_the_table_that_the_command_writes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "--markdown"]) == 0
    assert capsys.readouterr().out in (Path(catalog.__file__).parent / "README.md").read_text()


def test_the_list_and_each_preset_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    listed = capsys.readouterr().out
    for name in catalog.names():
        assert f"{name}: " in listed and main(["presets", name]) == 0
        said = capsys.readouterr().out
        assert all(model.id in said for model in catalog.preset(name).models)
    assert main(["presets", "gne"]) == 2
    assert "did you mean 'gme'" in capsys.readouterr().err
