"""Make the embedded base model: a small generative LLaVA that sees scenes, describes them and imagines changes.

    python scripts/pretrain_base.py --output base

Four phases, since parts that can do nothing yet learn little from each other:

seeing    the vision tower, through a throw-away head that names the thing in every cell, its size, and the background
reading   the language model, on scenes whose caption stands in the picture's place: what a noun in an instruction has
          to do with the same noun in an answer (on pictures alone it learned to describe them, and never that)
telling   the whole model, on pictures
binding   likewise, while the picture's tokens are drawn to the embedding of the noun that they show: what "the drum" of
          an instruction is in the picture (after `telling` the model named every thing, and found none that was named)

A run that was stopped goes on with the first phase that is not finished.
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
from torch.nn import functional as F

from make_scenes import held_out_scenes
from mllm_embed.files import atomic_folder
from scenes import BACKGROUNDS, CELLS, SIZES, Painter, Scene, article, caption, place, sample_edit, sample_scene

SPECIAL = ("<pad>", "<s>", "<|user|>", "<|assistant|>", "<|end|>", "<image>")
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
USER, TURN = "<|user|>\n", "<|end|>\n<|assistant|>\n"
PICTURE = "<image>\n"
LOG = "pretraining.jsonl"
NUMBERS = ("no things", "one thing", "two things", "three things")


def questions(
    rng: random.Random, scene: Scene, nouns: list[str], count: int, forbidden: set[Scene] = frozenset()
) -> list[tuple[str, str]]:
    """`count` (question, answer) pairs on one picture; most ask for the picture after a change, never for a test's."""
    pairs = [(rng.choice(("Describe this image.", "What does the image show?")), caption(scene))]
    while len(pairs) < count:
        edit = sample_edit(rng, scene, nouns)
        if rng.random() < 0.25 or edit.result in forbidden:
            pairs.append(_fact(rng, scene, nouns))
            continue
        ask = rng.choice(
            ('Modify this image with "{}", describe modified image.', "After this change: {}. What is shown?")
        )
        pairs.append((ask.replace("{}", edit.instruction), caption(edit.result)))
    return pairs


def _fact(rng: random.Random, scene: Scene, nouns: list[str]) -> tuple[str, str]:
    thing = rng.choice(scene.things)
    cell = rng.choice([thing.cell, rng.randrange(len(CELLS))])
    there = next((t for t in scene.things if t.cell == cell), None)
    return rng.choice(
        (
            (f"What is {place(cell)}?", article(f"{there.size} {there.noun}") if there else "nothing"),
            (f"Where is the {thing.noun}?", place(thing.cell)),
            (f"Is the {thing.noun} large or small?", thing.size),
            ("How many things are there?", NUMBERS[len(scene.things)]),
            ("What is the background?", scene.background),
        )
    )


def build_tokenizer(nouns: list[str]):
    """A byte-level BPE whose words are those of the scenes, so that a caption is about one token a word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rng, corpus = random.Random(0), []
    for _ in range(20_000):
        scene = sample_scene(rng, nouns)
        corpus += [text for pair in questions(rng, scene, nouns, 3) for text in pair] + [caption(scene, rng)]
    corpus += ["Describe this image in one word: Summary above sentence in one word: describe modified image"] * 2000
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
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="<|end|>", padding_side="left",
        extra_special_tokens={"image_token": "<image>"}, chat_template=TEMPLATE, model_max_length=2048,
    )  # fmt: skip


def build_processor(tokenizer):
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
        vision_feature_layer=-1, vision_feature_select_strategy="full", image_seq_length=36, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    model.set_attn_implementation("eager")  # faster than SDPA under these masks on a CPU
    return model


class Scenes:
    """Endless seeded scenes, none of them a test scene of the demo, with pixels as the processor makes them."""

    def __init__(self, painter: Painter, seed: int):
        self.painter, self.rng, self.forbidden = painter, random.Random(seed), held_out_scenes(painter.nouns)

    def sample(self, size: int) -> list[Scene]:
        scenes: list[Scene] = []
        while len(scenes) < size:
            scene = sample_scene(self.rng, self.painter.nouns)
            if scene not in self.forbidden:
                scenes.append(scene)
        return scenes

    def talks(self, scenes: list[Scene], count: int) -> list[list[tuple[str, str]]]:
        return [questions(self.rng, scene, self.painter.nouns, count, self.forbidden) for scene in scenes]

    def pixels(self, scenes: list[Scene]) -> torch.Tensor:
        pixels = np.stack([np.asarray(self.painter.paint(scene)) for scene in scenes])
        # SigLIP's processor scales to -1..1; the pictures have its size already
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1)


class SeeingHead(torch.nn.Module):
    """The throw-away head of `seeing`: for each cell the thing and its size (or nothing), and the background."""

    def __init__(self, width: int, nouns: list[str]):
        super().__init__()
        self.classes = {(noun, size): 1 + i for i, (noun, size) in enumerate((n, s) for n in nouns for s in SIZES)}
        self.cells, self.ground = (
            torch.nn.Linear(width, 1 + len(self.classes)),
            torch.nn.Linear(width, len(BACKGROUNDS)),
        )

    def forward(self, patches: torch.Tensor, scenes: list[Scene]) -> tuple[torch.Tensor, float]:
        """patches [B, 36, W] -> loss, share of the things that are named rightly."""
        wanted = torch.zeros(len(scenes), len(CELLS), dtype=torch.long)
        for row, scene in enumerate(scenes):
            for thing in scene.things:
                wanted[row, thing.cell] = self.classes[thing.noun, thing.size]
        grounds = torch.tensor([list(BACKGROUNDS).index(scene.background) for scene in scenes])
        logits = self.cells(cells_of(patches)).float()
        loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten()) * 3 + F.cross_entropy(
            self.ground(patches.mean(1)).float(), grounds
        )
        taken = wanted > 0
        return loss, (logits.argmax(-1) == wanted)[taken].float().mean().item()


def cells_of(patches: torch.Tensor) -> torch.Tensor:
    """Patches [B, 36, W] -> the mean of the four of every cell [B, 9, W]."""
    return F.avg_pool2d(patches.transpose(1, 2).unflatten(2, (6, 6)), 2).flatten(2).transpose(1, 2)


def binding_loss(tokens: torch.Tensor, scenes: list[Scene], nouns: dict[str, torch.Tensor]) -> torch.Tensor:
    """How far the picture's tokens [B, 36, W] are from the embedding [W] of the noun shown: InfoNCE over all nouns."""
    number = {noun: at for at, noun in enumerate(nouns)}
    shown = [(row, thing.cell, number[thing.noun]) for row, scene in enumerate(scenes) for thing in scene.things]
    rows, cells, wanted = torch.tensor(shown).T
    seen = F.normalize(cells_of(tokens.float())[rows, cells], dim=1)
    return F.cross_entropy(seen @ F.normalize(torch.stack(list(nouns.values())).float(), dim=1).T / 0.07, wanted)


def branches(tokenizer, talks: list[list[tuple[str, str]]], scenes: list[str] | None = None) -> dict[str, torch.Tensor]:
    """Rows [scene | question, answer | question, answer ...] with a mask that parts the questions.

    `scenes` are the words that stand for each row's scene, by default those of a picture. Returns input_ids,
    position_ids, labels [B, L] (labels -100 outside answers) and attention_mask [B, 1, L, L] float, 0 where a token may
    look.
    """
    scenes = scenes or [PICTURE] * len(talks)
    texts = [USER + scene for scene in scenes]
    texts += [text for talk in talks for asked, answer in talk for text in (asked + TURN, answer + "<|end|>")]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    image = tokenizer.convert_tokens_to_ids("<image>")
    prefixes = [[t for token in next(encoded) for t in [token] * (36 if token == image else 1)] for _ in scenes]
    rows = []
    for prefix, talk in zip(prefixes, talks, strict=True):
        ids, positions, owners, labels = list(prefix), list(range(len(prefix))), [0] * len(prefix), [-100] * len(prefix)
        for number in range(1, len(talk) + 1):
            asked, answered = next(encoded), next(encoded)
            ids += asked + answered
            positions += range(len(prefix), len(prefix) + len(asked) + len(answered))
            owners += [number] * (len(asked) + len(answered))
            labels += [-100] * len(asked) + answered
        rows.append((ids, positions, owners, labels))
    length = max(len(ids) for ids, *_ in rows)
    pads = (tokenizer.pad_token_id, 0, -1, -100)
    ids, positions, owners, labels = (
        torch.tensor([row[i] + [pads[i]] * (length - len(row[i])) for row in rows]) for i in range(4)
    )
    visible = (owners[:, :, None] == owners[:, None, :]) | (owners[:, None, :] == 0)
    visible &= torch.ones(length, length, dtype=torch.bool).tril()
    # additive: eager attention adds the mask to its scores, so a boolean one would hide nothing, the answers included
    mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    return {"input_ids": ids, "position_ids": positions, "attention_mask": mask[:, None], "labels": labels}


def ahead(batches: Iterator, depth: int = 4) -> Iterator:
    """The same batches, prepared in a thread while the model computes."""
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


def schedule(step: int, steps: int, warmup: int = 200) -> float:
    return min(1, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * step / steps)))


def optimise(name: str, groups: list[dict], steps: int, losses: Iterator, log: list[dict]) -> None:
    """AdamW with warm-up and cosine over `losses`, which yields (loss, figures to log) for each step."""
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    peaks = [group["lr"] for group in optimizer.param_groups]
    started, mean = time.time(), None
    for step in range(steps):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * schedule(step, steps)
        loss, figures = next(losses)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
        optimizer.step()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step % 50 == 0 or step == steps - 1:
            seconds = round(time.time() - started)
            log.append(
                {"phase": name, "step": step, "of": steps, "loss": round(mean, 4), **figures, "seconds": seconds}
            )
            print(json.dumps(log[-1]), flush=True)


class Pretraining:
    """The phases, each a stream of losses with its parameters; the model is saved after each, as bfloat16."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.painter = args, Painter(args.sprites)
        self.tokenizer = build_tokenizer(self.painter.nouns)
        self.processor, self.model = build_processor(self.tokenizer), build_model(self.tokenizer)
        self.log: list[dict] = []
        self.model.train()

    def run(self) -> None:
        self.resume()
        batch = self.args.batch
        phases = {
            "seeing": self.args.vision_pictures // 64,
            "reading": self.args.captions // batch,
            "telling": self.args.pictures // batch,
            "binding": self.args.bound // batch,
        }
        finished = {row["phase"] for row in self.log if row["step"] == row["of"] - 1}
        for number, (name, steps) in enumerate(phases.items()):
            if name not in finished:
                torch.manual_seed(self.args.seed + number)
                self.scenes = Scenes(self.painter, self.args.seed + 1 + number)
                groups, losses = getattr(self, name)()
                optimise(name, groups, steps, losses, self.log)
                self.save()

    def resume(self) -> None:
        """Take up weights and log of finished phases, if the output has any."""
        from transformers import LlavaForConditionalGeneration

        log = self.args.output / LOG
        if log.is_file():
            saved = LlavaForConditionalGeneration.from_pretrained(self.args.output, dtype="float32")
            self.model.load_state_dict(saved.state_dict())
            self.log = [json.loads(line) for line in log.read_text().splitlines()]

    def save(self) -> None:
        with atomic_folder(self.args.output) as folder:
            copy.deepcopy(self.model).to(torch.bfloat16).save_pretrained(folder)
            self.processor.save_pretrained(folder)
            (folder / LOG).write_text("".join(json.dumps(row) + "\n" for row in self.log))

    def seeing(self) -> tuple[list[dict], Iterator]:
        head = SeeingHead(192, self.painter.nouns)
        tower = self.model.model.vision_tower

        def losses() -> Iterator:
            while True:
                batch = self.scenes.sample(64)
                with torch.autocast("cpu", torch.bfloat16):
                    patches = tower(self.scenes.pixels(batch), output_hidden_states=True).hidden_states[-1]
                    loss, right = head(patches, batch)
                yield loss, {"named": round(right, 3)}

        return [{"params": [*tower.parameters(), *head.parameters()], "lr": 1e-3}], losses()

    def reading(self) -> tuple[list[dict], Iterator]:
        groups = [{"params": [*self.model.model.language_model.parameters()], "lr": 1.2e-3}]
        return groups, (self.answers(None, rows) for _, _, rows in ahead(self.batches(told=True)))

    def telling(self) -> tuple[list[dict], Iterator]:
        losses = (self.answers(pixels, rows) for _, pixels, rows in ahead(self.batches()))
        return self.whole_model(1e-3), losses

    def binding(self) -> tuple[list[dict], Iterator]:
        tokens: list[torch.Tensor] = []
        self.model.model.multi_modal_projector.register_forward_hook(lambda module, given, out: tokens.append(out))

        def losses() -> Iterator:
            for batch, pixels, rows in ahead(self.batches()):
                tokens.clear()
                loss, _ = self.answers(pixels, rows)
                bound = binding_loss(tokens[-1], batch, self.nouns())
                yield loss + bound, {"answers": round(loss.item(), 4), "bound": round(bound.item(), 4)}

        return self.whole_model(1e-3), losses()

    def whole_model(self, rate: float) -> list[dict]:
        parts = self.model.model
        rest = [*parts.language_model.parameters(), *parts.multi_modal_projector.parameters()]
        return [{"params": [*parts.vision_tower.parameters()], "lr": rate / 5}, {"params": rest, "lr": rate}]

    def nouns(self) -> dict[str, torch.Tensor]:
        """Each noun's embedding, the mean of its tokens', to aim at."""
        embedding = self.model.get_input_embeddings().weight.detach()
        ids = self.tokenizer([f" {noun}" for noun in self.painter.nouns], add_special_tokens=False)["input_ids"]
        return {noun: embedding[tokens].mean(0) for noun, tokens in zip(self.painter.nouns, ids, strict=True)}

    def batches(self, told: bool = False) -> Iterator[tuple[list[Scene], torch.Tensor | None, dict]]:
        """Scenes, their pixels, and rows of questions on them; `told`: the caption stands for the picture."""
        while True:
            batch = self.scenes.sample(self.args.batch)
            talks = self.scenes.talks(batch, self.args.questions)
            words = [caption(scene, self.scenes.rng) + "\n" for scene in batch] if told else None
            pixels = None if told else self.scenes.pixels(batch)
            yield batch, pixels, branches(self.tokenizer, talks, words)

    def answers(self, pixels: torch.Tensor | None, rows: dict) -> tuple[torch.Tensor, dict]:
        labels = rows.pop("labels")
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.model.model(pixel_values=pixels, use_cache=False, **rows).last_hidden_state
            asked = labels[:, 1:] != -100
            logits = self.model.lm_head(hidden[:, :-1][asked])
        return F.cross_entropy(logits.float(), labels[:, 1:][asked]), {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).parent / "assets"
    parser.add_argument("--sprites", type=Path, default=here / "sprites", help="cut-outs named by noun")
    parser.add_argument("--output", type=Path, required=True, help="folder for the model; a stopped run there goes on")
    parser.add_argument("--vision-pictures", type=int, default=80_000, help="pictures of `seeing`")
    parser.add_argument("--captions", type=int, default=24_000, help="captions of `reading`")
    parser.add_argument("--pictures", type=int, default=48_000, help="pictures of `telling`")
    parser.add_argument("--bound", type=int, default=32_000, help="pictures of `binding`")
    parser.add_argument("--batch", type=int, default=32, help="pictures a step, after `seeing`")
    parser.add_argument("--questions", type=int, default=4, help="questions on each picture")
    parser.add_argument("--seed", type=int, default=0)
    Pretraining(parser.parse_args()).run()


if __name__ == "__main__":
    main()
