"""Make the embedded base model: a small generative LLaVA that sees scenes, describes them and imagines changes.

    python scripts/pretrain_base.py --output runs/base

Two phases, since parts that can do nothing yet learn little from each other:

seeing     vision tower and projector, through throw-away heads on the picture's tokens: the thing in every cell and its
           size, the background, and the cell itself; and each thing's tokens are drawn to the embedding of its noun
answering  the whole model but for the tower, on questions. One attention head is drawn from each noun of a question to
           the cells where that noun is, and a throw-away head asks what it brought back: which cell, and what size

Without the cell the tokens forget where they are, and without the attention head no instruction finds the thing that it
names: answers alone taught the model to describe every test picture rightly, and to guess which thing was meant.

A run that was stopped goes on from where it last saved, every 200 steps, rounded to bfloat16, with a new
optimiser and new throw-away heads.
One scene serves several questions: their tokens stand in one row behind the scene's, and an attention mask keeps the
questions from seeing each other, so that the scene is computed once.
The result is a stock `LlavaForConditionalGeneration` folder of bfloat16 safetensors with processor and chat template.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from threading import Thread

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from make_scenes import MIN_NOUNS, UNSEEN, held_out_scenes
from mllm_embed.errors import ConfigError, DataError, user_errors
from mllm_embed.files import atomic_folder
from mllm_embed.inputs.prompts import PROMPT_SETS
from mllm_embed.model.devices import bfloat16_pays
from mllm_embed.saving.sentence_transformers_files import write_base_files
from toy.base_model import IMAGE_TOKENS, USER, build_model, build_processor, build_tokenizer, load_base
from toy.scene_talk import branches, corpus, mentions, questions
from toy.scenes import BACKGROUNDS, CELLS, SIZES, Painter, Scene, sample_scene

LOG = "pretraining.jsonl"
SEEING_BATCH = 64
LOG_EVERY, SAVE_EVERY = 50, 200  # steps
POINTING_LAYER = 1  # the second: the first has gathered the words of a noun in its last token
CELL_OF_TOKEN = torch.arange(9).view(3, 3).repeat_interleave(2, 0).repeat_interleave(2, 1).flatten()  # 36 patches


class Scenes:
    """Endless seeded scenes, none of them a test scene of the demo, with pixels as the processor makes them."""

    def __init__(self, painter: Painter, seed: str):
        self.painter, self.rng, self.forbidden = painter, random.Random(seed), held_out_scenes(painter.nouns)

    def sample(self, size: int) -> list[Scene]:
        """Return `size` scenes, none of them a test's."""
        scenes: list[Scene] = []
        while len(scenes) < size:
            scene = sample_scene(self.rng, self.painter.nouns)
            if scene not in self.forbidden:
                scenes.append(scene)
        return scenes

    def talks(self, scenes: list[Scene], edits: int) -> list[list[tuple[str, str]]]:
        """Return the questions on each scene, with their answers."""
        return [questions(self.rng, scene, self.painter.nouns, edits, self.forbidden) for scene in scenes]

    def pixels(self, scenes: list[Scene]) -> Tensor:
        """Return the scenes as the processor gives pictures [B, 3, H, W] float32."""
        pixels = np.stack([np.asarray(self.painter.paint(scene)) for scene in scenes])
        # SigLIP's processor scales to -1..1; the pictures have its size already
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1)


class SeeingHead(nn.Module):
    """A reader of the picture's tokens: the thing and size in each cell, the background, and each token's own cell.

    Throw-away, as `PointingHead` is. Both see tokens at one length, as the language model's RMSNorm does.
    """

    def __init__(self, width: int, nouns: list[str]):
        super().__init__()
        self.classes = {(noun, size): 1 + i for i, (noun, size) in enumerate((n, s) for n in nouns for s in SIZES)}
        self.things, self.ground = nn.Linear(width, 1 + len(self.classes)), nn.Linear(width, len(BACKGROUNDS))
        self.cell = nn.Linear(width, len(CELLS))

    def forward(self, tokens: Tensor, scenes: list[Scene]) -> tuple[Tensor, float]:
        """tokens [B, 36, W] -> loss, share of the things that are named rightly."""
        wanted = torch.zeros(len(scenes), len(CELLS), dtype=torch.long)
        for row, scene in enumerate(scenes):
            for thing in scene.things:
                wanted[row, thing.cell] = self.classes[thing.noun, thing.size]
        grounds = torch.tensor([list(BACKGROUNDS).index(scene.background) for scene in scenes])
        tokens = unit_rms(tokens)
        things = self.things(cells_of(tokens))
        cells = self.cell(tokens).flatten(0, 1)
        loss = 3 * F.cross_entropy(things.flatten(0, 1), wanted.flatten())
        loss = loss + F.cross_entropy(self.ground(tokens.mean(1)), grounds)
        loss = loss + F.cross_entropy(cells, CELL_OF_TOKEN.repeat(len(scenes)))
        return loss, (things.argmax(-1) == wanted)[wanted > 0].float().mean().item()


class PointingHead(nn.Module):
    """A reader of what a noun of a question brought back from the picture: the cell and the size of its thing."""

    def __init__(self, width: int):
        super().__init__()
        self.read = nn.Linear(width, len(CELLS) * len(SIZES))

    def forward(self, hidden: Tensor, attention: Tensor, mentioned: Tensor) -> tuple[Tensor, Tensor]:
        """hidden [B, L, W] after the layer whose head has `attention` [B, L, 36] over the picture's tokens.

        mentioned [M, 4] is what `mentions` gives. Returns two losses: where the head looks, and what was read.
        """
        rows, positions, cells, sizes = mentioned.T
        shares = 4 * cells_of(attention[rows, positions].float()[..., None]).squeeze(2)
        looked = -shares.gather(1, cells[:, None]).clamp_min(1e-6).log()
        read = F.cross_entropy(
            self.read(unit_rms(hidden[rows, positions])), cells * len(SIZES) + sizes, reduction="sum"
        )
        count = max(len(mentioned), 1)  # a small batch may name nothing
        return looked.sum() / count, read / count


def unit_rms(vectors: Tensor) -> Tensor:
    """Return the vectors [..., W] in float32 with a mean square of 1."""
    return F.rms_norm(vectors.float(), vectors.shape[-1:])


def cells_of(patches: Tensor) -> Tensor:
    """Return the mean of the four patches of every cell: [B, 36, W] -> [B, 9, W]."""
    return F.avg_pool2d(patches.transpose(1, 2).unflatten(2, (6, 6)), 2).flatten(2).transpose(1, 2)


def binding_loss(tokens: Tensor, scenes: list[Scene], nouns: dict[str, Tensor]) -> Tensor:
    """Return InfoNCE over all nouns of the picture's tokens [B, 36, W] with the embedding [W] of the noun shown."""
    number = {noun: at for at, noun in enumerate(nouns)}
    shown = [(row, thing.cell, number[thing.noun]) for row, scene in enumerate(scenes) for thing in scene.things]
    rows, cells, wanted = torch.tensor(shown).T
    seen = F.normalize(cells_of(tokens.float())[rows, cells], dim=1)
    return F.cross_entropy(seen @ F.normalize(torch.stack(list(nouns.values())).float(), dim=1).T / 0.07, wanted)


def ahead(batches: Iterator, depth: int = 4) -> Iterator:
    """Yield the same batches, prepared in a thread while the model computes."""
    queue: Queue = Queue(depth)

    def fill() -> None:
        try:
            for batch in batches:
                queue.put(batch)
        except BaseException as error:
            queue.put(error)

    Thread(target=fill, daemon=True).start()
    while True:
        batch = queue.get()
        if isinstance(batch, BaseException):
            raise batch
        yield batch


def schedule(step: int, steps: int, start: int, warmup: int = 200) -> float:
    """Return a cosine over all steps, with a warm-up from where the optimiser starts anew."""
    return min(1, (step - start + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * step / steps)))


def optimise(groups: list[dict], losses: Iterator, steps: int, start: int = 0) -> Iterator[dict]:
    """Run AdamW over `losses`, which yields (loss, figures to log); yields what is to be logged after each step."""
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    peaks = [group["lr"] for group in optimizer.param_groups]
    started, mean = time.time(), None
    for step in range(start, steps):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * schedule(step, steps, start)
        loss, figures = next(losses)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
        optimizer.step()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        seconds = round(time.time() - started)
        yield {"step": step + 1, "of": steps, "loss": round(mean, 4), **figures, "seconds": seconds}


class Pretraining:
    """The phases, each some parameters with a stream of losses; the model is saved as bfloat16."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.painter = args, Painter(args.sprites)
        chosen = {name: getattr(args, name) for name in ("seen", "pictures", "batch", "edits", "seed")}
        self.settings = {"settings": {**chosen, "nouns": self.painter.nouns}}
        self.log = self.earlier()
        torch.manual_seed(args.seed)
        if self.log:
            self.processor, self.model = load_base(args.output)
        else:
            self.processor = build_processor(build_tokenizer(corpus(self.painter.nouns)))
            self.model = build_model(self.processor.tokenizer)
        self.tokenizer = self.processor.tokenizer
        self.model.train()

    def run(self) -> None:
        """Run both phases, or what of them an earlier run has left."""
        phases = {"seeing": self.args.seen // SEEING_BATCH, "answering": self.args.pictures // self.args.batch}
        done = {row["phase"]: row["step"] for row in self.log}
        for number, (name, steps) in enumerate(phases.items()):
            start = done.get(name, 0)
            torch.manual_seed(self.args.seed + number)
            self.scenes = Scenes(self.painter, f"{self.args.seed}/{name}/{start}")
            for row in optimise(*getattr(self, name)(), steps, start) if start < steps else ():
                if row["step"] % LOG_EVERY == 0 or row["step"] == steps:
                    self.log.append({"phase": name, **row})
                    print(json.dumps(self.log[-1]), flush=True)
                if row["step"] % SAVE_EVERY == 0 or row["step"] == steps:
                    self.save()

    def earlier(self) -> list[dict]:
        """Return the log of an earlier run in the output folder, which goes on; none for a new or empty folder."""
        output, log = self.args.output, self.args.output / LOG
        if not log.is_file():
            if output.exists() and (not output.is_dir() or any(output.iterdir())):
                raise DataError(f"--output {output} holds other files, which saving would remove; give a new folder")
            return []
        try:
            settings, *rows = (json.loads(line) for line in log.read_text().splitlines())
        except ValueError as error:
            raise DataError(f"{log} is damaged ({error}); give a new folder") from error
        if settings != self.settings:
            raise ConfigError(f"--output {output} was made with other options or sprites; give a new folder")
        return rows

    def save(self) -> None:
        """Write model and log to the output folder, in one step."""
        with atomic_folder(self.args.output) as folder:
            copy.deepcopy(self.model).to(torch.bfloat16).save_pretrained(folder)
            self.processor.save_pretrained(folder)
            write_base_files(folder, PROMPT_SETS["instructcir"])
            (folder / LOG).write_text("".join(json.dumps(row) + "\n" for row in (self.settings, *self.log)))

    def seeing(self) -> tuple[list[dict], Iterator]:
        """Train vision tower and projector on what the picture's tokens hold."""
        parts = self.model.model
        head, nouns = SeeingHead(parts.language_model.config.hidden_size, self.painter.nouns), self.nouns()

        def losses() -> Iterator:
            while True:
                batch = self.scenes.sample(SEEING_BATCH)
                with autocast():
                    patches = parts.vision_tower(self.scenes.pixels(batch), output_hidden_states=True).hidden_states[-1]
                    tokens = parts.multi_modal_projector(patches)
                seen, right = head(tokens, batch)
                bound = binding_loss(tokens, batch, nouns)
                yield seen + bound, {"named": round(right, 3), "bound": round(bound.item(), 4)}

        places = [p for name, p in parts.vision_tower.named_parameters() if "position_embedding" in name]
        rest = [p for name, p in parts.vision_tower.named_parameters() if "position_embedding" not in name]
        # the embedding of places is small, and at the rate of the rest it stays so
        others = [*rest, *parts.multi_modal_projector.parameters(), *head.parameters()]
        return [{"params": places, "lr": 1e-2}, {"params": others, "lr": 1e-3}], losses()

    def answering(self) -> tuple[list[dict], Iterator]:
        """Train all but the tower on questions."""
        parts, caught = self.model.model, {}
        head = PointingHead(parts.language_model.config.hidden_size)
        layer = parts.language_model.layers[POINTING_LAYER]
        parts.vision_tower.requires_grad_(False)  # it sees all there is to see
        parts.multi_modal_projector.register_forward_hook(lambda module, given, out: caught.update(tokens=out))
        layer.self_attn.register_forward_hook(lambda module, given, out: caught.update(attention=out[1]))
        layer.register_forward_hook(lambda module, given, out: caught.update(hidden=out))
        picture = slice(start := len(self.tokenizer(USER, add_special_tokens=False)["input_ids"]), start + IMAGE_TOKENS)

        def losses() -> Iterator:
            for batch, pixels, rows in ahead(self.batches()):
                mentioned = mentions(self.tokenizer, rows, batch)
                answers = self.answers(pixels, rows)
                bound = binding_loss(caught["tokens"], batch, self.nouns())
                looked, read = head(caught["hidden"], caught["attention"][:, 0, :, picture], mentioned)
                figures = {"answers": answers, "bound": bound, "looked": looked, "read": read}
                loss = answers + bound + 0.5 * looked + 0.5 * read
                yield loss, {name: round(value.item(), 4) for name, value in figures.items()}

        rest = [*parts.language_model.parameters(), *parts.multi_modal_projector.parameters()]
        return [{"params": [*rest, *head.parameters()], "lr": 1e-3}], losses()

    def nouns(self) -> dict[str, Tensor]:
        """Return each noun's embedding, the mean of its tokens', to aim at."""
        embedding = self.model.get_input_embeddings().weight.detach()
        ids = self.tokenizer([f" {noun}" for noun in self.painter.nouns], add_special_tokens=False)["input_ids"]
        return {noun: embedding[tokens].mean(0) for noun, tokens in zip(self.painter.nouns, ids, strict=True)}

    def batches(self) -> Iterator[tuple[list[Scene], Tensor, dict]]:
        """Yield scenes, their pixels, and rows of questions on them."""
        while True:
            batch = self.scenes.sample(self.args.batch)
            yield batch, self.scenes.pixels(batch), branches(self.tokenizer, self.scenes.talks(batch, self.args.edits))

    def answers(self, pixels: Tensor, rows: dict) -> Tensor:
        """Return the loss of the answers."""
        labels = rows.pop("labels")
        with autocast():
            hidden = self.model.model(pixel_values=pixels, use_cache=False, **rows).last_hidden_state
            asked = labels[:, 1:] != -100
            logits = self.model.lm_head(hidden[:, :-1][asked])
        return F.cross_entropy(logits.float(), labels[:, 1:][asked])


def autocast() -> torch.autocast:
    """Return a context of bfloat16 on a CPU that has it, of float32 elsewhere."""
    return torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_pays(torch.device("cpu")))


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).parent / "assets"
    parser.add_argument("--sprites", type=Path, default=here / "sprites", help="cut-outs named by noun")
    parser.add_argument("--output", type=Path, required=True, help="folder for the model; a stopped run there goes on")
    parser.add_argument("--seen", type=int, default=80_000, help="pictures of `seeing`")
    parser.add_argument("--pictures", type=int, default=64_000, help="pictures of `answering`")
    parser.add_argument("--batch", type=int, default=32, help="pictures a step of `answering`")
    parser.add_argument("--edits", type=int, default=3, help="changes to imagine on each picture")
    parser.add_argument("--seed", type=int, default=0, help="of weights and scenes")
    args = parser.parse_args()
    for name, least in {"batch": 1, "seen": SEEING_BATCH, "pictures": max(args.batch, 1), "edits": 0}.items():
        if getattr(args, name) < least:
            raise ConfigError(f"--{name} must be at least {least}, not {getattr(args, name)}")
    if not args.sprites.is_dir() or len(Painter(args.sprites).nouns) < UNSEEN + MIN_NOUNS:
        raise DataError(f"--sprites {args.sprites} must be a folder with at least {UNSEEN + MIN_NOUNS} cut-outs")
    Pretraining(args).run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
