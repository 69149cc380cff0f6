"""What an adapter trains, and what stays frozen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mllm_embed import Document, MLLMEmbedder
from mllm_embed.errors import ModelError
from mllm_embed.model.lora import LoraSpec, add_lora, load_adapter


@pytest.mark.parametrize("projector", [True, False])
def test_only_the_language_model_and_the_projector_train(embedder: MLLMEmbedder, projector: bool) -> None:
    add_lora(embedder.model, LoraSpec(rank=4, projector=projector), embedder.family)
    trained = {name for name, p in embedder.model.named_parameters() if p.requires_grad}
    lora = {name for name in trained if "lora_" in name}
    assert len(lora) == 2 * 7 * 2  # layers x linear layers x (A, B)
    assert all("language_model" in name for name in lora)
    assert all("multi_modal_projector" in name for name in trained - lora)
    assert bool(trained - lora) == projector
    assert not any("vision_tower" in name for name in trained)


def test_gradients_reach_the_adapter_and_nothing_else(embedder: MLLMEmbedder, data: Path) -> None:
    add_lora(embedder.model, LoraSpec(rank=4, dropout=0.0), embedder.family)
    embedder.model.train()
    batch = embedder.item_processor([Document(image=data / "images/0.png"), Document(image=data / "images/1.png")])
    vectors = embedder.model(**batch)
    (vectors[0] @ vectors[1]).backward()
    gradients = {name: p.grad for name, p in embedder.model.named_parameters() if p.grad is not None}
    assert gradients and all("lora_" in name or "projector" in name for name in gradients)
    assert any(g.abs().max() > 0 for name, g in gradients.items() if "lora_B" in name)


def test_gradient_checkpointing_changes_no_gradient(tiny_llava: Path, data: Path) -> None:
    def gradients(checkpointed: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        embedder = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32")
        add_lora(embedder.model, LoraSpec(rank=4, dropout=0.1), embedder.family)
        for name, p in embedder.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.1)
        if checkpointed:
            embedder.model.gradient_checkpointing_enable()
        embedder.model.train()
        vectors = embedder.model(**embedder.item_processor([Document(text="a red hat"), Document(text="a blue hat")]))
        (vectors[0] @ vectors[1]).backward()
        return [p.grad for n, p in embedder.model.named_parameters() if "lora_" in n]

    plain, checkpointed = gradients(False), gradients(True)
    assert all(torch.equal(a, b) for a, b in zip(plain, checkpointed, strict=True))
    assert any(g.abs().max() > 0 for g in plain)


def test_an_empty_folder_is_no_adapter(embedder: MLLMEmbedder, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no adapter"):
        load_adapter(embedder.model, tmp_path)


@pytest.mark.parametrize("reentrant", [False, True])
def test_trainer_trains_it_with_gradient_checkpointing(
    embedder: MLLMEmbedder, data: Path, tmp_path: Path, reentrant: bool
) -> None:
    from transformers import Trainer, TrainingArguments

    class Together(Trainer):
        def compute_loss(self, model: torch.nn.Module, inputs: dict, **_: object) -> torch.Tensor:
            vectors = model(**inputs)
            return (vectors @ vectors.T).mean()

    add_lora(embedder.model, LoraSpec(rank=4), embedder.family)
    before = {name: p.detach().clone() for name, p in embedder.model.named_parameters()}
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, learning_rate=1e-2, use_cpu=True, report_to=[], save_strategy="no",
        remove_unused_columns=False, gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": reentrant},
    )  # fmt: skip
    rows = [Document(image=data / f"images/{i}.png") for i in range(4)]
    Together(model=embedder.model, args=arguments, train_dataset=rows, data_collator=embedder.item_processor).train()
    changed = {name for name, p in embedder.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name, p in embedder.model.named_parameters() if p.requires_grad}


def test_gradient_checkpointing_asks_the_frozen_vision_tower_for_nothing(embedder: MLLMEmbedder, data: Path) -> None:
    add_lora(embedder.model, LoraSpec(rank=4), embedder.family)
    embedder.model.gradient_checkpointing_enable()
    seen = []
    embedder.model.base.vision_tower.register_forward_hook(lambda module, given, out: seen.append(out))
    embedder.model.train()(**embedder.item_processor([Document(image=data / "images/0.png")]))
    assert not seen[0].last_hidden_state.requires_grad
