"""Adapters that others wrote with peft, around other classes and by older transformers: all of it is used, or it is
refused."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

import families
from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.errors import ModelError
from mllm_embed.model.adapter_names import place
from mllm_embed.model.lora import load_adapter

FILE, CONFIG = "adapter_model.safetensors", "adapter_config.json"
# as VLM2Vec gives them, with names of other families among them
TARGETS = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj", "k_proj", "q_proj", "out_proj", "v_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True, "target_modules": TARGETS},
    "rslora": {"use_rslora": True, "target_modules": "all-linear"},
    "pattern": {"target_modules": r".*layers\.\d+\.(self_attn\.q_proj|mlp\.up_proj)", "alpha_pattern": {"q_proj": 3}},
}


def _older(name: str) -> str:
    """The name of an adapter's tensor as transformers up to 4.51 had it."""
    bare = name.removeprefix("base_model.model.").removeprefix("model.")
    if bare.startswith("visual."):
        return f"base_model.model.{bare}"
    bare = re.sub(r"^language_model\.", "language_model.model.", bare)
    return "base_model.model." + re.sub(r"^vision_tower\.", "vision_tower.vision_model.", bare)


def _older_qwen(name: str) -> str:
    return _older(name).replace("language_model.model.", "model.")


OLDER = {"qwen2_vl": _older_qwen, "llava_next": _older}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("bases")
    return {family: families.make(family, home / family) for family in OLDER}


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


def _theirs(base: Path, folder: Path, **options: Any) -> Any:
    """An adapter around the model with a head, with weights that change every vector, saved by peft alone."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    whole = AutoModelForImageTextToText.from_pretrained(base)
    model = get_peft_model(whole, LoraConfig(r=4, lora_alpha=16, init_lora_weights="gaussian", **options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
        elif "magnitude" in name:
            parameter.data *= 1.2
    model.save_pretrained(folder, save_embedding_layers=False)
    return model.eval()


def _rename(folder: Path, change: Any) -> None:
    save_file({change(name): value for name, value in load_file(folder / FILE).items()}, folder / FILE)


def _change(folder: Path, **values: Any) -> None:
    config = folder / CONFIG
    config.write_text(json.dumps(json.loads(config.read_text()) | values))


def _load(base: Path | str, folder: Path) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(base, adapter=folder, dtype="float32", device="cpu")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", OLDER)
def test_vectors_are_those_of_peft_alone(
    bases: dict[str, Path], tmp_path: Path, picture: Path, family: str, kind: str
) -> None:
    """Merged and not, by the names of any transformers."""
    model = _theirs(bases[family], tmp_path / "new", **KINDS[kind])
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    _rename(tmp_path / "old", OLDER[family])
    inputs = [Document(picture), Query(picture, "at night"), Document(text="a red hat")]
    plain = MLLMEmbedder.from_pretrained(bases[family], dtype="float32", device="cpu")
    expected = []
    for one in inputs:
        batch = {key: value for key, value in plain.item_processor([one]).items() if key != "first_shown"}
        with torch.no_grad():
            states: Tensor = model.base_model.model.model(**batch).last_hidden_state
        expected.append(F.normalize(states[0, -1], dim=-1).numpy())
    assert np.abs(plain.encode(inputs) - np.stack(expected)).max() > 1e-2  # the adapter decides
    for name in ("new", "old"):
        embedder = _load(bases[family], tmp_path / name)
        np.testing.assert_allclose(embedder.encode(inputs), expected, atol=1e-5)
        np.testing.assert_allclose(embedder.merge_adapter().encode(inputs), expected, atol=1e-5)


@pytest.mark.parametrize("family", [family for family in families.FAMILIES if family != "embedding_gemma2"])
def test_every_layer_of_every_family_has_its_place(family: str) -> None:
    """By the names of a model with a head, today's and, of families that are old enough, those of before 4.52."""
    build, tokens, picture = families.FAMILIES[family]
    model, _ = build(families._tokenizer(tokens), None if picture is None else families._template(picture))
    layers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    names = [f"base_model.model.{name}.lora_A.weight" for name in layers if name != "lm_head"]
    expected = [name.replace("base_model.model.model.", "base_model.model.") for name in names]
    older = None if "omni" in family else _older_qwen if "qwen" in family else _older
    for change in filter(None, (str, older)):
        given = [change(name) for name in names]
        assert place(given, model.model, "a").names == dict(zip(given, expected, strict=True))


def test_an_adapter_finds_its_base_and_is_saved_as_ours(bases: dict[str, Path], tmp_path: Path) -> None:
    _theirs(bases["qwen2_vl"], tmp_path / "a", target_modules=r"model\.language_model\..*\.(q|v)_proj", use_dora=True)
    _rename(tmp_path / "a", _older_qwen)
    shutil.copy(bases["qwen2_vl"] / "config.json", tmp_path / "a")  # as VLM2Vec's folder has it
    embedder = MLLMEmbedder.from_pretrained(tmp_path / "a", dtype="float32", device="cpu")
    expected = embedder.encode(["a hat"])
    for merge in (False, True):
        embedder.save_pretrained(tmp_path / "b", merge=merge)
        again = MLLMEmbedder.from_pretrained(tmp_path / "b", dtype="float32", device="cpu")
        np.testing.assert_allclose(again.encode(["a hat"]), expected, atol=1e-5)
    load_adapter(plain := MLLMEmbedder.from_pretrained(bases["qwen2_vl"]).model, tmp_path / "a", trainable=True)
    trained = [name for name, parameter in plain.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 3 and all("language_model" in name for name in trained)


def test_a_trained_projector_and_an_output_layer(bases: dict[str, Path], tmp_path: Path) -> None:
    """The one is used, the other, which no vector comes from, left out with a word."""
    _theirs(bases["llava_next"], tmp_path / "a", target_modules=["q_proj", "lm_head"], modules_to_save=["linear_1"])
    tensors = load_file(tmp_path / "a" / FILE)
    saved = next(name for name in tensors if name.endswith("linear_1.weight"))
    tensors[saved] += 1
    save_file({_older(name): value for name, value in tensors.items()}, tmp_path / "a" / FILE)
    with pytest.warns(UserWarning, match="2 tensors of the adapter in .* are left out: they change the output layer"):
        embedder = _load(bases["llava_next"], tmp_path / "a")
    projector: Any = embedder.model.base.multi_modal_projector.linear_1
    torch.testing.assert_close(projector.modules_to_save["default"].weight, tensors[saved])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"rank_pattern": {r"model\.layers\.0\.self_attn\.q_proj": 4}},
            "rank_pattern in .* speaks of .* would be lost",
        ),
        ({"alpha_pattern": {"visual.blocks.0.attn.qkv": 3}}, "alpha_pattern in .* speaks of visual"),
        ({"target_modules": ["q_proj"]}, "holds more than its adapter_config.json takes"),
        ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, "asks for more than adapter_model.safetensors holds"),
        ({"base_model_name_or_path": "Qwen/Qwen2-VL-7B-Instruct"}, "was trained on Qwen/Qwen2-VL-7B-Instruct, not on"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    _theirs(bases["qwen2_vl"], tmp_path / "a", target_modules=["q_proj", "v_proj"])
    _rename(tmp_path / "a", _older_qwen)
    _change(tmp_path / "a", **change)
    base = "Qwen/Qwen2-VL-2B-Instruct" if "base_model_name_or_path" in change else bases["qwen2_vl"]
    with pytest.raises(ModelError, match=said) as caught:
        _load(base, tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_another_base_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    """By its modules, by their shapes, and where all that differs is the name, with a warning."""
    _theirs(bases["qwen2_vl"], tmp_path / "a", target_modules=["q_proj", "qkv", "up_proj"])
    with (
        pytest.warns(UserWarning, match="is the same model is not checked"),
        pytest.raises(
            ModelError, match=r"which has no model\.visual\.blocks\.0\.attn\.qkv: it belongs to another base"
        ),
    ):
        _load(bases["llava_next"], tmp_path / "a")
    _theirs(bases["qwen2_vl"], tmp_path / "b", target_modules=["k_proj"])
    wide = families.make("qwen2_vl", tmp_path / "wide")
    config = json.loads((wide / "config.json").read_text())
    config["text_config"]["num_key_value_heads"] = 4
    (wide / "config.json").write_text(json.dumps(config))
    tensors = load_file(wide / "model.safetensors")
    double = {name: torch.cat([v, v]) if re.search(r"layers.*\.[kv]_proj", name) else v for name, v in tensors.items()}
    save_file(double, wide / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(UserWarning), pytest.raises(ModelError, match=r"k_proj.*weight is \[32, 4\], here \[64, 4\]"):
        _load(wide, tmp_path / "b")
    copy = Path(shutil.copytree(bases["qwen2_vl"], tmp_path / "models--org--qwen2_vl/snapshots/abc"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        warnings.filterwarnings("ignore", "nothing says how")
        _load(copy, tmp_path / "b")


def test_a_tokenizer_beside_an_adapter(bases: dict[str, Path], tmp_path: Path) -> None:
    """Trainers save it without an image processor: the base's processor serves, as long as its tokens are the same."""
    base = bases["llava_next"]
    _theirs(base, tmp_path / "a", target_modules=["q_proj"])
    expected = _load(base, tmp_path / "a").encode(["a hat"])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, tmp_path / "a")
    np.testing.assert_array_equal(_load(base, tmp_path / "a").encode(["a hat"]), expected)
    words = json.loads((tmp_path / "a/tokenizer.json").read_text())
    words["added_tokens"].append(
        dict(words["added_tokens"][-1], id=words["added_tokens"][-1]["id"] + 1, content="<emb>")
    )
    (tmp_path / "a/tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(ModelError, match="its tokens or its chat template are not those of its base"):
        _load(base, tmp_path / "a")


def test_it_is_asked_as_its_base_or_its_preset_says_and_otherwise_a_warning_tells(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    _theirs(bases["qwen2_vl"], tmp_path / "a", target_modules=["q_proj"])
    with pytest.warns(UserWarning, match="nothing says how .*/a was trained to be asked: it is asked in InstructCIR's"):
        assert _load(bases["qwen2_vl"], tmp_path / "a").prompts.name == "instructcir"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "nothing says how")
        own = MLLMEmbedder.from_pretrained(bases["qwen2_vl"], preset="gme", pooling="mean", dtype="float32")
        own.save_pretrained(tmp_path / "base")
        on_own = _load(tmp_path / "base", tmp_path / "a")
        by_preset = MLLMEmbedder.from_pretrained(bases["qwen2_vl"], adapter=tmp_path / "a", preset="gme")
    assert on_own.prompts == own.prompts and on_own.settings.pooling == "mean" and by_preset.prompts == own.prompts
    on_own.save_pretrained(tmp_path / "again")
    again = MLLMEmbedder.from_pretrained(tmp_path / "again", dtype="float32")
    np.testing.assert_array_equal(again.encode(["a hat"]), on_own.encode(["a hat"]))


def test_an_adapter_on_the_hub_finds_its_base_there(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a cache as the hub's client fills it; the adapter names a revision of its base."""
    from huggingface_hub import constants

    _theirs(bases["qwen2_vl"], tmp_path / "a", target_modules=["q_proj"], revision="v1")
    expected = _load(bases["qwen2_vl"], tmp_path / "a").encode(["a hat"])
    _change(tmp_path / "a", base_model_name_or_path="org/base")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name, folder, branch in (("org/base", bases["qwen2_vl"], "v1"), ("me/lora", tmp_path / "a", "main")):
        place = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, place / "snapshots" / ("0" * 40))
        (place / "refs").mkdir()
        (place / "refs" / branch).write_text("0" * 40)
    embedder = MLLMEmbedder.from_pretrained("me/lora", dtype="float32", device="cpu")
    np.testing.assert_array_equal(embedder.encode(["a hat"]), expected)
    assert embedder.provenance["base"] == "0" * 40
