"""Models that cannot be loaded are answered by name, before anything is fetched; others are not taken for them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import families
from mllm_embed import MLLMEmbedder
from mllm_embed.cli import main
from mllm_embed.convert.forms import read_form
from mllm_embed.errors import ModelError
from mllm_embed.presets import catalog, unsupported

ALL = unsupported.all_unsupported()


@pytest.mark.parametrize("name", [name for one in ALL for name in one.names])
def test_each_is_answered_with_the_reason_and_a_cure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(*_: Any, **__: Any) -> None:
        raise AssertionError("something is fetched")

    monkeypatch.setattr("mllm_embed.encode.model_source.small_files", fetched)
    for given in (name, name.upper()):
        with pytest.raises(ModelError, match="cannot be loaded as it is") as caught:
            MLLMEmbedder.from_pretrained(given)
        said = str(caught.value)
        assert "\n" not in said and ("the nearest that works: " in said or "convert" in said)


def test_what_they_name_is_there() -> None:
    for one in ALL:
        assert one.why and one.source and bool(one.instead) != bool(one.convert), one
        assert not {name.lower() for name in one.names} & {word.strip(",;").lower() for word in one.instead.split()}
        if one.convert:
            form = read_form(one.convert)
            assert set(form.model_types) == set(one.model_types)
            assert catalog.preset(form.preset).loads == "after `mllm-embed convert`"
    published = {model.id.lower() for name in catalog.names() for model in catalog.preset(name).models}
    assert all(one.convert for one in ALL if published & {name.lower() for name in one.names})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "phi3_v"}, "Phi-3-V needs code of its own"),
        ({"model_type": "llava_qwen"}, "mllm-embed convert llave"),
        # a class of its own under the model_type of a stock one, which would load the weights and leave out the rest
        ({"model_type": "qwen2_5_vl", "architectures": ["JinaEmbeddingsV4Model"]}, "its adapters for tasks"),
        (
            {"model_type": "wemm", "auto_map": {"AutoConfig": "a.Config", "AutoModel": "modeling_wemm.WeMM"}},
            "family 'wemm', which is not supported .it needs code of its own, modeling_wemm.WeMM, and none is run",
        ),
    ],
)
def test_a_folder_is_known_by_its_config(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=said) as caught:
        MLLMEmbedder.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_code_beside_a_stock_class_is_not_needed_and_not_run(tmp_path: Path) -> None:
    """As BGE-VL-MLLM's folders have it."""
    plain = families.make("llava_next", tmp_path / "plain")
    folder = Path(shutil.copytree(plain, tmp_path / "with code"))
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"}
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["Model"], "auto_map": classes}))
    (folder / "modeling.py").write_text("raise SystemExit('run')\n")
    vectors = [MLLMEmbedder.from_pretrained(one, device="cpu").encode(["a hat"]) for one in (folder, plain)]
    np.testing.assert_array_equal(*vectors)


def test_the_base_of_an_adapter_is_asked_for_too(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": "microsoft/Phi-3.5-vision-instruct"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="microsoft/Phi-3.5-vision-instruct cannot be loaded as it is"):
        MLLMEmbedder.from_pretrained(tmp_path)


def test_the_command_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (([], "cannot be loaded"), (["--markdown"], "| cannot be loaded as it is |")):
        assert main(["presets", *words]) == 0
        lines = capsys.readouterr().out
        assert said in lines and "nvidia/MM-Embed" in lines and "mllm-embed convert llave" in lines
