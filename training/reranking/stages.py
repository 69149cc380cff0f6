"""The stages of a re-ranker's recipe, run one after the other; a stopped run goes on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from transformers import set_seed

from mllm_embed.errors import ModelError
from mllm_embed.model.lora import add_lora, load_adapter
from mllm_embed.rerank.reranker import Reranker
from mllm_embed.rerank.source import RerankSource
from mllm_embed.saving.settings import read_settings

from ..batch.stage_data import StageRows, open_stage
from ..recipe.checks import check_batch, check_rates, first_process
from ..recipe.optimizers import check_optimizer
from ..recipe.pixels import read_as
from ..recipe.reranker.recipe import RerankRecipe
from ..recipe.reranker.start import start_from
from ..recipe.start import start_of
from ..run.run_folder import check_output, write_finished
from ..run.stage.common import choose_device, held_output, reported, set_attention, start_fingerprint, trains_in_bf16
from ..run.stopping import Stopping
from .run import RerankRun


def run_rerank(recipe: RerankRecipe) -> Path:
    """Train every stage of `recipe`; each leaves a re-ranker's adapter in OUTPUT/STAGE. Return the last one's folder.

    A finished stage found in the output is not repeated, an unfinished one goes on from its last checkpoint, and gives
    the adapter that an uninterrupted run gives.

    Raise ConfigError when the output holds another run or the model cannot be trained as asked, DataError for data
    that fails its checks or lacks what the loss needs, ModelError for a model that cannot be loaded or whose training
    goes wrong, Stopped after a SIGTERM.
    """
    device = choose_device()
    rows: dict[str, StageRows] = {}
    fingerprints: dict[str, str] = start_fingerprint(recipe)
    for name, stage in recipe.stages.items():
        check_optimizer(name, stage.optimizer, device.type, None)
        rows[name], own = open_stage(stage)
        check_batch(name, stage, len(rows[name]))
        fingerprints |= own
    bf16 = trains_in_bf16(recipe)
    reranker, start = _loaded(recipe, bf16)
    fingerprints["prompt"] = hashlib.sha256(json.dumps(reranker.prompt.to_dict()).encode()).hexdigest()
    finished = check_output(recipe, fingerprints)
    _adapt(recipe, reranker, start, finished)
    check_rates(recipe, reranker.model.model)
    stopping = Stopping()
    with stopping.listening(), held_output(recipe, fingerprints):
        for number, name in enumerate(recipe.stages):
            if name in finished:
                continue
            stopping.check()
            run = RerankRun(recipe, name, rows[name], bf16, recipe.seed + number, reranker)
            with reported(recipe, name):
                run.train(stopping)
            if first_process():
                write_finished(recipe, name)
    return recipe.output / list(recipe.stages)[-1]


def _loaded(recipe: RerankRecipe, bf16: bool) -> tuple[Reranker, Path | None]:
    """Return the base, asked as it will be trained; and the folder of the adapter to go on from, None for a new one."""
    begun = start_from(recipe, recipe.model)
    prompt, parts, dtype = begun.prompt(recipe), begun.parts, "auto" if bf16 else "float32"
    start = start_of(recipe, parts)
    reranker = Reranker.from_pretrained(
        parts.base, prompt=prompt, dtype=dtype, quantization=recipe.quantization, revision=parts.revision
    )
    if begun.saved:
        reranker = _read_as(begun.read_as, reranker)
    elif start:
        _check_base(start, reranker.settings.reading.base_fingerprint)
    set_attention(recipe, reranker.model.model)
    return _limited(recipe, reranker), start


def _read_as(source: RerankSource, reranker: Reranker) -> Reranker:
    """Return a bare re-ranker that reads pictures and tokens as the one to go on from was saved to."""
    model, prompt = reranker.model.model, reranker.prompt
    settings = source.settings(model.base.config).asked(prompt)
    reading = replace(settings.reading, adapter=None, adapter_settings=None)  # what is saved is another adapter
    model.positions = reading.positions
    return Reranker(reranker.model, source.parts.processor(model.backbone), replace(settings, reading=reading))


def _check_base(start: Path, base: str | None) -> None:
    """Raise ModelError for an embedder's adapter of another base."""
    own = read_settings(start)
    if own and own.base_fingerprint and own.base_fingerprint != base:
        raise ModelError(f"the adapter {start} was trained on another base ({own.base}); give that one as model")


def _limited(recipe: RerankRecipe, reranker: Reranker) -> Reranker:
    """Return a re-ranker with the limits of a recipe: of tokens, and of its pictures' sizes."""
    config, settings = reranker.model.model.base.config, reranker.settings
    processor, reading = read_as(recipe, config, reranker.processor, settings.reading)
    if recipe.max_tokens is not None:
        reading = replace(reading, max_tokens=recipe.max_tokens)
    return Reranker(reranker.model, processor, replace(settings, reading=reading))


def _adapt(recipe: RerankRecipe, reranker: Reranker, start: Path | None, finished: list[str]) -> None:
    """Put on a base a new adapter, the one that the recipe goes on from, or that of the last finished stage."""
    model = reranker.model.model
    set_seed(recipe.seed)  # of the adapter's own weights; what is drawn later has each stage's seed
    if finished:
        load_adapter(model, recipe.output / finished[-1], trainable=True)
    elif start:
        load_adapter(model, start, trainable=True)
    else:
        add_lora(model, recipe.lora.spec(), model.family)
