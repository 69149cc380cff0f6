"""The stages of a recipe, run one after the other, each from where the last one ended; a stopped run goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from transformers import set_seed

from mllm_embed import MLLMEmbedder
from mllm_embed.data.folder import DataFolder, FolderBenchmark
from mllm_embed.encode.model_source import find_model
from mllm_embed.errors import ConfigError
from mllm_embed.model.heads.files import read_heads
from mllm_embed.model.heads.projection import new_projection
from mllm_embed.model.lora import add_lora, load_adapter
from mllm_embed.saving.provenance import SPACE_FIELDS

from ..batch.stage_data import StageRows, check_avoided, check_tasks, open_stage
from ..distill.teacher import Teacher
from ..distill.tuned_codes import leave_quantizer
from ..distributed.zero import forget_config, zero_config
from ..recipe.checks import check_batch, check_dimension, check_guides, check_rates, first_process
from ..recipe.config import Recipe
from ..recipe.form import asked_as, form_fingerprints, guide_fingerprints, judge_fingerprints
from ..recipe.optimizers import check_optimizer
from ..recipe.pixels import with_pixels
from ..recipe.start import check_space, check_thoughts, start_of
from ..recipe.trained.lexical import add_lexical_head, with_lexical
from ..recipe.trained.multi import add_projection, with_multi
from ..recipe.trained.token_learner import add_token_learner, with_learner
from ..report.leaks import RunRecord
from .card import card_of
from .run_folder import check_output, write_finished
from .stage.common import choose_device, held_output, reported, set_attention, start_fingerprint, trains_in_bf16
from .stage_run import StageRun
from .stopping import Stopping
from .validation import benchmark_of, check_asked


@dataclass(frozen=True)
class _RunData:
    """The data of a run: by stage its rows and its benchmark, and the fingerprints of all that they come from."""

    rows: dict[str, StageRows]
    benchmarks: dict[str, FolderBenchmark]
    fingerprints: dict[str, str]


def run_recipe(recipe: Recipe, after_stage: Callable[[str, Path], None] | None = None, strict: bool = False) -> Path:
    """Train every stage of `recipe`; each leaves its adapter in OUTPUT/STAGE. Return the last one's folder.

    A finished stage found in the output is not repeated, an unfinished one goes on from its last checkpoint, and gives
    the adapter that an uninterrupted run gives. `after_stage(name, adapter)` is called with the folder of each newly
    trained adapter: for an evaluation, say. Queries of a validation that the rows ask too are told, and with `strict`
    refused, with a DataError.

    Raise ConfigError when the output holds another run or the model cannot be trained as asked, DataError for data
    that fails its checks or lacks what the loss needs, ModelError for a model that cannot be loaded or whose training
    goes wrong, Stopped after a SIGTERM.
    """
    device = choose_device()
    for name, stage in recipe.stages.items():
        check_optimizer(name, stage.optimizer, device.type, recipe.deepspeed)
    zero = zero_config(recipe)
    check_guides(recipe)
    form = form_fingerprints(recipe) | guide_fingerprints(recipe) | judge_fingerprints(recipe)
    data = _open_data(recipe)
    bf16 = trains_in_bf16(recipe)
    teacher = Teacher(recipe.teacher, bf16) if recipe.teacher else None
    form |= start_fingerprint(recipe)
    fingerprints = data.fingerprints | form | ({"teacher": teacher.fingerprint} if teacher else {})
    finished = check_output(recipe, fingerprints)
    record = _told_record(recipe, data, strict, finished)
    stopping = Stopping()
    with stopping.listening():
        embedder = _adapted(recipe, bf16, finished, teacher)
        check_dimension(recipe, embedder.dimension)
        check_rates(recipe, embedder.model)
        for name, stage in recipe.stages.items():
            data.rows[name].ask_with(embedder.prompts)
            check_tasks(name, stage, data.rows[name], embedder.item_processor)
            check_avoided(name, stage, data.rows[name], embedder.settings, teacher is not None)
            if name in data.benchmarks:
                check_asked(data.benchmarks[name], embedder.settings)
        _tell_form(recipe, embedder)
        with held_output(recipe, fingerprints, record):
            for number, name in enumerate(recipe.stages):
                if name in finished:
                    _pass_over(recipe, record, name)
                    continue
                stopping.check()
                run = StageRun(
                    recipe, name, data.rows[name], bf16, recipe.seed + number, embedder, data.benchmarks.get(name),
                    zero, teacher,
                )  # fmt: skip
                with reported(recipe, name):
                    run.train(partial(card_of, recipe, name, fingerprints, data.rows), stopping)
                if first_process():
                    write_finished(recipe, name)
                _leave(record, name)
                finished.append(name)
                if zero and len(finished) < len(recipe.stages):
                    forget_config()  # DeepSpeed's engine leaves a model that no other can take
                    embedder = _adapted(recipe, bf16, finished, teacher)
                if after_stage:
                    after_stage(name, recipe.output / name)
    return recipe.output / list(recipe.stages)[-1]


def _pass_over(recipe: Recipe, record: RunRecord | None, name: str) -> None:
    """See to what a finished stage leaves beside its adapter, where the run ended before it was written."""
    _leave(record, name)
    if first_process():
        leave_quantizer(recipe.checkpoints_of(name), recipe.output / name)


def _open_data(recipe: Recipe) -> _RunData:
    """Return the data of every stage. Raise DataError or ConfigError for some that cannot be trained on."""
    data = _RunData({}, {}, {})
    for name, stage in recipe.stages.items():
        data.rows[name], fingerprints = open_stage(stage, recipe.thoughts is not None)
        check_batch(name, stage, len(data.rows[name]))
        data.fingerprints.update(fingerprints)
    for name, stage in recipe.stages.items():
        if stage.evaluate:
            folder = DataFolder.open(stage.evaluate.data)
            data.fingerprints[str(folder.root)] = folder.fingerprint()
            data.benchmarks[name] = benchmark_of(folder)
    return data


def _told_record(recipe: Recipe, data: _RunData, strict: bool, finished: list[str]) -> RunRecord | None:
    """Return, in the process that writes, what the run trains on, after its validations' leaks are told.

    Raise DataError for leaks where they are not let pass, and for a check that cannot be made.
    """
    if strict and not recipe.trained_on:
        raise ConfigError("--strict cannot look for leaks with trained_on: false; leave one of them out")
    nothing_to_do = len(finished) == len(recipe.stages) and not strict
    if nothing_to_do or not (recipe.trained_on and first_process()):
        return None
    record = RunRecord.of(recipe, data.rows, data.fingerprints)
    for name, benchmark in data.benchmarks.items():
        leaks, what = record.leaks(benchmark), f"{name}  validation {benchmark.name}"
        print(leaks.in_words(what, "training"))
        if strict:
            leaks.check(what, "training")
    return record


def _leave(record: RunRecord | None, name: str) -> None:
    if record:
        record.leave(name)


def _adapted(recipe: Recipe, bf16: bool, finished: list[str], teacher: Teacher | None) -> MLLMEmbedder:
    """Return the base with a new adapter, the one that the recipe goes on from, or that of the last finished stage."""
    embedder, start = _load(recipe, bf16)
    model = embedder.model
    space = {key: teacher.provenance[key] for key in SPACE_FIELDS} if teacher else None
    if start:
        check_space(recipe, start, embedder.settings, space)
    if space:
        embedder.settings = replace(embedder.settings, target_space=space)
    if finished:
        load_adapter(model, recipe.output / finished[-1], trainable=True)
        heads = read_heads(recipe.output / finished[-1])
        model.projection, model.token_learner = heads.projection, heads.token_learner
        model.lexical_head = heads.lexical_head
        if model.token_learner is not None:
            model.token_learner.to(embedder.device)
    else:
        set_seed(recipe.seed)  # of the adapter's own weights; what is drawn later has each stage's seed
        if start:
            load_adapter(model, start, trainable=True)
        else:
            add_lora(model, recipe.lora.spec(), embedder.family)
        if teacher and teacher.dimension != model.width:
            model.projection = new_projection(model.states_width, teacher.dimension)
    add_projection(recipe, model)
    add_token_learner(embedder.settings.picture_tokens, model)
    add_lexical_head(embedder.settings, model)
    if model.projection is not None:
        model.projection.to(embedder.device).requires_grad_(teacher is not None or model.multi)
    return embedder


def _load(recipe: Recipe, bf16: bool) -> tuple[MLLMEmbedder, Path | None]:
    """Return the base model, under autocast what "auto" means on this processor, in float32 without it; and the folder
    of the adapter to go on from, whose form it has, None for a new one."""
    source = find_model(recipe.model, recipe.adapter, preset=recipe.preset)
    start = start_of(recipe, source)
    check_thoughts(recipe, source.own_settings)
    embedder = MLLMEmbedder.from_pretrained(
        replace(source, bare=True), dtype="auto" if bf16 else "float32", quantization=recipe.quantization,
        thoughts=recipe.thought_tokens,
        **(asked_as(recipe) | {"adapter": None, "preset": None}),
    )  # fmt: skip
    # what is saved is another adapter than the one whose form it has
    embedder.settings = replace(embedder.settings, adapter=None, adapter_settings=None)
    set_attention(recipe, embedder.model)
    embedder = with_multi(recipe, with_learner(recipe, with_pixels(recipe, embedder)))
    return with_lexical(recipe, embedder), start


def _tell_form(recipe: Recipe, embedder: MLLMEmbedder) -> None:
    """Print which preset a model is trained by, and with which prompts; of a model without one nothing."""
    if embedder.preset and first_process():
        name, preset = recipe.adapter or recipe.model, embedder.preset.name
        print(f"{name}  trained by the preset {preset}, with prompts {embedder.prompts.name}")
