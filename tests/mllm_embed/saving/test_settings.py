"""Settings of a saved model that say something else than what is understood, and chat templates that go wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mllm_embed import MLLMEmbedder, Query
from mllm_embed.cli import main
from mllm_embed.errors import DataError, ModelError
from mllm_embed.saving.settings import Settings


def _refused(folder: Path, said: str, **options: Any) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        MLLMEmbedder.from_pretrained(folder, device="cpu", **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 800


def _change(values: dict[str, Any], keys: str, value: object) -> None:
    *path, last = keys.split(".")
    for key in path:
        values = values[key]
    values[last] = value


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        ("bidirectional", "no", 'bidirectional is "no", not true or false'),
        ("bidirectional", 1, "bidirectional is 1, not true or false"),
        ("pooling", "middle", 'pooling is "middle", not one of last, mean, '),
        ("pooling", ["last"], "pooling is "),
        ("normalize", False, "normalize is false, not true"),
        ("normalize", "yes", "normalize is "),
        ("matryoshka", ["64"], "matryoshka is .* not a list of lengths"),
        ("matryoshka", [0], "matryoshka is "),
        ("matryoshka", [True], "matryoshka is "),
        ("matryoshka", 64, "matryoshka is 64"),
        ("prompts", [], "prompts is "),
        ("prompts.image", 5, "prompts.image is 5, not a text"),
        ("prompts.image", None, "prompts.image is null"),
        ("prompts.image", "\ud800", "prompts.image is "),
        ("prompts.text", "no mark", "the text prompt must hold {text} once"),
        ("prompts.composed", "{instruction} {instruction}", "must hold {instruction} once"),
        ("prompts.video", "x", "prompts.video is no key of it"),
        ("base.fingerprint", 7, "base.fingerprint is 7"),
        ("base.name", [], "base.name is "),
        ("base", "somewhere", "base is "),
        ("finds", "there", "finds is "),
        ("poolling", "mean", "poolling is no key of it; did you mean 'pooling'"),
        ("format", "1", "has format 1, this version reads 1"),
        ("format", True, "format"),
        ("processor", "x", "processor is "),
        ("processor", ["../../x"], "processor is "),
        ("processor", ["gone.json"], "lacks gone.json, which was saved with it"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named(
    saved_models: dict[str, Path], tmp_path: Path, keys: str, value: object, said: str
) -> None:
    folder = Path(shutil.copytree(saved_models["adapter"], tmp_path / "out"))
    values = json.loads((folder / "mllm_embed.json").read_text())
    _change(values, keys, value)
    (folder / "mllm_embed.json").write_text(json.dumps(values))
    _refused(folder, said)


@pytest.mark.parametrize("name", ["mllm_embed.json", "adapter_config.json"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"pooling": "last", "pooling": "mean"}', 'has the key "pooling" twice'),
        ('{"r": NaN}', "NaN is no number"),
        ("[" * 100_000, "is damaged"),
        ('{"r": ' + "9" * 5000 + "}", "is damaged"),
        ("\ufeff{}", "is damaged"),
        ("", "is damaged"),
    ],
)
def test_json_that_means_two_things_or_nothing(
    saved_models: dict[str, Path], tmp_path: Path, name: str, content: str, said: str
) -> None:
    folder = Path(shutil.copytree(saved_models["adapter"], tmp_path / "out"))
    (folder / name).write_text(content)
    _refused(folder, said)


def test_settings_are_read_as_they_were_written(saved_models: dict[str, Path]) -> None:
    values = json.loads((saved_models["adapter"] / "mllm_embed.json").read_text())
    assert set(values["processor"]) >= {"chat_template.jinja", "tokenizer.json", "processor_config.json"}
    assert Settings.from_dict(values).to_dict() == {key: values[key] for key in values if key != "processor"}
    old = {key: values[key] for key in ("format", "pooling", "normalize", "base")}  # as the first version wrote them
    old["prompts"] = {key: values["prompts"][key] for key in ("name", "image", "composed", "text")}
    assert Settings.from_dict(old) == Settings.from_dict(values)


@pytest.mark.parametrize("lost", ["tokenizer.json", "processor_config.json", "chat_template.jinja"])
@pytest.mark.parametrize("known", [True, False])
def test_a_processor_in_part_is_not_completed_by_another(
    saved_models: dict[str, Path], tmp_path: Path, lost: str, known: bool
) -> None:
    folder = Path(shutil.copytree(saved_models["adapter"], tmp_path / "out"))
    (folder / lost).unlink()
    if known:
        return _refused(folder, f"lacks {lost}, which was saved with it")
    if lost != "chat_template.jinja":
        _old_settings(folder)
        _refused(folder, f"holds a part of a processor, but no {lost}")


def _old_settings(folder: Path) -> None:
    """Leave out what an older version did not write."""
    values = json.loads((folder / "mllm_embed.json").read_text())
    del values["processor"]
    (folder / "mllm_embed.json").write_text(json.dumps(values))


def test_the_bases_processor_is_used_where_an_adapter_has_none(saved_models: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved_models["adapter"], tmp_path / "out"))
    names = json.loads((folder / "mllm_embed.json").read_text())["processor"]
    _old_settings(folder)
    for name in names:
        (folder / name).unlink()
    ours, again = (
        MLLMEmbedder.from_pretrained(place, dtype="float32", device="cpu")
        for place in (saved_models["adapter"], folder)
    )
    assert (ours.encode(["a hat"]) == again.encode(["a hat"])).all()


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% if %}", "fails"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "does not end"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails"),
        ("{{ raise_exception('not today') }}", "not today"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ nothing.at.all }}", "fails"),
        ("{% include 'other.jinja' %}", "fails"),
        ("{{ messages | no_filter }}", "no_filter"),
        ("hello", r"leaves out, or repeats, the \{text\}"),
        ("{{ messages[0].content[-1].text | upper }}", r"leaves out, or repeats, the \{text\}"),
        ("{{ messages[0].content[-1].text * 2 }}", r"leaves out, or repeats, the \{text\}"),
        (" \n", "chat_template.jinja is empty"),
    ],
)
def test_a_chat_template_that_goes_wrong_is_one_sentence(
    tiny_llava: Path, tmp_path: Path, template: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_llava, tmp_path / "base"))
    (folder / "chat_template.jinja").write_text(template)
    _refused(folder, said)
    (tmp_path / "photos").mkdir()
    shutil.copy(Path(__file__).parents[3] / "scripts/assets/sprites/apple.webp", tmp_path / "photos")
    assert main(["encode", str(tmp_path / "photos"), "--output", str(tmp_path / "s"), "--model", str(folder)]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ("", "has no place for picture 1"),
        ("<image> <image>", "total number of <image>"),
        ("?", "total number of <image>"),
    ],
)
def test_a_template_has_a_place_for_each_picture(tiny_llava: Path, tmp_path: Path, shown: str, said: str) -> None:
    folder = Path(shutil.copytree(tiny_llava, tmp_path / "base"))
    template = "{%- for part in messages[0].content -%}{{ part.text or '" + shown + "' }}{%- endfor -%}"
    (folder / "chat_template.jinja").write_text(template)
    embedder = MLLMEmbedder.from_pretrained(folder, dtype="float32", device="cpu")
    assert embedder.encode(["a hat"]).any()
    picture = Path(__file__).parents[3] / "scripts/assets/sprites/apple.webp"
    for inputs in ([picture], [Query(picture, "in blue"), Query(picture, "in red")]):
        with pytest.raises((DataError, ModelError), match=said) as caught:
            embedder.encode(inputs)
        assert "\n" not in str(caught.value)


def test_a_template_that_asks_for_the_date_gives_the_same_text_every_day(tiny_llava: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llava, tmp_path / "base"))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text("{{ strftime_now('%d %b %Y %H:%M:%S.%f') }}" + template)
    embedder = MLLMEmbedder.from_pretrained(folder, dtype="float32", device="cpu")
    assert embedder.item_processor.filled(("text", ""), 0, {"{text}": "hat"}).startswith("26 Jul 2024<|user|>hat")
    embedder.save_pretrained(tmp_path / "again")
    module = json.loads((tmp_path / "again/sentence_bert_config.json").read_text())
    assert "strftime_now(format) %}26 Jul 2024" in module["processing_kwargs"]["chat_template"]["chat_template"]


def test_of_several_templates_the_default_is_used(tiny_llava: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llava, tmp_path / "base"))
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tool_use.jinja").write_text("TOOLS")
    plain, several = (MLLMEmbedder.from_pretrained(place, dtype="float32") for place in (tiny_llava, folder))
    assert isinstance(several.processor.chat_template, dict)
    assert (plain.encode(["a hat"]) == several.encode(["a hat"])).all()
    several.save_pretrained(tmp_path / "again")
    again = MLLMEmbedder.from_pretrained(tmp_path / "again", dtype="float32")
    assert (again.encode(["a hat"]) == several.encode(["a hat"])).all()
    assert again.provenance["processor"] == plain.provenance["processor"]


@pytest.mark.parametrize(
    ("file", "keys", "value", "said"),
    [
        ("processor_config.json", "image_processor.do_resize", "no", "do_resize of its image processor is 'no'"),
        ("processor_config.json", "image_processor.size", "large", "cannot load|cannot be read"),
        ("processor_config.json", "image_processor.size", {"height": 10**30, "width": 32}, "reads no picture"),
        ("processor_config.json", "image_processor.image_mean", [0.5, 0.5], "reads no picture"),
        ("processor_config.json", "image_processor.image_std", ["\0"] * 3, "reads no picture"),
        ("processor_config.json", "image_processor", 5, "cannot load"),
        ("processor_config.json", "processor_class", 5, "cannot load"),
        ("tokenizer.json", "model.vocab", [1], "cannot load"),
        ("tokenizer.json", "model", None, "cannot load"),
        ("tokenizer.json", "added_tokens", [{}], "cannot load"),
        ("tokenizer_config.json", "pad_token", 5, "cannot load"),
        ("config.json", "text_config", [], "cannot load"),
        ("config.json", "text_config", 3, "cannot load"),
    ],
)
def test_a_models_own_settings_of_the_wrong_kind_are_one_sentence(
    tiny_llava: Path, tmp_path: Path, file: str, keys: str, value: object, said: str
) -> None:
    folder = Path(shutil.copytree(tiny_llava, tmp_path / "base"))
    values = json.loads((folder / file).read_text())
    _change(values, keys, value)
    (folder / file).write_text(json.dumps(values))
    _refused(folder, said)


def test_a_processor_of_another_model_is_refused(
    saved_models: dict[str, Path], tmp_path: Path, tiny_llava: Path
) -> None:
    folder = Path(shutil.copytree(saved_models["adapter"], tmp_path / "out"))
    embedder = MLLMEmbedder.from_pretrained(folder, dtype="float32", device="cpu")
    embedder.processor.tokenizer.add_tokens([f"new{number}" for number in range(200)])
    embedder.processor.save_pretrained(folder)
    _refused(folder, "has a token 508, and the model embeds 309 tokens|has a token .* belongs to another model")
    embedder = MLLMEmbedder.from_pretrained(saved_models["adapter"], dtype="float32", device="cpu")
    embedder.processor.image_processor.size = {"height": 64, "width": 64}
    embedder.save_pretrained(tmp_path / "larger")
    again = MLLMEmbedder.from_pretrained(tmp_path / "larger", dtype="float32", device="cpu")
    picture = Path(__file__).parents[3] / "scripts/assets/sprites/apple.webp"
    with pytest.raises(ModelError, match="cannot take what its processor makes of the input"):
        again.encode([picture])
