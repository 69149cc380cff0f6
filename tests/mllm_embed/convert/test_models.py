"""Released weights under names of other code, converted: the vectors are those of the tensors, placed by hand."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import released
from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.cli import main
from mllm_embed.commands import convert
from mllm_embed.convert.forms import FOLDER, Reader
from mllm_embed.errors import ModelError

SIZE = 384


def _load(folder: Path) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "wide.png"
    pixels = np.random.default_rng(0).integers(0, 255, (20, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((500, 200)).save(path)
    return path


@pytest.fixture(scope="module")
def instructcir(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """The released form, the converted one, and the model whose weights they hold."""
    home = tmp_path_factory.mktemp("instructcir")
    model = released.instructcir(home / "released")
    assert main(["convert", "instructcir", str(home / "released"), str(home / "converted")]) == 0
    return home / "released", home / "converted", model


def _reference(embedder: MLLMEmbedder, model: Any, prompt: str, picture: Path | None) -> Tensor:
    """One input through the model, its prompt as written here: start token, words, sixteen places for the picture."""
    tokenizer = embedder.processor.tokenizer
    ids = tokenizer(prompt.replace("<image>", "<image>" * 16), return_tensors="pt")["input_ids"]
    assert ids[0, 0] == tokenizer.bos_token_id and ids[0, 1] != tokenizer.bos_token_id
    shown = {}
    if picture:
        image = Image.open(picture).convert("RGB")
        shown["pixel_values"] = embedder.processor.image_processor([image], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return F.normalize(model.model(input_ids=ids, **shown).last_hidden_state[0, -1], dim=-1)


def test_instructcir_gives_the_vectors_of_its_tensors(instructcir: tuple[Path, Path, Any], picture: Path) -> None:
    _, folder, model = instructcir
    embedder = _load(folder)
    frame = "<|user|>\n{}<|end|>\n<|assistant|>\n"
    assert embedder.prompts.template == frame.format("{prompt}")  # the start token, which the tokenizer adds, cut off
    # generate_test_submission.py: a line break and a space in the one, neither in the other, and its spelling
    prompts = [
        ("<image>\n Describe this image in one word:", picture),
        ('<image>Modify this image with "at night", desribe modified image in one word:', picture),
        ("a hat\nSummary above sentence in one word:", None),
    ]
    expected = torch.stack([_reference(embedder, model, frame.format(words), image) for words, image in prompts])
    vectors = embedder.encode([picture, Query(picture, "at night"), "a hat"], convert_to="torch")
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=0)
    assert (vectors[0] - vectors[1]).abs().max() > 1e-3


def test_its_rope_and_its_tower_are_those_of_phi_and_clip(instructcir: tuple[Path, Path, Any]) -> None:
    """Written out, since the model that the test compares with is of the same class."""
    base = _load(instructcir[1]).model.base
    rope = base.language_model.rotary_emb
    assert rope.attention_scaling == pytest.approx(math.sqrt(1 + math.log(131072 / 4096) / math.log(4096)))
    steps = 10000.0 ** (-torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(rope.inv_freq, steps / torch.tensor(released.ROPE["short_factor"]))
    config = base.config
    assert (config.vision_feature_layer, config.vision_feature_select_strategy) == (-2, "default")
    assert config.vision_config.hidden_act == "quick_gelu" and config.text_config.rms_norm_eps == 1e-5


def test_instructcir_is_recognised_and_the_command_named(instructcir: tuple[Path, Path, Any]) -> None:
    with pytest.raises(ModelError, match="`mllm-embed convert instructcir .*released OUTPUT`") as caught:
        MLLMEmbedder.from_pretrained(instructcir[0])
    assert "\n" not in str(caught.value)


def test_what_no_file_says_is_told(
    instructcir: tuple[Path, Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    released.instructcir(tmp_path / "a", template=released.INSTRUCTCIR_TEMPLATE.replace("{{ bos_token }}", ""))
    config = tmp_path / "a/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vision_feature_layer": -1}))
    (tmp_path / "a/preprocessor_config.json").unlink()
    assert main(["convert", "instructcir", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    said = capsys.readouterr().err
    assert "vision_feature_select_strategy ('default' is taken)" in said and "vision_feature_layer" not in said
    assert "it has no preprocessor_config.json" in said
    # as the released code does it: three characters off what the template writes, whatever they are
    assert "cuts '<|u' off each prompt" in said
    assert json.loads((tmp_path / "b/mllm_embed.json").read_text())["prompts"]["template"].startswith("ser|>\n{prompt}")
    assert json.loads((tmp_path / "b/config.json").read_text())["vision_feature_layer"] == -1


@pytest.fixture(scope="module")
def llave(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Tensor]]:
    home = tmp_path_factory.mktemp("llave")
    tensors = released.llave(home / "released")
    assert main(["convert", "llave", str(home / "released"), str(home / "converted")]) == 0
    return home / "released", home / "converted", tensors


def _siglip(tensors: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """The states after the last layer that is kept, without the norm behind it: [tiles, 729, 32]."""
    at = {k.partition("vision_model.")[2]: v for k, v in tensors.items() if "vision_model." in k}
    patches = F.conv2d(
        pixels, at["embeddings.patch_embedding.weight"], at["embeddings.patch_embedding.bias"], stride=14
    )
    states = patches.flatten(2).transpose(1, 2) + at["embeddings.position_embedding.weight"]
    for layer in range(2):
        part = {k.removeprefix(f"encoder.layers.{layer}."): v for k, v in at.items()}

        def linear(x: Tensor, name: str, part: dict[str, Tensor] = part) -> Tensor:
            return F.linear(x, part[f"{name}.weight"], part[f"{name}.bias"])

        def norm(x: Tensor, name: str, part: dict[str, Tensor] = part) -> Tensor:
            return F.layer_norm(x, (32,), part[f"{name}.weight"], part[f"{name}.bias"], 1e-6)

        x = norm(states, "layer_norm1")
        q, k, v = (linear(x, f"self_attn.{n}_proj").unflatten(-1, (16, 2)).transpose(1, 2) for n in "qkv")
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        states = states + linear(x, "self_attn.out_proj")
        x = F.gelu(linear(norm(states, "layer_norm2"), "mlp.fc1"), approximate="tanh")
        states = states + linear(x, "mlp.fc2")
    return states


def _llave_picture(tensors: dict[str, Tensor], path: Path) -> Tensor:
    """The features of a picture of 500 x 200 pixels: two tiles of 384 beside each other, and the whole."""
    image = Image.open(path).convert("RGB")
    canvas = Image.new("RGB", (2 * SIZE, SIZE))
    canvas.paste(image.resize((768, 308)), (0, (SIZE - 308) // 2))  # 200 * 768 / 500 = 307.2, rounded up
    tiles = [image.resize((SIZE, SIZE)), *(canvas.crop((x, 0, x + SIZE, SIZE)) for x in (0, SIZE))]
    pixels = torch.stack([torch.tensor(np.asarray(tile)).permute(2, 0, 1) / 127.5 - 1 for tile in tiles])
    first, second = (
        (tensors[f"model.mm_projector.{n}.weight"], tensors[f"model.mm_projector.{n}.bias"]) for n in (0, 2)
    )
    whole, left, right = F.linear(F.gelu(F.linear(_siglip(tensors, pixels), *first)), *second)
    grid = torch.cat([left.unflatten(0, (27, 27)), right.unflatten(0, (27, 27))], 1)
    grid = grid[3:24]  # 200 * 54 / 500 = 21.6 rows, rounded down, hold the picture
    ends = tensors["model.image_newline"].expand(21, 1, 32)
    return torch.cat([whole, torch.cat([grid, ends], 1).flatten(0, 1)])


def _llave_reference(tensors: dict[str, Tensor], tokenizer: Any, prompt: str, picture: Path | None) -> Tensor:
    from transformers import Qwen2Config, Qwen2Model

    theta = {"rope_type": "default", "rope_theta": 1000000.0}
    language = Qwen2Model(
        Qwen2Config(
            vocab_size=len(tensors["model.embed_tokens.weight"]), hidden_size=32, intermediate_size=48,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6, rope_parameters=theta,
        )
    ).eval()  # fmt: skip
    own = {k.removeprefix("model."): v for k, v in tensors.items()}
    language.load_state_dict({name: own[name] for name in language.state_dict()})
    words = [
        language.embed_tokens(tokenizer(part, return_tensors="pt")["input_ids"][0]) for part in prompt.split("<image>")
    ]
    states = [words[0], _llave_picture(tensors, picture), words[1]] if picture else words
    with torch.no_grad():
        hidden = language(inputs_embeds=torch.cat(states)[None]).last_hidden_state
    return F.normalize(hidden[0, -1], dim=-1)


def test_llave_gives_the_vectors_of_its_tensors(llave: tuple[Path, Path, dict[str, Tensor]], picture: Path) -> None:
    """Against the arithmetic of its own code, written out: no class that the conversion aims at has a part in it."""
    _, folder, tensors = llave
    embedder = _load(folder)
    frame = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
        "<|im_start|>assistant\n\n<|im_end|>\n"
    )
    prompts = [
        ("<image> Represent the given image.", picture),
        ("<image> Represent the given image with the following question: at night", picture),
        ("a hat", None),
    ]
    tokenizer = embedder.processor.tokenizer
    expected = torch.stack([_llave_reference(tensors, tokenizer, frame.format(w), image) for w, image in prompts])
    vectors = embedder.encode([Document(picture), Query(picture, "at night"), "a hat"], convert_to="torch")
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=0)
    assert (vectors[0] - vectors[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "llava"}, "is no LLaVE: its model_type is 'llava', not 'llava_qwen'"),
        (
            {"mm_projector_type": "linear"},
            "mm_projector_type of .* is 'linear', which the stock class does not compute",
        ),
        ({"image_aspect_ratio": "pad"}, "only models with anyres_max_.d. are converted"),
        ({"mm_vision_tower": "openai/clip-vit-large-patch14-336"}, "mm_vision_tower of .* is 'openai"),
        ({"num_attention_heads": None}, "does not say num_attention_heads, which decides vectors"),
        ({"image_grid_pinpoints": "many"}, "image_grid_pinpoints in its config.json is 'many', not sizes of pictures"),
    ],
)
def test_what_the_stock_class_does_not_compute_is_refused(
    llave: tuple[Path, Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], config: dict[str, Any], said: str
) -> None:
    folder = Path(shutil.copytree(llave[0], tmp_path / "a"))
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(values))
    assert main(["convert", "llave", str(folder), str(tmp_path / "b")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and re.search(said, error[0]) and not (tmp_path / "b").exists()


def test_a_tensor_without_a_place_and_one_that_is_missing(
    instructcir: tuple[Path, Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (extra, without, said) in enumerate(
        [
            ("qformer.weight", "", "InstructCIR has no tensor qformer.weight"),
            ("", "embed_tokens", "the weights lack language_model.model.embed_tokens.weight"),
            ("", "patch_embedding", "the weights lack vision_tower.vision_model.embeddings.patch_embedding.weight"),
        ]
    ):
        folder = Path(shutil.copytree(instructcir[0], tmp_path / str(number)))
        for file in folder.glob("*.bin"):
            tensors = {name: value for name, value in torch.load(file).items() if not without or without not in name}
            torch.save(tensors | ({extra: torch.ones(2)} if extra and "00001" in file.name else {}), file)
        assert main(["convert", "instructcir", str(folder), str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_conversion_loads_in_stock_classes_and_is_not_replaced(
    llave: tuple[Path, Path, Any],
    instructcir: tuple[Path, Path, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from transformers import AutoModelForImageTextToText

    for kind, made in (("llave", llave), ("instructcir", instructcir)):
        assert main(["convert", kind, str(made[0]), str(tmp_path / kind)]) == 0
        assert main(["convert", kind, str(made[0]), str(tmp_path / kind)]) == 2
        assert "holds a saved model, which stays as it is" in capsys.readouterr().err
        _, found = AutoModelForImageTextToText.from_pretrained(tmp_path / kind, output_loading_info=True)
        assert not any(found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_the_command_knows_every_form() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} | {"adapter", "weights"} == set(convert._KINDS)


def test_sizes_of_pictures_keep_their_order() -> None:
    """Of two that waste alike the first is taken; ours are height and width, LLaVA-NeXT's width and height."""
    reader = Reader({"a": "(1x1),...,(2x3)", "b": "[(384, 768), (768, 384)]", "c": [[336, 672]]}, {}, None)
    read = [reader.value({"pinpoints": {"from": key}, "side": 384}) for key in "abc"]
    assert read[0] == [[384, 384], [768, 384], [1152, 384], [384, 768], [768, 768], [1152, 768]]
    assert read[1:] == [[[768, 384], [384, 768]], [[672, 336]]]
