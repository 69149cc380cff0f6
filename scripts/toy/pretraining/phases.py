"""The phases of the toy's pretraining: seeing scenes, and answering questions about them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mllm_embed.model.devices import bfloat16_pays

from ..base_model import IMAGE_TOKENS, USER
from ..running import Figures
from ..scene_talk import ON_CAPTION, ON_PICTURE, Rows, Subjects, branches, given, mentions, questions
from ..scenes import Painter, Scene
from .heads import AimingHead, PointingHead, SeeingHead, binding_loss

SEEING_BATCH = 64
POINTING_LAYER = 1  # the second: the first has gathered the words of a noun in its last token
AIMING_LAYER = 2  # the third: what a noun brought back is there for the last token to take
RATE, PLACES_RATE = 1e-3, 1e-2
MATRIX_RATE = 2e-3


@dataclass(frozen=True)
class Toy:
    """What the phases share: the model in the making, its tokenizer, the painter, what may be shown, and the seed."""

    model: nn.Module
    tokenizer: Any
    painter: Painter
    subjects: Subjects
    seed: int

    def rng(self, phase: str, step: int) -> random.Random:
        """Return the source of all that is random in a step."""
        return random.Random(f"{self.seed}/{phase}/{step}")

    def pixels(self, scenes: list[Scene]) -> Tensor:
        """Return the scenes as the processor gives pictures [B, 3, H, W] float32."""
        pixels = np.stack([np.asarray(self.painter.paint(scene)) for scene in scenes])
        # SigLIP's processor scales to -1..1; the pictures have its size already
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1)

    def noun_vectors(self) -> dict[str, Tensor]:
        """Return each noun's embedding, the mean of its tokens', to aim at."""
        embedding = self.model.get_input_embeddings().weight.detach()
        ids = self.tokenizer([f" {noun}" for noun in self.painter.nouns], add_special_tokens=False)["input_ids"]
        return {noun: embedding[tokens].mean(0) for noun, tokens in zip(self.painter.nouns, ids, strict=True)}


class Seeing:
    """Vision tower and projector, on what the picture's tokens hold."""

    def __init__(self, toy: Toy, steps: int):
        self.toy, self.steps = toy, steps
        self._parts = toy.model.model
        self._parts.vision_tower.requires_grad_(True)
        self.heads = SeeingHead(self._parts.language_model.config.hidden_size, toy.painter.nouns)
        self._nouns = toy.noun_vectors()  # nothing moves them here

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return AdamW: the embedding of places is small, and at the rate of the rest it stays so."""
        tower = list(self._parts.vision_tower.named_parameters())
        places = [parameter for name, parameter in tower if "position_embedding" in name]
        rest = [parameter for name, parameter in tower if "position_embedding" not in name]
        others = [*rest, *self._parts.multi_modal_projector.parameters(), *self.heads.parameters()]
        return [adamw({"params": places, "lr": PLACES_RATE}, {"params": others, "lr": RATE})]

    def batch(self, step: int) -> tuple[list[Scene], Tensor]:
        """Return 64 scenes and their pixels."""
        rng = self.toy.rng("seeing", step)
        scenes = [self.toy.subjects.sample(rng) for _ in range(SEEING_BATCH)]
        return scenes, self.toy.pixels(scenes)

    def loss(self, batch: tuple[list[Scene], Tensor]) -> tuple[Tensor, Figures]:
        """Return the loss of the head and of binding; `named` is the share of things that are named rightly."""
        scenes, pixels = batch
        with autocast():
            patches = self._parts.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
            tokens = self._parts.multi_modal_projector(patches)
        seen, named = self.heads(tokens, scenes)
        bound = binding_loss(tokens, scenes, self._nouns)
        return seen + bound, {"named": named, "bound loss": bound.item()}


@dataclass
class Asked:
    """A batch of questions: its scenes, the pictures first; their pixels; the rows; and what `mentions` finds."""

    scenes: list[Scene]
    pixels: Tensor
    rows: Rows
    mentioned: Tensor


class Answering:
    """The language model and the projector, on questions about pictures and captions.

    Args:
        toy: what is trained, and on what.
        steps: how many.
        batch_size: scenes a step, half of them pictures, half captions.
        tokens: the most of a row.
        heads: whether an attention head is taught to point, and the last token of a question to know what is meant;
            else words alone teach, and the tower too.
    """

    def __init__(self, toy: Toy, steps: int, batch_size: int, tokens: int, heads: bool = True):
        self.toy, self.steps, self.with_heads = toy, steps, heads
        self._batch_size, self._tokens = batch_size, tokens
        self._parts, self._caught = toy.model.model, {}
        width = self._parts.language_model.config.hidden_size
        self.heads = nn.ModuleDict()
        if heads:
            self.heads.update({"pointing": PointingHead(width), "aiming": AimingHead(width)})
        self._parts.vision_tower.requires_grad_(not heads)  # with heads it sees all there is to see already
        start = len(toy.tokenizer(USER, add_special_tokens=False)["input_ids"])
        self._picture = slice(start, start + IMAGE_TOKENS)
        layer = self._parts.language_model.layers[POINTING_LAYER]
        self._parts.multi_modal_projector.register_forward_hook(lambda module, given, out: self._keep(tokens=out))
        layer.self_attn.register_forward_hook(lambda module, given, out: self._keep(attention=out[1]))
        layer.register_forward_hook(lambda module, given, out: self._keep(hidden=out))
        aiming = self._parts.language_model.layers[AIMING_LAYER]
        aiming.register_forward_hook(lambda module, given, out: self._keep(aiming=out))

    def _keep(self, **values: Tensor) -> None:
        self._caught.update(values)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return Muon for the matrices and AdamW for the rest."""
        trained = [p for p in self._parts.parameters() if p.requires_grad]
        embedding = self._parts.get_input_embeddings().weight
        matrices = [p for p in trained if p.ndim == 2 and p is not embedding]
        chosen = {id(p) for p in matrices}
        rest = [p for p in trained if id(p) not in chosen]
        muon = torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
        return [muon, adamw({"params": [*rest, *self.heads.parameters()], "lr": RATE})]

    def batch(self, step: int) -> Asked:
        """Return scenes with questions."""
        toy, rng = self.toy, self.toy.rng("answering", step)
        scenes = [toy.subjects.sample(rng) for _ in range(self._batch_size)]
        pictures = (self._batch_size + 1) // 2
        forms = [ON_PICTURE] * pictures + [ON_CAPTION] * (self._batch_size - pictures)
        begun = [given(scene, form, rng) for scene, form in zip(scenes, forms, strict=True)]
        talks = [list(questions(rng, scene, toy.subjects, form)) for scene, form in zip(scenes, forms, strict=True)]
        rows = branches(toy.tokenizer, begun, talks, self._tokens)
        found = mentions(toy.tokenizer, rows, scenes)
        return Asked(scenes, toy.pixels(scenes[:pictures]), rows, found[found[:, 0] < pictures])

    def loss(self, batch: Asked) -> tuple[Tensor, Figures]:
        """Return the loss of the answers, and with heads theirs and that of binding."""
        rows, pictures = batch.rows, len(batch.pixels)
        with autocast():
            inputs = {**rows.inputs, "pixel_values": batch.pixels, "use_cache": False}
            hidden = self._parts(**inputs).last_hidden_state
            asked = rows.labels[:, 1:] != -100
            logits = self.toy.model.lm_head(hidden[:, :-1][asked])
        wanted = rows.labels[:, 1:][asked]
        loss = F.cross_entropy(logits.float(), wanted)
        figures = {"answers loss": loss.item(), **exact(logits.argmax(-1) == wanted, rows, asked)}
        if not self.with_heads:
            return loss, figures
        bound = binding_loss(self._caught["tokens"], batch.scenes[:pictures], self.toy.noun_vectors())
        attention = self._caught["attention"][:, 0, :, self._picture]
        looked, read = self.heads["pointing"](self._caught["hidden"], attention, batch.mentioned)
        aim, aimed = self.heads["aiming"](self._caught["aiming"], rows.aimed)
        terms = {"bound": bound, "looked": looked, "read": read, "aim": aim}
        figures |= {f"{name} loss": value.item() for name, value in terms.items()}
        return loss + bound + 0.5 * (looked + read + aim), {**figures, "aimed": aimed}


def exact(right: Tensor, rows: Rows, asked: Tensor) -> Figures:
    """Return the share of answers whose every token is the likeliest, as greedy decoding would give them, by kind.

    right [N] bool, one for each True of asked [B, L - 1]: the tokens that are followed by one of an answer.
    """
    at, position = asked.nonzero().T
    wrong = torch.zeros(len(rows.segments), int(rows.segments.max()) + 1)
    wrong.index_put_((at, rows.segments[at, position + 1]), (~right).float(), accumulate=True)
    return shares("answer", [kind for *_, kind in rows.answered], [wrong[r, n] == 0 for r, n, _ in rows.answered])


def shares(name: str, kinds: list[str], right: list[bool]) -> Figures:
    """Return the share of what is right, for each kind: `NAME KIND`."""
    sums: dict[str, list[bool]] = {}
    for kind, one in zip(kinds, right, strict=True):
        sums.setdefault(f"{name} {kind}", []).append(bool(one))
    return {kind: sum(ones) / len(ones) for kind, ones in sums.items()}


def adamw(*groups: dict[str, Any]) -> torch.optim.Optimizer:
    """Return AdamW over groups of parameters with their rates."""
    return torch.optim.AdamW(list(groups), betas=(0.9, 0.98), weight_decay=0.02, fused=True)


def autocast() -> torch.autocast:
    """Return a context of bfloat16 on a CPU that has it, of float32 elsewhere."""
    return torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_pays(torch.device("cpu")))
