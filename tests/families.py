"""Tiny random models of fourteen families, with the config and processor classes of the real ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mllm_embed.model.processor_loading import without_video

SIZE = 32
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": 8,
}


def make(family: str, folder: Path, seed: int = 0) -> Path:
    """Save the tiny model of a family; two seeds give two models."""
    build, tokens, picture = FAMILIES[family]
    tokenizer = _tokenizer(tokens)
    torch.manual_seed(seed)
    model, processor = build(tokenizer, None if picture is None else _template(picture))
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            # transformers' small initial weights give nearly equal vectors for everything: nothing to test on
            torch.nn.init.normal_(parameter, std=0.15)
        elif "gate" in name:  # mllama's cross-attention starts switched off
            torch.nn.init.constant_(parameter, 0.7)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _template(picture: str) -> str:
    return (
        "{% for m in messages %}<|{{ m.role }}|>{% for part in m.content %}{% if part.type == 'image' %}"
        + picture
        + "\n{% else %}{{ part.text }}{% endif %}{% endfor %}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )


def _tokenizer(tokens: dict[str, str]) -> Any:
    """A byte-level BPE in which `tokens` (attribute -> token) and the turns of a dialogue are special."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "<|end|>", "<|user|>", "<|assistant|>", *tokens.values()]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.train_from_iterator(
        ["describe this image in one word", "modify the image", "red green blue white black"],
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="<|end|>", extra_special_tokens=tokens
    )


def _text(config: type, tokenizer: Any, **more: Any) -> Any:
    return config(vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2, **TEXT, **more)


def _llava(tokenizer: Any, template: str) -> tuple[Any, Any]:
    import transformers as t

    vision = t.CLIPVisionConfig(**VISION)
    config = t.LlavaConfig(
        vision_config=vision, text_config=_text(t.LlamaConfig, tokenizer), image_seq_length=16,
        image_token_index=tokenizer.image_token_id,
        vision_feature_layer=-2, vision_feature_select_strategy="default", tie_word_embeddings=True,
    )  # fmt: skip
    pixels = t.CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    processor = t.LlavaProcessor(
        pixels, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=template,
    )  # fmt: skip
    return t.LlavaForConditionalGeneration(config), processor


def _vipllava(tokenizer: Any, template: str) -> tuple[Any, Any]:
    import transformers as t

    config = t.VipLlavaConfig(
        vision_config=t.CLIPVisionConfig(**VISION), text_config=_text(t.LlamaConfig, tokenizer), image_seq_length=16,
        image_token_index=tokenizer.image_token_id, vision_feature_layers=[-1, -2], tie_word_embeddings=True,
    )  # fmt: skip
    return t.VipLlavaForConditionalGeneration(config), _llava(tokenizer, template)[1]


def _llava_next(tokenizer: Any, template: str) -> tuple[Any, Any]:
    import transformers as t

    grid = [[SIZE, 2 * SIZE], [2 * SIZE, SIZE], [2 * SIZE, 2 * SIZE]]
    config = t.LlavaNextConfig(
        vision_config=t.CLIPVisionConfig(**VISION), text_config=_text(t.MistralConfig, tokenizer),
        image_token_index=tokenizer.image_token_id,
        image_grid_pinpoints=grid, vision_feature_layer=-2, tie_word_embeddings=True, image_seq_length=16,
    )  # fmt: skip
    pixels = t.LlavaNextImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}, image_grid_pinpoints=grid
    )
    processor = t.LlavaNextProcessor(
        pixels, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=template,
    )  # fmt: skip
    return t.LlavaNextForConditionalGeneration(config), processor


def _llava_onevision(tokenizer: Any, template: str) -> tuple[Any, Any]:
    import transformers as t

    grid = [[SIZE, 2 * SIZE], [2 * SIZE, SIZE], [2 * SIZE, 2 * SIZE]]
    config = t.LlavaOnevisionConfig(
        vision_config=t.SiglipVisionConfig(**VISION), text_config=_text(t.Qwen2Config, tokenizer),
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id, image_grid_pinpoints=grid, tie_word_embeddings=True,
    )  # fmt: skip
    pixels = t.LlavaOnevisionImageProcessorPil(size={"height": SIZE, "width": SIZE}, image_grid_pinpoints=grid)
    kind = without_video(t.LlavaOnevisionProcessor)
    processor = kind(
        pixels, tokenizer, num_image_tokens=16, vision_feature_select_strategy="full", chat_template=template
    )
    return t.LlavaOnevisionForConditionalGeneration(config), processor


def _idefics(prefix: str) -> Callable[..., Any]:
    def build(tokenizer: Any, template: str) -> tuple[Any, Any]:
        import transformers as t

        config = getattr(t, f"{prefix}Config")(
            vision_config=VISION, text_config=_text(t.LlamaConfig, tokenizer).to_dict(),
            image_token_id=tokenizer.image_token_id, scale_factor=2, tie_word_embeddings=True, pad_token_id=0,
        )  # fmt: skip
        pixels = getattr(t, f"{prefix}ImageProcessorPil")(
            size={"longest_edge": 2 * SIZE}, max_image_size={"longest_edge": SIZE}
        )
        kind = getattr(t, f"{prefix}Processor")
        if "video_processor" in kind.get_attributes():
            kind = partial(without_video(kind), video_processor=None)
        processor = kind(image_processor=pixels, tokenizer=tokenizer, image_seq_len=4, chat_template=template)
        return getattr(t, f"{prefix}ForConditionalGeneration")(config), processor

    return build


def _qwen2(prefix: str, vision: dict[str, Any]) -> Callable[..., Any]:
    def build(tokenizer: Any, template: str) -> tuple[Any, Any]:
        import transformers as t

        text = getattr(t, f"{prefix}TextConfig")
        more = {"head_dim": 16} if "head_dim" in text.__annotations__ else {}
        rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
        config = getattr(t, f"{prefix}Config")(
            text_config=_text(text, tokenizer, rope_parameters=rope, **more).to_dict(), vision_config=vision,
            image_token_id=tokenizer.image_token_id, video_token_id=tokenizer.video_token_id,
            vision_start_token_id=tokenizer.vision_start_token_id, vision_end_token_id=tokenizer.vision_end_token_id,
            tie_word_embeddings=True,
        )  # fmt: skip
        pixels = t.Qwen2VLImageProcessorPil(
            patch_size=8, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 512, "longest_edge": 4096}
        )
        kind = without_video(getattr(t, f"{prefix}Processor"))
        model = getattr(t, f"{prefix}ForConditionalGeneration")(config)
        return model, kind(pixels, tokenizer, chat_template=template)

    return build


def _paligemma(tokenizer: Any, template: None) -> tuple[Any, Any]:
    import transformers as t

    text = _text(t.GemmaConfig, tokenizer, head_dim=16)
    vision = t.SiglipVisionConfig(**VISION, vision_use_head=False)
    config = t.PaliGemmaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.image_token_id,
        projection_dim=64, hidden_size=64, vocab_size=len(tokenizer),
    )  # fmt: skip
    pixels = t.SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE})
    pixels.image_seq_length = 16
    return t.PaliGemmaForConditionalGeneration(config), t.PaliGemmaProcessor(pixels, tokenizer)


def _gemma3(tokenizer: Any, template: str) -> tuple[Any, Any]:
    import transformers as t

    text = _text(t.Gemma3TextConfig, tokenizer, head_dim=16, sliding_window=8, query_pre_attn_scalar=16,
                 layer_types=["sliding_attention", "full_attention"])  # fmt: skip
    config = t.Gemma3Config(
        text_config=text, vision_config=t.SiglipVisionConfig(**VISION, vision_use_head=False), mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id, eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )  # fmt: skip
    pixels = t.Gemma3ImageProcessorPil(size={"height": SIZE, "width": SIZE})
    processor = t.Gemma3Processor(pixels, tokenizer, image_seq_length=4, chat_template=template)
    return t.Gemma3ForConditionalGeneration(config), processor


def _internvl(tokenizer: Any, template: str) -> tuple[Any, Any]:
    import transformers as t

    vision = t.InternVLVisionConfig(**VISION | {"image_size": [SIZE, SIZE], "patch_size": [8, 8]})
    config = t.InternVLConfig(
        vision_config=vision, text_config=_text(t.Qwen2Config, tokenizer), image_seq_length=4,
        image_token_id=tokenizer.context_image_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    pixels = t.GotOcr2ImageProcessorPil(size={"height": SIZE, "width": SIZE}, crop_to_patches=True, max_patches=4)
    kind = without_video(t.InternVLProcessor)
    return t.InternVLForConditionalGeneration(config), kind(
        pixels, tokenizer, image_seq_length=4, chat_template=template
    )


def _mllama(tokenizer: Any, template: str) -> tuple[Any, Any]:
    import transformers as t

    tokenizer.add_tokens(["<|python_tag|>"], special_tokens=True)
    vision = t.models.mllama.MllamaVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_global_layers=1, attention_heads=2,
        image_size=SIZE, patch_size=8, max_num_tiles=4, vision_output_dim=64, intermediate_layers_indices=[0],
        supported_aspect_ratios=[[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
    )  # fmt: skip
    text = _text(t.models.mllama.MllamaTextConfig, tokenizer, cross_attention_layers=[1],
                 rope_parameters={"rope_type": "default", "rope_theta": 10000.0})  # fmt: skip
    config = t.MllamaConfig(vision_config=vision, text_config=text, image_token_index=tokenizer.image_token_id)
    pixels = t.MllamaImageProcessorPil(size={"height": SIZE, "width": SIZE}, max_image_tiles=4)
    return t.MllamaForConditionalGeneration(config), t.MllamaProcessor(pixels, tokenizer, chat_template=template)


def _published(name: str) -> Callable[..., Any]:
    def build(tokenizer: Any, template: str | None) -> tuple[Any, Any]:
        import published  # which imports this module

        return getattr(published, name)(tokenizer, template)

    return build


_QWEN_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
_QWEN_PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
_QWEN_VISION = {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2}
OMNI_TOKENS = {
    "image_token": "<|IMAGE|>", "audio_token": "<|AUDIO|>", "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>", "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>",
}  # fmt: skip
GEMMA4_TOKENS = {
    "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>",
    "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>",
}  # fmt: skip
_IDEFICS_TOKENS = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}
# family -> how it is built, its special tokens, and its picture in a chat template (None: it has no template)
FAMILIES: dict[str, tuple[Callable[..., Any], dict[str, str], str | None]] = {
    "llava": (_llava, {"image_token": "<image>"}, "<image>"),
    "llava_next": (_llava_next, {"image_token": "<image>"}, "<image>"),
    "llava_onevision": (_llava_onevision, {"image_token": "<image>", "video_token": "<video>"}, "<image>"),
    "idefics3": (_idefics("Idefics3"), _IDEFICS_TOKENS, "<image>"),
    "smolvlm": (_idefics("SmolVLM"), _IDEFICS_TOKENS, "<image>"),
    "qwen2_vl": (
        _qwen2("Qwen2VL", {**_QWEN_VISION, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}),
        _QWEN_TOKENS,
        _QWEN_PICTURE,
    ),
    "qwen2_5_vl": (
        _qwen2(
            "Qwen2_5_VL",
            {
                **_QWEN_VISION, "intermediate_size": 64, "out_hidden_size": 64, "window_size": 32,
                "fullatt_block_indexes": [1],
            },
        ),
        _QWEN_TOKENS,
        _QWEN_PICTURE,
    ),
    "qwen3_vl": (
        _qwen2(
            "Qwen3VL",
            {
                **_QWEN_VISION, "intermediate_size": 64, "out_hidden_size": 64, "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0, 1],
            },
        ),
        _QWEN_TOKENS,
        _QWEN_PICTURE,
    ),
    "paligemma": (_paligemma, {"image_token": "<image>"}, None),
    "gemma3": (
        _gemma3,
        {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
        "<start_of_image>",
    ),
    "internvl": (
        _internvl,
        {
            "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        "<IMG_CONTEXT>",
    ),
    "vipllava": (_vipllava, {"image_token": "<image>"}, "<image>"),
    "mllama": (_mllama, {"image_token": "<|image|>"}, "<|image|>"),
    "qwen2_5_omni_thinker": (_published("omni"), OMNI_TOKENS, "<|vision_bos|><|IMAGE|><|vision_eos|>"),
    "embedding_gemma2": (_published("embedding_gemma2"), GEMMA4_TOKENS, None),
}  # fmt: skip
