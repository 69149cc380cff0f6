"""Tiny random models on disk as their authors released them: names of tensors, pickles, configs, tokenizers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from families import SIZE, VISION

ROPE = {"short_factor": [1.0 + 0.05 * i for i in range(8)], "long_factor": [1.5 + i for i in range(8)]}
INSTRUCTCIR_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def tokenizer(special: list[str], start: str | None = None, template: str | None = None) -> Any:
    """Return a byte-level BPE with such special tokens, that begins texts with `start`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    bpe.train_from_iterator(["describe this image in one word", "modify the image", "red green blue"], trainer)
    if start:
        number = bpe.token_to_id(start)
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", pair=f"{start} $A {start} $B", special_tokens=[(start, number)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=start, pad_token=special[0], eos_token=special[0], chat_template=template
    )


def spread(model: torch.nn.Module, seed: int) -> None:
    """Give a model's weights values that tell inputs apart, and that half precision holds."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        values = torch.randn(parameter.shape) * 0.15 + (1 if parameter.dim() < 2 else 0)
        parameter.data = values.half().float()


def write_pickles(tensors: dict[str, Tensor], folder: Path, shards: int) -> None:
    """Write tensors to pytorch_model*.bin, with an index where there are several."""
    names = list(tensors)
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return
    places = {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        part = {name: tensors[name] for name in names[number::shards]}
        torch.save(part, folder / file)
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def instructcir(folder: Path, template: str = INSTRUCTCIR_TEMPLATE) -> Any:
    """Write InstructCIR's form: half precision in two pickles; return the model that its tensors were placed in by
    hand."""
    import transformers as t

    folder.mkdir(parents=True)
    words = tokenizer(["<|end|>", "<s>", "<|user|>", "<|assistant|>", "<image>"], "<s>", template)
    # what transformers 4 leaves out of a text_config are Llama's defaults: 32 heads, silu, a rope of base 10,000
    text = {
        "vocab_size": len(words), "hidden_size": 512, "intermediate_size": 64, "num_hidden_layers": 2,
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    vision = VISION | {"projection_dim": 16}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 4096, **ROPE}
    config = t.LlavaConfig(
        text_config=t.LlamaConfig(**text, num_attention_heads=32, rope_parameters=rope),
        vision_config=t.CLIPVisionConfig(**vision), image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=16, vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip
    model = t.LlavaForConditionalGeneration(config).eval()
    spread(model, 0)
    tensors = {}
    for name, tensor in model.state_dict().items():
        old = name.removeprefix("model.")
        old = re.sub(r"^language_model\.", "language_model.model.", old)
        old = re.sub(r"^lm_head\.", "language_model.lm_head.", old)
        old = re.sub(r"^vision_tower\.", "vision_tower.vision_model.", old)
        tensors[old] = tensor.half()
    tensors["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    write_pickles(tensors, folder, 2)
    text |= {
        "model_type": "phi3_llama", "rope_scaling": {"type": "longrope", **ROPE},
        "original_max_position_embeddings": 4096,
    }  # fmt: skip
    about = {
        "architectures": ["InstructCIRLlavaPhi35ForConditionalGeneration"], "model_type": "instructcir_llava_phi35",
        "text_config": text, "vision_config": {"model_type": "clip_vision_model", **vision}, "torch_dtype": "float16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(about))
    words.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "LlavaProcessor"}))
    pixels = t.CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    pixels.save_pretrained(folder)
    (folder / "modeling_llava.py").write_text("raise SystemExit('run')\n")
    return model


def llave(folder: Path) -> dict[str, Tensor]:
    """Write LLaVE's form: a SigLIP of 384 pixels without its last layer, an MLP and a Qwen2, in two files of
    safetensors; return its tensors."""
    import transformers as t
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    words = tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    text = {
        "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "tie_word_embeddings": False,
    }  # fmt: skip
    tower = t.SiglipVisionModel(
        t.SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=16,
            image_size=384,
            patch_size=14,
            vision_use_head=False,
        )
    )
    theta = {"rope_type": "default", "rope_theta": 1000000.0}
    language = t.Qwen2ForCausalLM(t.Qwen2Config(**{**text, "rope_theta": None}, rope_parameters=theta))
    spread(tower, 1)
    spread(language, 2)
    torch.manual_seed(3)
    start = "model.vision_tower.vision_tower.vision_model."
    tensors = {start + name.removeprefix("vision_model."): value for name, value in tower.state_dict().items()}
    tensors |= {
        "model.mm_projector.0.weight": torch.randn(32, 32) * 0.2, "model.mm_projector.0.bias": torch.randn(32) * 0.1,
        "model.mm_projector.2.weight": torch.randn(32, 32) * 0.2, "model.mm_projector.2.bias": torch.randn(32) * 0.1,
        "model.image_newline": torch.randn(32), **language.state_dict(),
    }  # fmt: skip
    tensors = {name: value.bfloat16() for name, value in tensors.items()}
    names = list(tensors)
    places = {}
    for number in range(2):
        file = f"model-{number + 1:05}-of-00002.safetensors"
        part = {name: tensors[name].clone() for name in names[number::2]}
        save_file(part, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    about = {
        "architectures": ["LlavaQwenForCausalLM"], "model_type": "llava_qwen", "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": "google/siglip-so400m-patch14-384", "mm_patch_merge_type": "spatial_unpad",
        "image_aspect_ratio": "anyres_max_9", "image_grid_pinpoints": "(1x1),...,(2x2)", "torch_dtype": "bfloat16",
        "mm_vision_select_layer": -2, **text,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(about))
    words.save_pretrained(folder)
    return {name: value.float() for name, value in tensors.items()}
