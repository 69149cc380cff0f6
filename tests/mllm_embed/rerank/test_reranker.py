"""A re-ranker's scores are logits of its answers, alone or behind a shared beginning, beside an embedder or saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import families
from mllm_embed import Document, MLLMEmbedder, Query, Reranker, Searcher
from mllm_embed.cli import main
from mllm_embed.errors import ConfigError, DataError, ModelError
from mllm_embed.model.lora import LoraSpec, add_lora
from mllm_embed.rerank.head import WordLogits

# a family of each way to put pictures among words
SHARED = ("llava_onevision", "idefics3", "qwen3_vl", "paligemma", "gemma3", "mllama")
LIST = {"words": "Which fits {query}?\n{candidates}Answer with its number.", "candidate": "{number}: {candidate}\n"}


def picture(seed: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


LISTS = [
    (
        Query(image=picture(1), instruction="make it red"),
        [picture(2), picture(3, (64, 48)), Document(image=picture(4), text="a green one")],
    ),
    (Query(text="white"), [picture(2), "black and blue", "red"]),
    (Query(image=picture(5)), [picture(2), picture(3)]),
]


def load(folder: Path, **options: object) -> Reranker:
    return Reranker.from_pretrained(folder, dtype="float32", device="cpu", **options)


@pytest.fixture(scope="module")
def adapter(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A re-ranker's adapter, as training would leave it: on the same layers as an embedder's, far from nothing."""
    reranker = load(tiny_llava, prompt={"words": "{query} or {candidate}?", "yes": "good", "no": ["bad", "worse"]})
    torch.manual_seed(1)
    add_lora(reranker.model.model, LoraSpec(rank=4, dropout=0), reranker.model.model.family)
    for parameter in reranker.model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("reranker") / "adapter"
    reranker.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", SHARED)
def test_shared_beginnings_change_no_score(family: str, tmp_path: Path) -> None:
    reranker = load(families.make(family, tmp_path))
    whole, shared = (reranker.scores_of(LISTS, share=share, show_progress=False) for share in (False, True))
    for one, other in zip(whole, shared, strict=True):
        assert one == pytest.approx(other, abs=2e-5)
        assert np.ptp(one) > 1e-3  # or nothing would be compared


def test_a_score_is_the_difference_of_two_logits(tiny_llava: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, processor = (kind.from_pretrained(tiny_llava) for kind in (AutoModelForImageTextToText, AutoProcessor))
    model.requires_grad_(False)
    one = picture(1, (32, 32))
    text = (
        "<|user|>Does the candidate show what the query asks for? Answer with yes or no.\n"
        'Query: <image>\nModify this image with "make it red"\nCandidate: <image>\n<|end|><|assistant|>'
    )
    batch = processor(text=[text], images=[[one, picture(2)]], return_tensors="pt")
    logits = model(**batch).logits[0, -1]
    yes, no = (processor.tokenizer(word)["input_ids"][0] for word in ("yes", "no"))
    query = Query(image=one, instruction=" make it red ")
    [score] = load(tiny_llava).scores(query, [picture(2)])
    assert score == pytest.approx(float(logits[yes] - logits[no]), abs=1e-5)
    [chance] = load(tiny_llava, prompt={"words": load(tiny_llava).prompt.words, "score": "sigmoid"}).scores(
        query, [picture(2)]
    )
    assert chance == pytest.approx(1 / (1 + np.exp(-score)), abs=1e-6)
    assert load(tiny_llava).rank(query, [picture(3), picture(2)])[0][1] >= score


def test_a_list_is_read_by_the_logits_of_its_labels(tiny_llava: Path) -> None:
    reranker = load(tiny_llava, prompt={"words": "{query}{candidate}", "list": {**LIST, "most": 3}})
    query, candidates = Query(text="red"), [picture(seed) for seed in range(2, 7)]
    text = reranker.pairs.written.text(query, [Document(image=one) for one in candidates[:2]], listed=True)
    listed = "1: <image>\n\n2: <image>\n\nAnswer with its number."
    assert text == f"<|user|>Which fits red?\n{listed}<|end|><|assistant|>"

    def window(order: list[int], start: int) -> list[int]:
        scores = reranker.list_scores(query, [candidates[at] for at in order[start : start + 3]])
        assert len(set(scores)) == 3
        best = [order[start + at] for at in np.argsort(scores)[::-1]]
        return [*order[:start], *best, *order[start + 3 :]]

    expected = window(window(window([0, 1, 2, 3, 4], 2), 1), 0)
    assert reranker.rank_list(query, candidates) == expected != [0, 1, 2, 3, 4]
    with pytest.raises(ConfigError, match="labels for 3"):
        reranker.list_scores(query, candidates)
    with pytest.raises(ConfigError, match="no form of lists"):
        load(tiny_llava).list_scores(query, candidates[:2])
    with pytest.raises(ConfigError, match="list.most"):
        load(tiny_llava, prompt={"words": "{query}{candidate}", "list": {**LIST, "most": 30}})


def test_it_lies_beside_an_embedder_on_the_same_weights(
    tiny_llava: Path, saved_models: dict[str, Path], adapter: Path
) -> None:
    embedder = MLLMEmbedder.from_pretrained(tiny_llava, adapter=saved_models["adapter"], dtype="float32", device="cpu")
    items = [query for query, _ in LISTS]
    before = embedder.encode(items, show_progress=False)
    reranker = Reranker.beside(embedder, adapter)
    found = reranker.scores_of(LISTS, show_progress=False)
    assert np.array_equal(embedder.encode(items, show_progress=False), before)
    assert found == load(tiny_llava, adapter=adapter).scores_of(LISTS, show_progress=False)
    assert found != load(tiny_llava, prompt=reranker.prompt).scores_of(LISTS, show_progress=False)
    own = {parameter.data_ptr() for parameter in embedder.model.parameters()}
    assert all(
        parameter.data_ptr() in own
        for name, parameter in reranker.model.named_parameters()
        if "lora_" not in name and "modules_to_save" not in name
    )
    assert reranker.provenance["adapter"] != embedder.provenance["adapter"]
    with pytest.raises(ConfigError, match="merged"):
        Reranker.beside(embedder.merge_adapter(), adapter)


def test_both_forms_of_saving_give_the_same_scores(tiny_llava: Path, adapter: Path, tmp_path: Path) -> None:
    reranker = load(adapter)
    scores = reranker.scores_of(LISTS, show_progress=False)
    assert reranker.prompt.no == ("bad", "worse")
    reranker.save_pretrained(tmp_path / "merged", merge=True)
    merged = load(tmp_path / "merged")
    for one, other in zip(merged.scores_of(LISTS, show_progress=False), scores, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert merged.prompt == reranker.prompt
    with pytest.raises(ModelError, match="is a re-ranker"):
        MLLMEmbedder.from_pretrained(adapter)


def test_what_is_no_re_ranker_is_refused(
    tiny_llava: Path, other_llava: Path, saved_models: dict[str, Path], adapter: Path
) -> None:
    with pytest.raises(ModelError, match="holds an embedder"):
        load(tiny_llava, adapter=saved_models["adapter"])
    with pytest.raises(ModelError, match="another base"):
        load(other_llava, adapter=adapter)
    with pytest.raises(DataError, match="no place for the task"):
        load(tiny_llava).scores(Query(text="red", task="Find it."), ["red"])
    with pytest.raises(ConfigError, match=r"words must hold \{candidate\} once"):
        load(tiny_llava, prompt={"words": "{query}?"})
    with pytest.raises(ConfigError, match="begin alike"):
        load(tiny_llava, prompt={"words": "{query}{candidate}", "no": "yes"})


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (Query(image=picture(1), instruction="in red", avoid="a dog"), {"instruction": "in red, without a dog"}),
        (Query(image=picture(1), avoid="a dog"), {"instruction": "without a dog"}),
        (Query(text="a cat", avoid="a dog"), {"text": "a cat, without a dog"}),
        (Query(instruction="a cat", avoid="a dog"), {"instruction": "a cat, without a dog"}),
    ],
)
def test_what_a_query_avoids_is_said_in_its_words(tiny_llava: Path, query: Query, said: dict[str, str]) -> None:
    reranker = load(tiny_llava)
    in_words = replace(query, avoid=None, **said)
    assert reranker.scores(query, [picture(2)]) == reranker.scores(in_words, [picture(2)])
    assert reranker.scores(query, [picture(2)]) != reranker.scores(replace(query, avoid="a pig"), [picture(2)])


def test_a_whole_re_ranker_is_a_cross_encoder(tiny_llava: Path, adapter: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    for score in ("difference", "sigmoid"):
        asked = {"words": "{task}{query} or {candidate}?", "task_form": "{task}: ", "score": score}
        reranker = load(tiny_llava, adapter=adapter, prompt=asked)
        reranker.save_pretrained(tmp_path / score, merge=True)
        theirs = CrossEncoder(str(tmp_path / score), device="cpu")
        one, two = picture(1), picture(2)
        query = Query(image=one, instruction="make it red", task="Find")
        ours = [*reranker.scores(query, [two, "black"]), *reranker.scores("white", [Document(image=two, text="green")])]
        pairs = [({"image": one, "text": "make it red"}, two), ({"image": one, "text": "make it red"}, "black")]
        found = [*theirs.predict(pairs, prompt="Find"), *theirs.predict([("white", {"image": two, "text": "green"})])]
        assert found == pytest.approx(ours, abs=1e-4)
    other = load(tiny_llava, adapter=adapter)
    other.save_pretrained(tmp_path / "other", merge=True)  # two ways to say no: theirs has one
    with pytest.raises(Exception, match="cannot ask as this re-ranker"):
        CrossEncoder(str(tmp_path / "other"), device="cpu").predict([("white", "black")])


def test_a_search_asks_it_about_the_first_answers(
    tiny_llava: Path, saved_models: dict[str, Path], adapter: Path, data: Path, tmp_path: Path, capsys
) -> None:
    embedder = MLLMEmbedder.from_pretrained(tiny_llava, adapter=saved_models["adapter"], dtype="float32", device="cpu")
    searcher = Searcher.from_folder(embedder, data / "images", show_progress=False)
    query = Query(image=data / "images/0.png", instruction="make it blue")
    plain, judge = searcher.search(query, 6), Reranker.beside(embedder, adapter)
    scores = judge.scores(query, [Document(image=hit.image) for hit in plain[:4]])
    wanted = [plain[at].id for at in np.argsort(scores)[::-1]] + [hit.id for hit in plain[4:]]
    hits = searcher.search(query, 6, reranker=judge, depth=4)
    assert [hit.id for hit in hits] == wanted != [hit.id for hit in plain]
    heavy = searcher.search(query, 6, reranker=judge, depth=4, weight=1e6)
    assert [hit.id for hit in heavy] == [hit.id for hit in plain]
    command = ["search", "--gallery", str(data / "images"), "--image", str(data / "images/0.png"), "-k", "3"]
    command += ["--instruction", "make it blue", "--output", str(tmp_path / "out.png"), "--model", str(tiny_llava)]
    command += ["--adapter", str(saved_models["adapter"]), "--dtype", "float32", "--reranker", str(adapter)]
    assert main([*command, "--rerank", "4"]) == 0
    assert [line.split()[3] for line in capsys.readouterr().out.splitlines()[1:4]] == wanted[:3]
    assert main(command) == 2 and "--rerank N" in capsys.readouterr().err


def test_a_long_list_is_judged_in_pieces(tiny_llava: Path) -> None:
    reranker, candidates = load(tiny_llava), [picture(seed) for seed in range(7)]
    query, seen = Query(image=picture(9), instruction="make it red"), []
    with pytest.MonkeyPatch.context() as patch:
        shared = type(reranker.model).shared
        patch.setattr(type(reranker.model), "shared", lambda self, batch: seen.append(batch) or shared(self, batch))
        found = reranker.scores(query, candidates, batch_size=3)
    assert [sum(len(part.rows) for part in batch.suffixes) for batch in seen] == [3, 3]  # and one alone
    assert found == pytest.approx(reranker.scores(query, candidates), abs=2e-5)


def test_a_whole_embedder_is_no_re_ranker(tiny_llava: Path, tmp_path: Path) -> None:
    MLLMEmbedder.from_pretrained(tiny_llava).save_pretrained(tmp_path / "whole")
    with pytest.raises(ModelError, match="holds an embedder, which was not trained to judge"):
        load(tmp_path / "whole")


def test_logits_are_not_rounded_by_autocast() -> None:
    words, states = WordLogits(torch.randn(2, 64)), torch.randn(3, 64)
    expected = states @ words.weight.T
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(words(states), expected)
