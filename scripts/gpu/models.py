"""Qwen2-VL and Qwen3-VL of the published shape with random weights and a small tokenizer, made without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from mllm_embed.files import atomic_folder
from mllm_embed.model.processor_loading import without_video

from .sizes import Size

SHAPES = Path(__file__).resolve().parents[2] / "training" / "shapes"  # published values; their README has the sources
PUBLISHED = {"qwen2_vl": "Qwen--Qwen2-VL-2B-Instruct.json", "qwen3_vl": "Qwen--Qwen3-VL-2B-Instruct.json"}
_CLASSES = {"qwen2_vl": "Qwen2VL", "qwen3_vl": "Qwen3VL"}
_TOKENS = {
    "image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}  # fmt: skip
_TURNS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_model(kind: str, size: Size, folder: Path, device: torch.device) -> Path:
    """Save a model in bfloat16, where it is not there yet, and return its folder.

    Args:
        kind: a key of PUBLISHED.
        size: of the run.
        folder: the model's.
        device: where the weights are drawn: 2 billion take a CPU a minute.
    """
    import transformers

    if (folder / "config.json").is_file():
        return folder
    tokenizer = _tokenizer()
    config = transformers.AutoConfig.for_model(**_config(kind, size, tokenizer))
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    side = config.vision_config.patch_size * config.vision_config.spatial_merge_size
    pictures = transformers.Qwen2VLImageProcessorPil(
        patch_size=config.vision_config.patch_size, merge_size=config.vision_config.spatial_merge_size,
        temporal_patch_size=config.vision_config.temporal_patch_size,
        size={"shortest_edge": 4 * side**2, "longest_edge": size.pixels},
    )  # fmt: skip
    processor = without_video(getattr(transformers, f"{_CLASSES[kind]}Processor"))
    with atomic_folder(folder) as part:
        model.save_pretrained(part)
        processor(pictures, tokenizer, chat_template=_TEMPLATE).save_pretrained(part)
    return folder


def _config(kind: str, size: Size, tokenizer: Any) -> dict[str, Any]:
    """Return the values of a config: as published, with this tokenizer's ids, and what a size has otherwise."""
    values = json.loads((SHAPES / PUBLISHED[kind]).read_text(encoding="utf-8"))
    values |= {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in _TOKENS.items()}
    for part, other in size.layers.get(kind, {}).items():
        values[part] |= other
    return values


def _tokenizer() -> Any:
    """Return a byte-level BPE of the alphabet and Qwen's tokens of turns and pictures."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = ["describe this image in one word", "modify the image", "make the dog larger and the sky darker"]
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=[*_TURNS, *_TOKENS.values()], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    bpe.train_from_iterator(words, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=_TURNS[0], eos_token=_TURNS[2], extra_special_tokens=_TOKENS,
        chat_template=_TEMPLATE,
    )  # fmt: skip
