"""The sections of a recipe: each field documented here is a YAML key and can be set by `--override key=value`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ..data.source import LocalPath
from .run_keys import RunKeys, StageName
from .section import Prompts, Section
from .stage import Stage
from .trained.lexical import LexicalSection
from .trained.multi import MultiSection
from .trained.thoughts import ThoughtsSection
from .trained.token_learner import TokenLearnerSection


class TeacherSection(Section):
    """The model whose vectors an index holds, and which terms with `taught: true` distil."""

    model: str = Field(description="folder or hub id; an adapter folder will do")
    adapter: LocalPath | None = Field(default=None, description="adapter folder to put on it")
    preset: str | None = Field(default=None, description="as of the recipe")
    prompts: Prompts | None = Field(default=None, description="as of the recipe")


class Recipe(RunKeys):
    """A whole run: a model, what is trained of it, and the stages one after the other."""

    stages: dict[StageName, Stage] = Field(min_length=1, description="in order; each goes on from the one before")
    teacher: TeacherSection | None = Field(
        default=None, description="a larger embedder, to make a small query encoder for its index; see below"
    )
    token_learner: TokenLearnerSection | None = Field(
        default=None, description="fewer tokens of a picture, by a module that is trained with the adapter; see below"
    )
    thoughts: ThoughtsSection | None = Field(
        default=None,
        description="let the model write what a query looks for before it embeds it; see below",
    )
    lexical: LexicalSection | None = Field(
        default=None, description="vectors of words beside the dense ones, by the model's own head; see below"
    )
    preset: str | None = Field(
        default=None,
        description="name of a published embedder's preset, or a YAML or JSON file with one; by default that of the "
        "model's hub id, where there is one",
    )
    prompts: Prompts | None = Field(
        default=None,
        description="name of a prompt set, a YAML or JSON file with one, or its keys here: {image: ..., composed: ..., "
        "text: ...}, as `mllm-embed prompt` prints them; by default what the model was saved with, or those of its "
        "preset",
    )
    pooling: Literal["last", "mean", "multi"] | None = Field(
        default=None,
        description="last token, mean over the picture's and user's tokens, or a vector for each of these; by default "
        "as saved",
    )
    multi: MultiSection | None = Field(default=None, description="of pooling: multi: which tokens, how long; see below")
    bidirectional: bool | None = Field(
        default=None, description="attention that looks ahead too; by default as saved, or else not"
    )
    positions: Literal["model", "sequential"] | None = Field(
        default=None, description="tokens numbered as by the model, or one after the other; by default as saved"
    )
    truncate: bool | None = Field(
        default=None, description="cut the words of a longer input instead; by default as saved, or else not"
    )
    deepspeed: str | None = Field(
        default=None, description="zero2, zero3, zero2-offload, zero3-offload, or a JSON file: DeepSpeed's config"
    )
    trained_on: bool = Field(
        default=True,
        description="leave with each adapter what it was trained on, as numbers of 8 bytes, by which leaks are told; "
        "all rows and pictures are read once more before the first stage, streamed ones excepted",
    )

    @model_validator(mode="after")
    def _teacher_teaches_all(self) -> Recipe:
        taught = [term.taught for stage in self.stages.values() for term in stage.terms]
        if any(taught) and self.teacher is None:
            raise ValueError("a term with taught: true needs a teacher")
        if self.teacher and not all(taught):
            raise ValueError("with a teacher every term is taught: true, or vectors would leave its space")
        return self

    @model_validator(mode="after")
    def _teacher_needs_no_info_nce(self) -> Recipe:
        for stage in self.stages.values() if self.teacher else ():
            if stage.learn_temperature or stage.mask_margin is not None or stage.hardness or stage.guide:
                raise ValueError("with a teacher, stages take no learn_temperature, mask_margin, hardness or guide")
        return self

    @model_validator(mode="after")
    def _mining_leaves_no_engine(self) -> Recipe:
        for name, stage in self.stages.items():
            if stage.mine and self.deepspeed:
                raise ValueError(
                    f"stage '{name}': mine goes without deepspeed, whose engine cannot be left between two steps; take "
                    "`mllm-embed-train mine` before the stage, and mined"
                )
        return self

    @model_validator(mode="after")
    def _tuned_codes_come_last(self) -> Recipe:
        names = [name for name, stage in self.stages.items() if stage.jpq]
        if not names:
            return self
        if names != list(self.stages)[-1:]:
            raise ValueError(f"stage '{names[0]}': jpq is of the last stage: what comes after it would leave its index")
        beside: dict[str, Any] = {
            "deepspeed": self.deepspeed,
            "thoughts": self.thoughts,
            "pooling: multi": self.pooling == "multi",
            "a token learner, which no store was made with": self.token_learner and len(self.stages) == 1,
        }
        other = next((key for key, value in beside.items() if value), None)
        if other:
            raise ValueError(f"stage '{names[0]}': jpq goes without {other}; leave one of them out")
        return self

    @model_validator(mode="after")
    def _thoughts_have_their_queries(self) -> Recipe:
        if self.thoughts is None:
            return self
        if not any({"composed", "query"} & set(stage.encoded) for stage in self.stages.values()):
            raise ValueError("thoughts are of queries of picture and instruction, and no stage has the role composed")
        if self.deepspeed:
            raise ValueError("thoughts go without deepspeed, whose processes would wait for a head that some pass by")
        return self

    @model_validator(mode="after")
    def _words_go_with_batches(self) -> Recipe:
        if self.lexical is None:
            return self
        beside = {"teacher": self.teacher, "thoughts": self.thoughts, "deepspeed": self.deepspeed}
        other = next((key for key, value in beside.items() if value), None)
        if other:
            raise ValueError(f"lexical goes without {other}; leave one of them out")
        for name, stage in self.stages.items():
            if any(term.uses_bank or term.judged or term.frozen for term in stage.terms):
                raise ValueError(
                    f"stage '{name}': lexical vectors are compared within a batch, and there alone: no term with bank, "
                    "judged or frozen"
                )
        return self

    @property
    def thought_tokens(self) -> int | None:
        """The tokens of a thought at most; None where nothing thinks."""
        return self.thoughts.tokens if self.thoughts else None
