"""Tiny random models in the form in which embedders are published: a family's own classes, its tokenizer's way with
spaces, line breaks and start tokens, the spelling of its special tokens, and what its chat template renders."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import published_tokenizers as forms
import torch
from PIL import Image

from families import OMNI_TOKENS, SIZE, TEXT, VISION
from mllm_embed.model.processor_loading import without_video

_GRID = [[SIZE, 2 * SIZE], [2 * SIZE, SIZE], [2 * SIZE, 2 * SIZE]]


def make_published(kind: str, folder: Path, seed: int = 0) -> Path:
    """Save the tiny model of a kind (`KINDS`) as its publisher would; two seeds give two models."""
    make_tokenizer, build, template = _KINDS[kind]
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    model, processor = build(tokenizer, template)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            # transformers' small initial weights give nearly equal vectors for everything: nothing to test on
            torch.nn.init.normal_(parameter, std=0.15)
        elif "gate" in name:  # mllama's cross-attention starts switched off
            torch.nn.init.constant_(parameter, 0.7)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if kind in _OLDER:
        _write_older_files(kind, folder)
    return folder


def _write_older_files(kind: str, folder: Path) -> None:
    """Put the processor's settings where transformers 4 has them: what is for pictures and sounds into one file, the
    chat template into JSON."""
    file, template = folder / "processor_config.json", folder / "chat_template.jinja"
    settings = json.loads(file.read_text())
    its_class = {"processor_class": settings["processor_class"]}
    pixels = settings.pop("image_processor")
    pixels["image_processor_type"] = pixels["image_processor_type"].removesuffix("Pil")
    if "longest_edge" in pixels["size"]:
        size = pixels.pop("size")
        pixels |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    together = settings.pop("feature_extractor", {}) | pixels | its_class
    (folder / "preprocessor_config.json").write_text(json.dumps(together))
    file.write_text(json.dumps(settings))
    if settings == its_class:
        file.unlink()
    about = json.loads((folder / "tokenizer_config.json").read_text())
    about["tokenizer_class"] = _TOKENIZER_CLASSES.get(kind, about["tokenizer_class"])
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template.read_text()}))
    template.unlink()


def two_pictures() -> tuple[Image.Image, Image.Image]:
    """Pictures of odd sizes, one wide and one high."""
    noise, wide, high = np.random.default_rng(7), (83, 37), (41, 90)
    first, second = (noise.integers(0, 255, (height // 9, width // 9, 3)) for width, height in (wide, high))
    return (
        Image.fromarray(first.astype(np.uint8)).resize(wide),
        Image.fromarray(second.astype(np.uint8)).resize(high),
    )


# ---- models and their processors


def _text(config: Any, tokenizer: Any, **more: Any) -> Any:
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    return config(vocab_size=len(tokenizer), **ids, **TEXT | more)


def _qwen_vision(prefix: str) -> dict[str, Any]:
    more = {
        "Qwen2VL": {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2},
        "Qwen3VL": {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
    }.get(prefix, {"window_size": 32, "fullatt_block_indexes": [1]})
    merged = {} if prefix == "Qwen2VL" else {"intermediate_size": 64, "out_hidden_size": 64}
    return {
        "depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2, **merged, **more,
    }  # fmt: skip


_ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}


def _qwen_pixels() -> Any:
    import transformers as t

    return t.Qwen2VLImageProcessorPil(
        patch_size=8, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 512, "longest_edge": 4096}
    )


def _qwen_vl(prefix: str, tokenizer: Any, template: str) -> tuple[Any, Any]:
    import transformers as t

    more = {"head_dim": 16} if prefix == "Qwen3VL" else {}
    text = _text(getattr(t, f"{prefix}TextConfig"), tokenizer, rope_parameters=_ROPE, **more).to_dict()
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    ids = {f"{key}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for key, name in names.items()}
    config = getattr(t, f"{prefix}Config")(
        text_config=text, vision_config=_qwen_vision(prefix), tie_word_embeddings=True, **ids
    )
    processor = without_video(getattr(t, f"{prefix}Processor"))(_qwen_pixels(), tokenizer, chat_template=template)
    return getattr(t, f"{prefix}ForConditionalGeneration")(config), processor


def omni(tokenizer: Any, template: str) -> tuple[Any, Any]:
    import transformers as t

    audio = {
        "num_mel_bins": 8, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "d_model": 16,
        "max_source_positions": 20, "n_window": 4, "output_dim": 64,
    }  # fmt: skip
    names = {
        "audio_start": "audio_bos",
        "audio_end": "audio_eos",
        "vision_start": "vision_bos",
        "vision_end": "vision_eos",
    }
    ids = {f"{key}_token_id": getattr(tokenizer, f"{name}_token_id") for key, name in names.items()}
    places = {f"{key}_token_index": getattr(tokenizer, f"{key}_token_id") for key in ("image", "video", "audio")}
    config = t.Qwen2_5OmniThinkerConfig(
        text_config=_text(t.models.qwen2_5_omni.Qwen2_5OmniTextConfig, tokenizer, rope_parameters=_ROPE).to_dict(),
        vision_config=_qwen_vision("Qwen2_5Omni"), audio_config=audio, tie_word_embeddings=True, **ids, **places,
    )  # fmt: skip
    sounds = t.WhisperFeatureExtractor(feature_size=8, hop_length=160, chunk_length=1, n_fft=400)
    processor = without_video(t.Qwen2_5OmniProcessor)(
        image_processor=_qwen_pixels(), feature_extractor=sounds, tokenizer=tokenizer, chat_template=template
    )
    return t.Qwen2_5OmniThinkerForConditionalGeneration(config), processor


def _llava(text: str, more: dict[str, Any], tokenizer: Any, template: str) -> tuple[Any, Any]:
    import transformers as t

    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**VISION), text_config=_text(getattr(t, text), tokenizer, **more),
        image_token_index=tokenizer.image_token_id, image_seq_length=16, vision_feature_layer=-2,
        vision_feature_select_strategy="default", tie_word_embeddings=True,
    )  # fmt: skip
    pixels = t.CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    processor = t.LlavaProcessor(
        pixels, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=template,
    )  # fmt: skip
    # the text model's own template is the only one
    tokenizer.chat_template = template
    return t.LlavaForConditionalGeneration(config), processor


def _llava_next(text: str, tokenizer: Any, template: str) -> tuple[Any, Any]:
    import transformers as t

    config = t.LlavaNextConfig(
        vision_config=t.CLIPVisionConfig(**VISION), text_config=_text(getattr(t, text), tokenizer),
        image_token_index=tokenizer.image_token_id, image_grid_pinpoints=_GRID, vision_feature_layer=-2,
        tie_word_embeddings=True, image_seq_length=16,
    )  # fmt: skip
    pixels = t.LlavaNextImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}, image_grid_pinpoints=_GRID
    )
    processor = t.LlavaNextProcessor(
        pixels, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=template,
    )  # fmt: skip
    return t.LlavaNextForConditionalGeneration(config), processor


def _llava_onevision(tokenizer: Any, template: str) -> tuple[Any, Any]:
    import transformers as t

    config = t.LlavaOnevisionConfig(
        vision_config=t.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=_text(t.Qwen2Config, tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"), image_grid_pinpoints=_GRID,
        tie_word_embeddings=True,
    )  # fmt: skip
    pixels = t.LlavaOnevisionImageProcessorPil(size={"height": SIZE, "width": SIZE}, image_grid_pinpoints=_GRID)
    processor = without_video(t.LlavaOnevisionProcessor)(
        pixels, tokenizer, num_image_tokens=16, vision_feature_select_strategy="full", chat_template=template
    )
    return t.LlavaOnevisionForConditionalGeneration(config), processor


def _mllama(tokenizer: Any, template: str) -> tuple[Any, Any]:
    import transformers as t

    parts = t.models.mllama
    vision = parts.MllamaVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_global_layers=1, attention_heads=2,
        image_size=SIZE, patch_size=8, max_num_tiles=4, vision_output_dim=64, intermediate_layers_indices=[0],
        supported_aspect_ratios=[[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
    )  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    text = _text(parts.MllamaTextConfig, tokenizer, cross_attention_layers=[1], rope_parameters=rope)
    image = tokenizer.convert_tokens_to_ids("<|image|>")
    config = t.MllamaConfig(vision_config=vision, text_config=text, image_token_index=image)
    pixels = t.MllamaImageProcessorPil(size={"height": SIZE, "width": SIZE}, max_image_tiles=4)
    return t.MllamaForConditionalGeneration(config), t.MllamaProcessor(pixels, tokenizer, chat_template=template)


def embedding_gemma2(tokenizer: Any, template: None) -> tuple[Any, Any]:
    import transformers as t

    pixels = t.Gemma4ImageProcessorPil(patch_size=4, max_soft_tokens=70, pooling_kernel_size=3)
    processor = without_video(t.EmbeddingGemma2Processor)(
        feature_extractor=t.Gemma4AudioFeatureExtractor(), image_processor=pixels, tokenizer=tokenizer,
        video_processor=None, image_seq_length=70,
    )  # fmt: skip
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {
        "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 16, "patch_size": 4,
        "position_embedding_size": 256, "model_type": "gemma4_vision",
    }  # fmt: skip
    audio = {"subsampling_conv_channels": [8, 4], "output_proj_dims": 32, "model_type": "gemma4_audio"}
    text = _text(
        t.EmbeddingGemma2TextConfig, tokenizer, head_dim=16, global_head_dim=32, sliding_window=4,
        layer_types=["sliding_attention", "full_attention"], hidden_size_per_layer_input=64, embedding_dim=48,
    )  # fmt: skip
    names = {"boi_token_id": "boi", "eoi_token_id": "eoi", "image_token_id": "image", "boa_token_id": "boa",
             "eoa_token_index": "eoa", "audio_token_id": "audio"}  # fmt: skip
    ids = {key: getattr(tokenizer, f"{name}_token_id") for key, name in names.items()}
    config = t.EmbeddingGemma2Config(
        text_config=text, vision_config=small | vision, audio_config=small | audio,
        video_token_id=processor.video_token_id, **ids,
    )  # fmt: skip
    return t.EmbeddingGemma2Model(config), processor


_QWEN_MARKS = ("<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
_LONG = {
    "max_position_embeddings": 131072,
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 4096,
        "short_factor": [1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5], "long_factor": [1.0, 1.5, 2, 4, 8, 16, 32, 64],
    },
}  # fmt: skip
_QWEN = partial(forms.qwen, *_QWEN_MARKS)
# kind -> its tokenizer, the builder of its model and processor, its chat template
_KINDS: dict[str, tuple[Callable[[], Any], Callable[..., tuple[Any, Any]], str | None]] = {
    "qwen2_vl": (_QWEN, partial(_qwen_vl, "Qwen2VL"), forms.QWEN2_VL),
    "qwen2_5_vl": (_QWEN, partial(_qwen_vl, "Qwen2_5_VL"), forms.QWEN2_VL),
    "qwen3_vl": (_QWEN, partial(_qwen_vl, "Qwen3VL"), forms.QWEN3_VL),
    "qwen2_5_omni": (partial(forms.qwen, "<|im_start|>", **OMNI_TOKENS), omni, forms.QWEN2_5_OMNI),
    "llava_next_mistral": (forms.mistral, partial(_llava_next, "MistralConfig"), forms.LLAVA_MISTRAL),
    "llava_next_llama3": (
        partial(forms.llama3, "<pad>", "<image>", image_token="<image>"), partial(_llava_next, "LlamaConfig"),
        forms.LLAVA_LLAMA3,
    ),
    "llava_onevision_qwen2": (
        partial(forms.qwen, "<|im_start|>", "<image>", "<video>"), _llava_onevision, forms.LLAVA_ONEVISION
    ),
    "llava_phi3": (forms.phi3, partial(_llava, "LlamaConfig", _LONG), forms.PHI3),
    "mllama": (
        partial(forms.llama3, "<|finetune_right_pad_id|>", "<|python_tag|>", "<|image|>"), _mllama, forms.MLLAMA
    ),
    "embedding_gemma2": (forms.gemma, embedding_gemma2, None),
}  # fmt: skip
KINDS = tuple(_KINDS)
# published with transformers 4, which wrote a processor into other files
_OLDER = tuple(kind for kind in KINDS if kind != "embedding_gemma2")
# as their files name it; those of transformers 5 read another
_TOKENIZER_CLASSES = dict.fromkeys(("llava_next_mistral", "llava_phi3"), "LlamaTokenizer")
_TOKENIZER_CLASSES |= dict.fromkeys(("llava_next_llama3", "mllama"), "PreTrainedTokenizerFast")
