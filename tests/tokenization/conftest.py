"""Base tokenizers of every kind that the library meets, built on the spot."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = (
    "Convert a length between metres and feet, 12 or 3.5 of them.",
    "Which day of the week was the first of May? It was a Monday!",
    "getLastBlockNumber(chain) -> {number: 42}; <b> is a tag_1 and <a is not",
)

CHAT = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def wordpiece() -> PreTrainedTokenizerFast:
    """Lower-casing WordPiece with [CLS] … [SEP] around a text and neither eos nor bos."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=128,
    )


def metaspace(scheme: str = "first") -> PreTrainedTokenizerFast:
    """SentencePiece-like BPE with byte fallback that puts <s> before a text and </s> after it; no padding token."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> <s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )


@pytest.fixture(scope="session")
def bases(make_tiny_tokenizer) -> dict[str, PreTrainedTokenizerFast]:
    return {
        "bytelevel": make_tiny_tokenizer(),
        "chat": make_tiny_tokenizer(chat_template=CHAT),
        "metaspace": metaspace(),
        "metaspace-always": metaspace("always"),
        "wordpiece": wordpiece(),
    }


@pytest.fixture(params=["bytelevel", "metaspace", "metaspace-always", "wordpiece"])
def base(request, bases) -> PreTrainedTokenizerFast:
    return bases[request.param]


@pytest.fixture
def new_metaspace():
    return metaspace


@pytest.fixture
def corpus() -> tuple[str, ...]:
    return CORPUS
