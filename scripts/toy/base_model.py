"""The architecture of the embedded base model: tokenizer, processor, and a small LLaVA with random weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

IMAGE_TOKENS = 36
SPECIAL = ("<pad>", "<s>", "<|user|>", "<|assistant|>", "<|end|>", "<image>")
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
USER, TURN = "<|user|>\n", "<|end|>\n<|assistant|>\n"
PICTURE = "<image>\n"


def build_tokenizer(corpus: Iterable[str]):
    """Return a byte-level BPE whose words are those of the corpus, so that a caption is about one token a word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=1024, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
        ),
    )
    return _for_transformers(bpe)


def load_tokenizer(folder: Path):
    """Return the tokenizer of a folder, as `build_tokenizer` made it: to save it again gives the same bytes."""
    from tokenizers import Tokenizer

    return _for_transformers(Tokenizer.from_file(str(folder / "tokenizer.json")))


def _for_transformers(bpe):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="<|end|>", padding_side="left",
        extra_special_tokens={"image_token": "<image>"}, chat_template=TEMPLATE, model_max_length=2048,
    )  # fmt: skip


def build_processor(tokenizer):
    """Return LLaVA's processor for the toy's pictures."""
    from transformers import LlavaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    images = SiglipImageProcessorPil(size={"height": 96, "width": 96})
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
        image_token="<image>",
    )


def build_model(tokenizer) -> torch.nn.Module:
    """Return a small LLaVA with random weights."""
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

    vision = SiglipVisionConfig(
        hidden_size=192, intermediate_size=768, num_hidden_layers=5, num_attention_heads=3, image_size=96, patch_size=16
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=704, num_hidden_layers=5, num_attention_heads=4,
        max_position_embeddings=2048, tie_word_embeddings=True, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1, vision_feature_select_strategy="full", image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    model.set_attn_implementation("eager")  # faster than SDPA under these masks on a CPU
    return model
