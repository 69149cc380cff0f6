"""Make the embedded base model: a small generative LLaVA that sees scenes, describes them and imagines changes.

    python scripts/pretrain_base.py --output runs/base

Two phases, since parts that can do nothing yet learn little from each other:

seeing     vision tower and projector, through throw-away heads on the picture's tokens: the thing in every cell and
           its size, the background, and the cell itself; each thing's tokens are drawn to the embedding of its noun
answering  the whole model but for the tower, on questions about scenes, given as pictures and as captions. One
           attention head is drawn from each noun of a question to the cells where that noun is, and throw-away heads
           ask what it brought back (which cell, and what size), and the last token of a question which cell the change
           is about

Without the cell the tokens forget where they are, without the attention head no instruction finds the thing that it
names, and without the question for a change's cell the model goes on guessing which thing is meant. No head asks what
the last token of a question for one word stands for: to make an embedder is left to the contrastive training.
--without-heads is the comparison: one phase, in which words alone teach the whole model.

A run that was stopped goes on from where it last saved, every 200 steps, and ends with the same bytes as one that was
not. The result is a stock `LlavaForConditionalGeneration` folder of bfloat16 safetensors with processor and chat
template.
"""

from __future__ import annotations

import argparse
import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from make_scenes import MIN_NOUNS, UNSEEN, held_out_scenes
from mllm_embed.errors import ConfigError, DataError, user_errors
from mllm_embed.files import atomic_folder
from mllm_embed.inputs.prompts import PROMPT_SETS
from mllm_embed.saving.sentence_transformers_files import write_base_files
from toy.base_model import build_model, build_processor, build_tokenizer, load_tokenizer
from toy.pretraining.phases import SEEING_BATCH, Answering, Seeing, Toy
from toy.running import State, Training
from toy.scene_talk import Subjects, corpus
from toy.scenes import Painter

LOG, STATE = "pretraining.jsonl", "state.safetensors"
LOG_EVERY, SAVE_EVERY = 50, 200  # steps


class Pretraining:
    """The phases, the log, and the folder that both are saved to; the model is saved as bfloat16."""

    def __init__(self, args: argparse.Namespace):
        self.output, painter = args.output, Painter(args.sprites)
        nouns = painter.nouns
        chosen = {name: getattr(args, name) for name in SETTINGS}
        self.settings = {"settings": {**chosen, "nouns": nouns}}
        self.log = self._earlier()
        torch.manual_seed(args.seed)
        # the saved tokenizer is the one that the embeddings belong to
        tokenizer = load_tokenizer(self.output) if self.log else build_tokenizer(corpus(nouns))
        self.processor = build_processor(tokenizer)
        self.model = build_model(self.processor.tokenizer).train()
        subjects = Subjects(nouns, frozenset(held_out_scenes(nouns)))
        toy = Toy(self.model, self.processor.tokenizer, painter, subjects, args.seed)
        steps = args.scenes // args.batch
        answering = partial(Answering, toy, steps, args.batch, args.tokens, heads=not args.without_heads)
        seeing = partial(Seeing, toy, args.seen // SEEING_BATCH)
        phases = {"answering": answering} if args.without_heads else {"seeing": seeing, "answering": answering}
        self.last = list(phases)[-1]
        self.training = Training(self.model, phases, args.output / STATE, args.seed)

    def run(self) -> None:
        """Run both phases, or what of them an earlier run has left."""
        if self.log and not (self.output / STATE).is_file():
            return  # finished
        for state, steps in self.training.run():
            over = state.step == steps
            if state.step % LOG_EVERY == 0 or over:
                self.log.append(row_of(state, steps))
                print(json.dumps(self.log[-1]), flush=True)
            if state.step % SAVE_EVERY == 0 or over:
                self.save(finished=over and state.phase == self.last)

    def _earlier(self) -> list[dict[str, Any]]:
        """Return the log of an earlier run in the output folder, which goes on; none for a new or empty folder."""
        log = self.output / LOG
        if not log.is_file():
            if self.output.exists() and (not self.output.is_dir() or any(self.output.iterdir())):
                raise DataError(
                    f"--output {self.output} holds other files, which saving would remove; give a new folder"
                )
            return []
        try:
            settings, *rows = (json.loads(line) for line in log.read_text().splitlines())
        except ValueError as error:
            raise DataError(f"{log} is damaged ({error}); give a new folder") from error
        if settings != self.settings:
            raise ConfigError(f"--output {self.output} was made with other options or sprites; give a new folder")
        return rows

    def save(self, finished: bool) -> None:
        """Write model and log to the output folder in one step, and until the end what the next step needs."""
        with atomic_folder(self.output) as folder:
            copy.deepcopy(self.model).to(torch.bfloat16).save_pretrained(folder)
            self.processor.save_pretrained(folder)
            write_base_files(folder, PROMPT_SETS["instructcir"])
            (folder / LOG).write_text("".join(json.dumps(row) + "\n" for row in (self.settings, *self.log)))
            if not finished:
                self.training.save(folder / STATE)


def row_of(state: State, steps: int) -> dict[str, Any]:
    """Return a row of the log."""
    means = {name: round(value, 3) for name, value in sorted(state.means.items())}
    return {"phase": state.phase, "step": state.step, "of": steps, **means, "seconds": round(state.seconds)}


SETTINGS = ("seen", "scenes", "batch", "tokens", "seed", "threads", "without_heads")  # what the weights depend on


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).parent / "assets"
    parser.add_argument("--sprites", type=Path, default=here / "sprites", help="cut-outs named by noun")
    parser.add_argument("--output", type=Path, required=True, help="folder for the model; a stopped run there goes on")
    parser.add_argument("--seen", type=int, default=64_000, help="pictures of `seeing`")
    parser.add_argument("--scenes", type=int, default=64_000, help="scenes of `answering`")
    parser.add_argument("--batch", type=int, default=32, help="scenes a step of `answering`")
    parser.add_argument("--tokens", type=int, default=250, help="the most that a scene's row of questions has")
    parser.add_argument("--seed", type=int, default=0, help="of weights and scenes")
    parser.add_argument("--threads", type=int, default=2, help="of the processor; another number rounds differently")
    parser.add_argument("--without-heads", action="store_true", help="words alone teach: the honest comparison")
    args = parser.parse_args()
    least = {"batch": 2, "seen": SEEING_BATCH, "scenes": max(args.batch, 1), "tokens": 128, "threads": 1}
    for name, smallest in least.items():
        if getattr(args, name) < smallest:
            raise ConfigError(f"--{name} must be at least {smallest}, not {getattr(args, name)}")
    if not args.sprites.is_dir() or len(Painter(args.sprites).nouns) < UNSEEN + MIN_NOUNS:
        raise DataError(f"--sprites {args.sprites} must be a folder with at least {UNSEEN + MIN_NOUNS} cut-outs")
    torch.set_num_threads(args.threads)
    disable_progress_bar()  # weights of 14 MB are written in a blink
    Pretraining(args).run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
