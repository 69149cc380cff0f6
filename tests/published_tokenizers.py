"""Tokenizers in the form of published embedders', with few words, and chat templates that render what the real ones do.

The templates are our own, for the messages that this library makes (a system turn or none, a user turn of pictures and
words). What they render was compared with the real ones, as public code quotes them: Qwen2-VL's and Qwen2.5-VL's
(xorbitsai/inference, llm_family_modelscope.json), Qwen2.5-Omni's (the same with other marks), Qwen3-VL-Instruct's
(NVIDIA's data set for cosmos-rl, said there to be the same to the byte), llava-v1.6-mistral's and llama3-llava-next's
(transformers' convert_llava_next_weights_to_hf.py), llava-onevision-qwen2's (transformers'
test_processing_llava_onevision.py), Llama-3.2-Vision's (quoted in many places), Phi-3's (InstructCIR's code cuts `<s>`
off it).
"""

from __future__ import annotations

from typing import Any

from families import GEMMA4_TOKENS

_WORDS = (
    "image", "this", "the", "in", "one", "word", "describe", "summary", "above", "make", "it", "red", "modify",
    "represent", "given", "sentence",
)  # fmt: skip
# without a space before them: turns, and line breaks, which are pieces together with what stands beside them
_MORE = ("system", "user", "assistant", "ĊĊĠĊ", "ĠĊ", ".Ċ")

# ---- tokenizers: the pieces of a few words, the rest letter by letter or byte by byte


def _pieces(space: str, *first: list[str], more: tuple[str, ...] = ()) -> dict[str, Any]:
    """The vocabulary of some tokens and the pieces of a few words with a space before them, and the merges of these."""
    words = [*more, *(space + word for word in _WORDS)]
    merges = dict.fromkeys((word[:cut], word[cut]) for word in words for cut in range(1, len(word)))
    tokens = dict.fromkeys([*(token for tokens in first for token in tokens), *map("".join, merges)])
    return {"vocab": {token: number for number, token in enumerate(tokens)}, "merges": list(merges)}


def _alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def qwen(*marks: str, **named: str) -> Any:
    """Qwen2's: bytes; no start token, and what ends a text is the pad token."""
    from transformers import Qwen2Tokenizer

    end = "<|endoftext|>"
    return Qwen2Tokenizer(
        **_pieces("Ġ", [*_alphabet(), end], more=_MORE), eos_token="<|im_end|>", pad_token=end,
        extra_special_tokens=list(marks), model_specific_special_tokens=named,
    )  # fmt: skip


def llama3(pad: str, *marks: str, **named: str) -> Any:
    """Llama 3's: bytes, and a start token that the tokenizer writes."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    start = "<|begin_of_text|>"
    bpe = Tokenizer(models.BPE(**_pieces("Ġ", _alphabet(), more=_MORE)))
    # Llama 3's differs from Qwen2's in this alone
    cuts = PRETOKENIZE_REGEX.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(cuts), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    bpe.add_special_tokens([start, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", pad, *marks])
    bpe.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{start} $A", special_tokens=[(start, bpe.token_to_id(start))]),
    ])  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=start, eos_token="<|eot_id|>", pad_token=pad, extra_special_tokens=list(marks),
        model_specific_special_tokens=named,
    )  # fmt: skip


def _sentence_pieces(*marks: str) -> dict[str, Any]:
    letters = ["▁", *map(chr, range(33, 127))]
    return _pieces("▁", list(marks), [f"<0x{byte:02X}>" for byte in range(256)], letters)


def _llama(end: str, pad: str, turns: tuple[str, ...] = ()) -> Any:
    """Llama's, as files of 2023 and 2024 have it: a space before each piece of text between special tokens, one of its
    own included, and a start token. Of `turns` each takes the white space behind it."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(
        models.BPE(**_sentence_pieces("<unk>", "<s>", "</s>"), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
    )
    plain = dict.fromkeys(("<unk>", "<s>", "</s>", end, pad, "<image>"), False) | dict.fromkeys(turns, True)
    bpe.add_special_tokens([AddedToken(mark, rstrip=takes, normalized=False) for mark, takes in plain.items()])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token=end, pad_token=pad,
        model_specific_special_tokens={"image_token": "<image>"},
    )  # fmt: skip


def mistral() -> Any:
    """Mistral's: Llama's, and its `[INST]` is no token."""
    return _llama("</s>", "<pad>")


def phi3() -> Any:
    """Phi-3's: Llama's, and the marks of turns take the line break behind them."""
    return _llama("<|endoftext|>", "<|endoftext|>", ("<|assistant|>", "<|system|>", "<|end|>", "<|user|>"))


def gemma() -> Any:
    """Gemma's: pieces of sentences without a space before the first word, a start token."""
    from transformers import GemmaTokenizer

    return GemmaTokenizer(
        **_sentence_pieces("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"), add_bos_token=True,
        model_specific_special_tokens=GEMMA4_TOKENS,
    )  # fmt: skip


# ---- chat templates


def turns(start: str, end: str, picture: str, answer: str = "<|im_start|>assistant\n") -> str:
    """A template of turns: `start`, the parts of the message in their order, `end`; a picture becomes `picture`."""
    parts = (
        "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
        "{% if part.type == 'image' %}" + picture + "{% else %}{{ part.text }}{% endif %}"
        "{% endfor %}{% endif %}"
    )
    return (
        "{% for m in messages %}" + start + parts + end + "{% endfor %}"
        "{% if add_generation_prompt %}" + answer + "{% endif %}"
    )  # fmt: skip


def pictures_first(start: str, end: str, picture: str, words: str, answer: str) -> str:
    """A template of turns that writes all pictures before the words, however the message has them."""
    return (
        "{% for m in messages %}" + start
        + "{% for part in m.content if part.type == 'image' %}" + picture + "{% endfor %}"
        + "{% for part in m.content if part.type == 'text' %}" + words + "{% endfor %}" + end + "{% endfor %}"
        + "{% if add_generation_prompt %}" + answer + "{% endif %}"
    )  # fmt: skip


QWEN3_VL = turns("<|im_start|>{{ m.role }}\n", "<|im_end|>\n", "<|vision_start|><|image_pad|><|vision_end|>")
_DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
QWEN2_VL = _DEFAULT_SYSTEM + QWEN3_VL
QWEN2_5_OMNI = _DEFAULT_SYSTEM + turns(
    "<|im_start|>{{ m.role }}\n", "<|im_end|>\n", "<|vision_bos|><|IMAGE|><|vision_eos|>"
)
LLAVA_ONEVISION = pictures_first(
    "<|im_start|>{{ m.role }} ", "<|im_end|>", "<image>", "{{ '\n' + part.text }}", "<|im_start|>assistant\n"
)
_LLAMA3_TURN = "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
_LLAMA3_ANSWER = "<|start_header_id|>assistant<|end_header_id|>\n\n"
LLAVA_LLAMA3 = pictures_first(_LLAMA3_TURN, "", "<image>", "{{ '\n' + part.text }}<|eot_id|>", _LLAMA3_ANSWER)
# a system turn before the first bracket; no generation prompt
LLAVA_MISTRAL = (
    "{% for m in messages %}{% if m.role == 'system' %}<<SYS>>\n{{ m.content[0].text }}\n<</SYS>>\n\n{% else %}[INST] "
    "{% for part in m.content if part.type == 'image' %}<image>\n{% endfor %}"
    "{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %} [/INST]{% endif %}{% endfor %}"
)
# a system turn where there is no picture: the real one gives the day's date in it, or without a clock this one
MLLAMA = (
    "{{ bos_token }}{% if messages[-1].content is string or "
    "messages[-1].content | selectattr('type', 'equalto', 'image') | list | length == 0 %}"
    "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    "<|eot_id|>{% endif %}" + turns(_LLAMA3_TURN, "<|eot_id|>", "<|image|>", answer=_LLAMA3_ANSWER)
)
# takes words alone
PHI3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
