"""The facts for the model card of a stage's adapter: what it was trained on, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from mllm_embed.saving.model_card import ModelCardInfo
from mllm_embed.saving.versions import versions

from ..recipe.config import Recipe
from ..recipe.stage import Stage
from ..recipe.stage_keys.guide import Guide
from ..recipe.stage_keys.terms import Term
from ..recipe.start import trained_lora
from ..recipe.trained.lora import Lora
from .validation import best_folder, best_in_words, read_best

_DIGITS = 12
_PACKAGES = ("mllm_embed", "torch", "transformers", "peft")


def card_of(recipe: Recipe, last: str, data: Mapping[str, str], rows: Mapping[str, Sequence[Any]]) -> ModelCardInfo:
    """Return the facts of the stages up to `last`, whose adapter holds what they all taught.

    Args:
        recipe: the run's.
        last: name of the stage just trained.
        data: path of a source -> fingerprint.
        rows: stage -> the rows it trained on.
    """
    names = list(recipe.stages)[: list(recipe.stages).index(last) + 1]
    training = {name: _facts(recipe.stages[name], data, len(rows[name])) for name in names}
    for name in names:
        best = read_best(best_folder(recipe.checkpoints_of(name)))
        if best:
            training[name]["kept"] = best_in_words(best)
    lora, installed = trained_lora(recipe), versions()
    made_with = {
        **({} if lora is recipe.lora else {"went on from": PurePath(recipe.adapter or recipe.model).name}),
        "LoRA": _lora_in_words(lora),
        **_learner_facts(recipe),
        **_lexical_facts(recipe),
        "base weights": recipe.quantization or "not quantised",
        "seed": recipe.seed,
        "versions": ", ".join(f"{package} {installed[package]}" for package in _PACKAGES if package in installed),
    }
    return ModelCardInfo(training=training, made_with=made_with)


def _learner_facts(recipe: Recipe) -> dict[str, str]:
    learner = recipe.token_learner
    if learner is None:
        return {}
    return {"token learner": f"{learner.tokens} tokens a picture, local alignment {learner.local:g}"}


def _lexical_facts(recipe: Recipe) -> dict[str, str]:
    lexical = recipe.lexical
    if lexical is None:
        return {}
    return {"lexical vectors": f"{lexical.words} words, weight {lexical.weight:g}, FLOPS penalty {lexical.flops:g}"}


def _lora_in_words(lora: Lora) -> str:
    more = {
        "on": None if lora.targets is None else ", ".join(lora.targets),
        "on the vision tower's": ", ".join(lora.vision) if isinstance(lora.vision, list) else lora.vision and "layers",
        "ranks": ", ".join(f"{name} {rank}" for name, rank in lora.rank_pattern.items()),
        "alphas": ", ".join(f"{name} {alpha:g}" for name, alpha in lora.alpha_pattern.items()),
    }
    kind = " ".join(name for name, used in (("DoRA", lora.dora), ("rsLoRA", lora.rslora)) if used)
    parts = [
        f"rank {lora.rank}, alpha {lora.alpha:g}, dropout {lora.dropout:g}{kind and f', {kind}'}",
        *(f"{what} {value}" for what, value in more.items() if value),
        f"projector {'trained in full' if lora.projector else 'frozen'}",
    ]
    return "; ".join(parts)


def _facts(stage: Stage, data: Mapping[str, str], count: int) -> dict[str, Any]:
    # of the data's paths only the last name: what stands above it is the machine's, and the card is published
    paths = [source.path for source in stage.data]
    asked = [source.query_task or stage.query_task for source in stage.data]
    found = [source.document_task or stage.document_task for source in stage.data]
    tasks = {"query task": _listed(asked), "document task": _listed(found)}
    return {
        "data": f"{', '.join(path.resolve().name for path in paths)}, {count:,} {stage.rows}",
        "data fingerprint": ", ".join(data[str(path)][:_DIGITS] for path in paths),
        "loss": "; ".join(map(_term_in_words, stage.terms)),
        "temperature": f"{stage.temperature:g}",
        "batch size": stage.batch_size,
        "length": _length(stage),
        "learning rate": f"{stage.learning_rate:g}, {stage.schedule}",
        **_optimizer_facts(stage),
        "matryoshka": ", ".join(map(str, stage.matryoshka)) or "no",
        **{name: task for name, task in tasks.items() if task},
        **_negatives_facts(stage),
    }


def _negatives_facts(stage: Stage) -> dict[str, str]:
    facts = {"guide": _guide_in_words(stage.guide)} if stage.guide else {}
    if stage.jpq:
        nearest = f"the {stage.jpq.negatives:,} nearest by them are negatives"
        facts["codes"] = f"{stage.jpq.bytes} bytes a candidate, tuned with the queries; {nearest}"
    return facts | ({"hard negatives": _mined_in_words(stage)} if stage.mined or stage.mine else {})


def _mined_in_words(stage: Stage) -> str:
    if stage.mine is None:
        return f"mined before, {Path(stage.mined or '').name}"
    limit = "" if stage.mine.at_most is None else f" and at most {stage.mine.at_most:g}"
    return (
        f"up to {stage.mine.count} a row, mined by the model itself every {stage.mine.every:,} steps, ceiling "
        f"{stage.mine.ceiling:g}{limit}"
    )


def _guide_in_words(guide: Guide) -> str:
    # of paths only the last name, as of the data
    named = [Path(part).name for part in (guide.model, guide.adapter) if part is not None]
    limit = f"margin {guide.margin:g}" if guide.ceiling is None else f"ceiling {guide.ceiling:g}"
    return f"{' with '.join(named) or 'the model itself, untrained'}, {limit}"


def _length(stage: Stage) -> str:
    first = f"{stage.steps} steps" if stage.steps else f"{stage.epochs:g} epochs"
    return ", and ".join([first, *(f"{steps} steps more" for steps in stage.more_steps)])


def _optimizer_facts(stage: Stage) -> dict[str, Any]:
    """Return what is not as by default of the optimiser."""
    own = {name: rate for name, rate in stage.rates.model_dump().items() if rate is not None}
    facts = {
        "rates": ", ".join(f"{name} {rate:g}" for name, rate in own.items()),
        "optimiser": "" if stage.optimizer == "adamw" else stage.optimizer,
        "gradient": {0.0: "of any length", 1.0: ""}.get(stage.max_grad_norm, f"at most {stage.max_grad_norm:g} long"),
    }
    return {name: value for name, value in facts.items() if value}


def _listed(tasks: Sequence[str | None]) -> str:
    """Return the tasks of sources, each once."""
    return "; ".join(dict.fromkeys(filter(None, tasks)))


def _term_in_words(term: Term) -> str:
    arrow = "<->" if term.symmetric else "->"
    details = {
        "hard negatives": ", ".join(term.negatives),
        "beside": "the other queries" if term.same_side else "",
        "found": "in the base's vectors" if term.frozen else "",
        "weight": f"{term.weight:g}" if term.weight != 1 else "",
    }
    shown = "; ".join(f"{name}: {value}" for name, value in details.items() if value)
    return f"{' + '.join(term.query)} {arrow} {' + '.join(term.positive)}" + (f" ({shown})" if shown else "")
