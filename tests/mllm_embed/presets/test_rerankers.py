"""Presets of re-rankers: what they render, to the letter, as written out from the authors' code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import published
from mllm_embed import Document, Query, Reranker
from mllm_embed.cli import main
from mllm_embed.errors import ConfigError, ModelError
from mllm_embed.presets.rerankers.catalog import reranker_names, reranker_preset, reranker_preset_of
from mllm_embed.types import Item

SEEN = "<|vision_start|><|image_pad|><|vision_end|>"
HIGH, WIDE = reversed(published.two_pictures())
PAIRS: dict[str, tuple[Item, Item]] = {
    "composed, image": (Query(WIDE, "make it red "), Document(HIGH)),
    "text with a task, captioned": (Query(text="a dress", task="Find it."), Document(HIGH, "silk")),
    "composed with a task, text": (Query(WIDE, "in red", task="Find it."), Document(text="silk")),
    "image, image": (Query(WIDE), Document(HIGH)),
}
# Qwen/Qwen3-VL-Embedding src/models/qwen3_vl_reranker.py 296-353
JUDGE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: {}<|im_end|>\n'
    "<|im_start|>assistant\n"
)
DEFAULT = "Given a search query, retrieve relevant candidates that answer the query."
# Code-kunkun/LamRA dataset/datasets_circo.py 142-170: a line that goes on in the next, whose indentation is 24 spaces
LAMRA = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nI will provide you with a query and "
    "a candidate. Please evaluate whether the candidate{}meets the requirements of the query. If it does, respond with "
    "'Yes'; if it doesn't, responed with 'No'.Query:{}Candidate:{}<|im_end|>\n<|im_start|>assistant\n"
)
ASKED = {
    "composed, image": (SEEN + "make it red ", SEEN),
    "text with a task, captioned": ("Find it. a dress", SEEN + "silk"),
    "composed with a task, text": (SEEN + "Find it. in red", "silk"),
    "image, image": (SEEN, SEEN),
}
TEXTS: dict[str, tuple[str, dict[str, str]]] = {
    "qwen3-vl-reranker": (
        "qwen3_vl",
        {
            "composed, image": JUDGE.format(f"{DEFAULT}<Query>:{SEEN}make it red \n<Document>:{SEEN}"),
            "text with a task, captioned": JUDGE.format(f"Find it.<Query>:a dress\n<Document>:{SEEN}silk"),
            "composed with a task, text": JUDGE.format(f"Find it.<Query>:{SEEN}in red\n<Document>:silk"),
            "image, image": JUDGE.format(f"{DEFAULT}<Query>:{SEEN}\n<Document>:{SEEN}"),
        },
    ),
    "lamra-rank": ("qwen2_vl", {name: LAMRA.format(" " * 24, *asked) for name, asked in ASKED.items()}),
    "lamra-rank-qwen2.5-vl": ("qwen2_5_vl", {name: LAMRA.format(" ", *asked) for name, asked in ASKED.items()}),
}


@pytest.mark.parametrize("name", list(TEXTS))
def test_pairs_are_asked_as_the_authors_do(name: str, folders: Callable[[str], Path]) -> None:
    kind, texts = TEXTS[name]
    reranker = Reranker.from_pretrained(folders(kind), preset=name, dtype="float32", device="cpu")
    for pair, (query, candidate) in PAIRS.items():
        assert reranker.pairs.written.text(query, [candidate]) == texts[pair], pair
    # the probability of the word for yes among two, at the last token of what the stock processor makes of it
    query, candidate = PAIRS["composed, image"]
    batch = reranker.pairs.batch([(query, candidate)])
    tokenizer, model = reranker.processor.tokenizer, reranker.model.model.base
    yes, no = (tokenizer(words[0])["input_ids"][0] for words in (reranker.prompt.yes, reranker.prompt.no))
    with torch.no_grad():
        state = model(**batch).last_hidden_state[0, -1]
        rows = model.get_input_embeddings().weight
        chance = torch.softmax(torch.stack([rows[yes] @ state, rows[no] @ state]), 0)[0]
    assert reranker.scores(query, [candidate]) == pytest.approx([float(chance)], abs=1e-5)
    assert np.isfinite(reranker.scores_of([(query, [candidate, "silk", "wool"])], show_progress=False)).all()


def test_lists_are_asked_as_lamra_does(folders: Callable[[str], Path]) -> None:
    reranker = Reranker.from_pretrained(folders("qwen2_vl"), preset="lamra-rank", dtype="float32", device="cpu")
    text = reranker.pairs.written.text(Query(WIDE, "in red"), [Document(HIGH), Document(text="silk")], listed=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nI will provide you with a query "
        "followed by multiple candidates in the format: (1) cand1 (2) cand2, etc. Each candidate is independent of the "
        f"others. {' ' * 24}Evaluate each candidate against the query, and respond with the number corresponding to "
        f"the candidate that best meets the requirements of the query.Query:{SEEN}in redCandidates:(1) {SEEN}(2) silk"
        "<|im_end|>\n<|im_start|>assistant\nAns: ("
    )


def test_a_published_re_ranker_is_known_by_its_hub_id(tiny_llava: Path, capsys) -> None:
    assert all(reranker_preset(name).about.sources and reranker_preset(name).about.models for name in reranker_names())
    found = reranker_preset_of("models/Qwen/Qwen3-VL-Reranker-8B")
    assert found is not None and found.about.name == "qwen3-vl-reranker"
    with pytest.raises(ConfigError, match="is for qwen3_vl models"):
        Reranker.from_pretrained(tiny_llava, preset="qwen3-vl-reranker")
    with pytest.raises(ConfigError, match="did you mean 'lamra-rank'"):
        reranker_preset("lamra-ranks")
    with pytest.raises(ModelError, match="two layers of its own code"):
        Reranker.from_pretrained("jinaai/jina-reranker-m0")
    assert main(["presets", "lamra-rank"]) == 0 and "responed" in capsys.readouterr().out
