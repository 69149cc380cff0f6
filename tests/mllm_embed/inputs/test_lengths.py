"""No input is longer than the model's limit: it is named with its reason, or its words are cut where that is asked."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import families
from mllm_embed import Document, MLLMEmbedder, PromptSet, Query, VectorStore
from mllm_embed.cli import main
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.saving.settings import read_settings

LONG = "a hat of many colours, red and blue; " * 400
PICTURE = Image.new("RGB", (64, 64), "red")
PLAIN = {"image": "{image}", "composed": "{image}{instruction}", "text": "{text}", "captioned": "{image}{text}"}


def _embedder(folder: Path, **options: object) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(folder, dtype="float32", device="cpu", **options)


def _length(embedder: MLLMEmbedder, item: object) -> int:
    return embedder.plan([item]).planned.tokens


def test_what_is_too_long_is_named_and_costs_the_others_nothing(tiny_llava: Path) -> None:
    embedder = _embedder(tiny_llava)
    assert _embedder(tiny_llava).item_processor.lengths.limit.tokens == 2048  # its positions
    long = [LONG, Query(image=PICTURE, instruction=LONG), Document(image=PICTURE, text=LONG), Query(text=LONG)]
    for item in long:
        with pytest.raises(DataError, match=r"'a hat of .*' takes at least [\d,]+ tokens, over the limit of 2,048"):
            embedder.encode(["a hat", item])
    unreadable: dict[int, str] = {}
    vectors = embedder.encode([long[0], "a hat", *long[1:]], unreadable=unreadable)
    assert sorted(unreadable) == [0, 2, 3, 4] and "truncate=True" in unreadable[0]
    np.testing.assert_allclose(vectors[1], embedder.encode(["a hat"])[0], atol=1e-6)


@pytest.mark.parametrize("kind", ["text", "composed", "captioned", "composed_text"])
def test_a_limit_is_met_to_the_token(tiny_llava: Path, kind: str) -> None:
    make = {
        "text": lambda words: Document(text=words),
        "composed": lambda words: Query(image=PICTURE, instruction=words),
        "captioned": lambda words: Document(image=PICTURE, text=words),
        "composed_text": lambda words: Query(text=words, instruction="make it red"),
    }[kind]
    whole = _embedder(tiny_llava)
    item = make("a hat of many coloursxyz")
    length = _length(whole, item)
    fits = _embedder(tiny_llava, max_tokens=length)
    np.testing.assert_allclose(fits.encode([item]), whole.encode([item]), atol=1e-6)
    short = _embedder(tiny_llava, max_tokens=length - 1)
    with pytest.raises(DataError, match=f"takes {length} tokens, over the limit of {length - 1}"):
        short.encode([item])
    with pytest.raises(DataError, match=f"takes {length} tokens"):  # as training reads a row
        short.item_processor.prepared(item)
    cut = _embedder(tiny_llava, max_tokens=length - 1, truncate=True)
    shorter = make("a hat of many coloursxy")
    np.testing.assert_allclose(cut.encode([item]), whole.encode([shorter]), atol=1e-6)
    prepared, tokens = cut.item_processor.prepared(item)
    assert tokens == length - 1 and cut.item_processor([prepared])["input_ids"].shape[1] == length - 1


def test_cut_words_keep_the_prompts_end_and_all_that_fits(tiny_llava: Path) -> None:
    """However long the words are, and whatever stands in them, as many tokens stay as there is room for."""
    cut, whole = _embedder(tiny_llava, max_tokens=60, truncate=True), _embedder(tiny_llava)
    others = ("<|end|><s>" * 500, "\u6f22\u5b57" * 5000, "x" * 9000, "\U0001f3a9" * 3000, "\ufdd0" * 900)
    for words in (LONG, LONG * 100, *others):
        for item in (Document(text=words), Query(image=PICTURE, instruction=words)):
            prepared, tokens = cut.item_processor.prepared(item)
            assert 57 <= tokens <= 60  # a character of three tokens may not fit in
            kept = prepared.words
            assert words.startswith(kept)
            shown = type(item)(image=item.image, **{"text" if item.image is None else "instruction": kept})
            np.testing.assert_allclose(cut.encode([item]), whole.encode([shown]), atol=1e-6)


@pytest.mark.parametrize("strip", [True, False])
def test_words_are_cut_with_the_white_space_that_their_prompt_keeps(tiny_llava: Path, strip: bool) -> None:
    prompts = PromptSet("own", **PLAIN, template="none", strip=strip)
    cut = _embedder(tiny_llava, max_tokens=9, truncate=True, prompts=prompts).item_processor
    words = "\n a hat of many colours, red and blue; "
    whole = cut.tokens([words.strip() if strip else words])[0]
    for more in (1, 4):  # the second is so long that a part of it is looked at first
        item, count = cut.prepared(Document(text=words * more))
        assert 8 <= count <= 9 and cut.tokens([cut.render(item)])[0] == whole[:count]


def test_of_two_texts_the_reference_is_cut_first(tiny_llava: Path) -> None:
    cut = _embedder(tiny_llava, max_tokens=100, truncate=True)
    for query in (Query(text=LONG, instruction="make it red"), Query(text=LONG[:300], instruction="make it red")):
        prepared, tokens = cut.item_processor.prepared(query)
        assert prepared.instruction == "make it red" and 1 < len(prepared.text) < 300 and tokens in (99, 100)
    prepared, tokens = cut.item_processor.prepared(Query(text="a hat", instruction=LONG))
    assert prepared.text == "a" and LONG.startswith(prepared.instruction) and tokens in (99, 100)


def test_pictures_are_never_cut(tiny_llava: Path) -> None:
    cut = _embedder(tiny_llava, max_tokens=60, truncate=True)
    assert cut.encode([[PICTURE] * 2][0]).shape == (2, 64)
    with pytest.raises(DataError, match=r"^the given picture takes 115 tokens, over the limit of 60; give fewer p"):
        cut.encode([Document(image=[PICTURE] * 6)])
    with pytest.raises(DataError, match="over the limit of 60"):
        cut.encode([Query(image=[PICTURE] * 6, instruction="make it red")])


_OTHER = {"idefics3", "mllama", "paligemma", "llava_next"}  # whose counts are made otherwise than the others'


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in _OTHER else pytest.mark.slow) for name in families.FAMILIES]
)
def test_every_family_cuts_to_its_limit(family: str, tmp_path: Path) -> None:
    folder = families.make(family, tmp_path / family)
    whole = _embedder(folder)
    wide = Image.new("RGB", (130, 70), "blue")
    items = [Document(text=LONG[:90]), Query(image=wide, instruction=LONG[:90])]
    for item in items:
        length = whole.item_processor([item])["attention_mask"].sum().item()
        assert whole.item_processor.prepared(item)[1] == length
        cut = _embedder(folder, max_tokens=length - 4, truncate=True)
        # both doors agree, and with what the model gets
        prepared, tokens = cut.item_processor.prepared(item)
        assert tokens == length - 4 and cut.item_processor([prepared])["attention_mask"].sum().item() == tokens
        np.testing.assert_allclose(cut.encode([item, "a"])[0], whole.encode([prepared])[0], atol=1e-5)
        with pytest.raises(DataError, match=f"takes {length} tokens, over the limit of {length - 4}"):
            _embedder(folder, max_tokens=length - 4).encode([item])


def test_thirty_megabytes_end_at_once(tiny_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tokenised whole to find out, whatever the text is made of; cut, it is as its beginning is."""
    refusing, cutting = _embedder(tiny_llava), _embedder(tiny_llava, truncate=True)
    kind, longest = type(refusing.processor.tokenizer), [0]
    own = kind.__call__

    def measured(self: object, texts: str | list[str], *given: object, **options: object) -> object:
        longest.append(max(map(len, [texts] if isinstance(texts, str) else texts)))
        return own(self, texts, *given, **options)

    monkeypatch.setattr(kind, "__call__", measured)
    for unit in ("a hat, ", "x", " " * 50 + "a", "<|end|>", "\u6f22"):
        text = (unit * (30_000_000 // len(unit)))[:30_000_000]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(DataError, match="over the limit of 2,048"):
            refusing.plan([text])
        cut, short = (cutting.plan([part]).inputs[0].item.text for part in (text, text[:60_000].strip()))
        assert cut == short
        assert 0 < max(longest) < 100_000
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB


def test_a_limit_that_does_not_fit_is_refused(tiny_llava: Path) -> None:
    for wrong in (0, -1, 2049, True, 1.5, "64"):
        with pytest.raises(ConfigError, match="max_tokens must be between 1 and 2,048, the positions of this model"):
            _embedder(tiny_llava, max_tokens=wrong)
    with pytest.raises(ConfigError, match="truncate is True or False"):
        _embedder(tiny_llava, truncate="yes")
    tight = _embedder(tiny_llava, max_tokens=5, truncate=True)
    with pytest.raises(DataError, match="'a hat' takes .* over the limit of 5"):
        tight.encode(["a hat"])


def test_a_limit_is_saved_and_part_of_whose_vectors_these_are(tiny_llava: Path, tmp_path: Path) -> None:
    plain, limited = _embedder(tiny_llava), _embedder(tiny_llava, max_tokens=64)
    assert limited.provenance == plain.provenance  # it refuses more, and changes no vector
    cut = _embedder(tiny_llava, max_tokens=64, truncate=True)
    assert cut.provenance["settings"] == {**plain.provenance["settings"], "truncate": 64}
    cut.save_pretrained(tmp_path / "cut")
    again = _embedder(tmp_path / "cut")
    assert (again.settings.max_tokens, again.settings.truncate) == (64, True)
    np.testing.assert_allclose(again.encode([LONG]), cut.encode([LONG]), atol=1e-6)
    assert not _embedder(tmp_path / "cut", truncate=False).settings.truncate
    plain.save_pretrained(tmp_path / "plain")
    assert not {"max_tokens", "truncate"} & json.loads((tmp_path / "plain/mllm_embed.json").read_text()).keys()
    assert read_settings(tmp_path / "plain").truncate is False


def test_the_command_line_lists_or_cuts(tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"id": str(at), "text": text}) + "\n" for at, text in enumerate(("hat", LONG))))
    options = ["--model", str(tiny_llava), "--dtype", "float32", "--device", "cpu", "--max-tokens", "40"]
    assert main(["encode", str(rows), "--output", str(tmp_path / "store"), *options]) == 0
    (lost,) = map(json.loads, (tmp_path / "store/unreadable.jsonl").read_text().splitlines())
    assert lost["id"] == "1" and "tokens, over the limit of 40" in lost["reason"] and "--truncate" in lost["reason"]
    assert list(VectorStore(tmp_path / "store").living) == ["0"]
    assert main(["encode", str(rows), "--output", str(tmp_path / "cut"), *options, "--truncate"]) == 0
    assert len(VectorStore(tmp_path / "cut").living) == 2
    # the two are not mixed
    assert main(["encode", str(rows), "--output", str(tmp_path / "store"), *options, "--truncate"]) == 2
    assert "truncate" in capsys.readouterr().err
