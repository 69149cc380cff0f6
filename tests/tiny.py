"""A LLaVA of 150 thousand random parameters with real config, processor and tokenizer classes, and a folder of data."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{% for part in m.content %}"
    "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}{% endfor %}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
COLORS = ("red", "green", "blue", "white", "black", "orange", "purple", "yellow")


def make_tiny_llava(folder: Path, seed: int = 0, width: int = 64) -> Path:
    """Save the model; two seeds give two bases, `width` the length of their vectors."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import (
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
        SiglipVisionConfig,
    )
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<pad>", "<s>", "<|user|>", "<|assistant|>", "<|end|>", "<image>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    corpus = ["describe this image in one word", "modify the image", *COLORS]
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|end|>",
        extra_special_tokens={"image_token": "<image>"},
        chat_template=TEMPLATE,
    )
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="full", chat_template=TEMPLATE
    )
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=4,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=5,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            image_seq_length=16,
            tie_word_embeddings=True,
        )
    )
    # transformers' small initial weights give nearly equal vectors for everything: nothing to test on
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def give_words(folder: Path, words: list[str]) -> Path:
    """Add tokens to a saved model."""
    from transformers import AutoModelForImageTextToText

    from mllm_embed.model.processor_loading import load_processor

    processor, model = load_processor(str(folder)), AutoModelForImageTextToText.from_pretrained(folder)
    processor.tokenizer.add_tokens(words)
    model.resize_token_embeddings(len(processor.tokenizer))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_data(folder: Path, count: int = 8) -> Path:
    """Pictures of two coloured halves, with pairs.jsonl, triplets.jsonl and benchmark.json in the documented format."""
    (folder / "images").mkdir(parents=True)
    names = [(COLORS[i % 8], COLORS[(i * 3 + 1) % 8]) for i in range(count)]
    for number, (left, right) in enumerate(names):
        picture = Image.new("RGB", (32, 32), left)
        picture.paste(right, (16, 0, 32, 32))
        picture.save(folder / "images" / f"{number}.png")
    pairs = [
        {"id": f"p{i}", "image": f"images/{i}.png", "caption": f"{left} and {right} number {i}"}
        for i, (left, right) in enumerate(names)
    ]
    triplets = [
        {
            "id": f"t{i}",
            "image": f"images/{i // 2}.png",
            "instruction": f"make it like number {i}",
            "target_image": f"images/{(i + 3) % count}.png",
            "target_text": pairs[(i + 3) % count]["caption"],
            "source_text": pairs[i // 2]["caption"],
            "kind": ("odd", "even")[i % 2],
        }
        for i in range(count)
    ]
    gallery = [{"id": str(i), "image": f"images/{i}.png", "caption": pairs[i]["caption"]} for i in range(count)]
    queries = [
        {
            "id": f"q{i}",
            "image": f"images/{i}.png",
            "instruction": f"make it like number {i + 1}",
            "targets": [str((i + 1) % count)],
            "exclude": [str(i)],
            "kind": ("odd", "even")[i % 2],
        }
        for i in range(count)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    (folder / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in triplets))
    (folder / "benchmark.json").write_text(json.dumps({"name": "halves", "gallery": gallery, "queries": queries}))
    return folder
