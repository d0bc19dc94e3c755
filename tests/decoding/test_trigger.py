"""Contract: behind every marker exactly one code sequence, everything else free; against a twin that reads the text."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from toolscaler import CodeTrie, PrefixConstrainedLogitsProcessor, ToolscalerTokenizer
from toolscaler.decoding.marker import _cache, marker_table, token_bytes
from toolscaler.errors import ConfigError, DecodingError

CORPUS = [
    "Thought: I need the weather.\nAction: get_weather\nAction Input: {}\n",
    "Action:",
    "Actions speak louder: Action",
    "An Act ion : of Nation:",
    "行动：",
    "How many feet are twelve metres? Count the words in this text, which is no action.",
] * 3
WORDS = ["Act", "ion", "Action", ":", ": ", " ", "\n", "A", "tion", "Thought", " Action", "\n\nAction:", "Actions", "."]


def wrapped(backend: Tokenizer, end: str, unknown: str | None = None) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, pad_token="<pad>", unk_token=unknown)


def byte_level() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=350, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return wrapped(backend, "</s>")


def metaspace_unigram() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return wrapped(backend, "</s>", "<unk>")


def word_piece() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=["<pad>", "[UNK]", "[SEP]"], show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return wrapped(backend, "[SEP]", "[UNK]")


def byte_fallback() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<pad>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator(
        CORPUS[0:3] + CORPUS[5:6],
        trainers.BpeTrainer(vocab_size=330, special_tokens=special, show_progress=False),
    )
    return wrapped(backend, "</s>", "<unk>")


KINDS = {"bytes": byte_level, "metaspace": metaspace_unigram, "wordpiece": word_piece, "fallback": byte_fallback}
MARKERS = ["Action:", "Action: ", "\nAction:", " Action: ", "Action:\n"]


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, ToolscalerTokenizer]:
    codes = np.unique(np.random.default_rng(0).integers(0, 3, (9, 3)), axis=0)
    names = [f"tool_{number}" for number in range(len(codes))]
    return {
        kind: ToolscalerTokenizer.from_tokenizer(make(), codes=codes, tool_ids=names, code_sizes=(3, 3, 3))
        for kind, make in KINDS.items()
    }


class Twin:
    """Reads a row from its first id on, with the tokenizer's own decoder, and searches strings."""

    def __init__(self, tokenizer, marker: str, trie: CodeTrie, codes: set[int]) -> None:
        self.backend, self.codes, self.eos = tokenizer.backend_tokenizer, codes, tokenizer.eos_token_id
        self.anchor = next(token for token in range(len(tokenizer)) if self.backend.decode([token]).isalnum())
        written = self.backend.decode(tokenizer(marker, add_special_tokens=False)["input_ids"])
        text = marker if written.strip() == marker.strip() else written.strip() + marker[len(marker.rstrip()) :]
        self.core, self.space = text.rstrip(), text[len(text.rstrip()) :]
        self.allowed = [tuple(row[row >= 0].tolist()) for row in trie.sequences]
        self.tokens = range(len(tokenizer))

    def text(self, ids) -> str:
        """Text behind other text, where no decoder takes away a first space."""
        return self.backend.decode([self.anchor, *ids], skip_special_tokens=False)

    def due(self, text: str) -> str | None:
        """White space that may still come behind a marker at the end of the text, ``None`` where none is there."""
        for size in range(len(self.space) + 1):
            if text.endswith(self.core + self.space[:size]):
                return self.space[size:]
        return None

    def read(self, row: list[int]) -> tuple[list[int], tuple[int, ...] | None]:
        """Give the ids since the last sequence, and the sequence that has begun (``None``: free text)."""
        begin, taken = 0, None
        for place, token in enumerate(row):
            if taken is not None and any(one[: len(taken) + 1] == (*taken, token) for one in self.allowed):
                taken = (*taken, token)
                if taken in self.allowed:
                    begin = place + 1
                if not any(len(one) > len(taken) and one[: len(taken)] == taken for one in self.allowed):
                    taken = None
                continue
            taken = None
            if self.text([token]) == self.text([]):
                begin = place + 1
            elif self.due(self.text(row[begin : place + 1])) is not None:
                taken = ()
        return row[begin:], taken

    def expected(self, row: list[int]) -> set[int]:
        """Give the known tokens that may follow."""
        since, taken = self.read(row)
        before = self.text(since)
        children = (
            {one[len(taken)] for one in self.allowed if one[: len(taken)] == taken and len(one) > len(taken)}
            if taken is not None
            else set()
        )
        if taken == ():
            space = self.due(before)
            texts = {token: self.text([*since, token]) for token in self.tokens}
            return children | {
                token
                for token, text in texts.items()
                if len(text) > len(before) and text.startswith(before) and space.startswith(text[len(before) :])
            }
        if taken is not None and taken not in self.allowed:
            return children
        return children | {token for token in self.tokens if self.free(since, before, token)}

    def free(self, since: list[int], before: str, token: int) -> bool:
        """Say whether a token may follow in free text: it must not write on behind a marker that it completes."""
        if token == self.eos or token in self.codes:
            return token == self.eos
        after = self.text([*since, token])
        at = after.find(self.core, max(0, len(before) - len(self.core) + 1))
        while at >= 0:
            if not self.space.startswith(after[at + len(self.core) :]):
                return False
            at = after.find(self.core, at + 1)
        return True


def random_row(rng, pieces, marker_ids, trie, width: int, vocabulary: int) -> list[int]:
    row: list[int] = []
    while len(row) < width:
        kind = rng.random()
        if kind < 0.55:
            row += pieces[rng.integers(len(pieces))]
        elif kind < 0.9:
            sequence = trie.sequences[rng.integers(len(trie))]
            sequence = sequence[sequence >= 0].tolist()
            row += (marker_ids if rng.random() < 0.7 else []) + sequence[: rng.integers(1, len(sequence) + 1)]
        else:
            row.append(int(rng.integers(vocabulary)))
    return row[len(row) - width :]


@pytest.mark.parametrize("marker", MARKERS, ids=["plain", "space", "line", "spaces", "line behind"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_a_twin_that_reads_the_text(tokenizers, kind, marker):
    """Codes and tools of ordinary tokens, whole and per-row allow-lists, any prompt, numpy and torch."""
    tokenizer, rng = tokenizers[kind], np.random.default_rng(0)
    plain = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("get weather", "get", "words", "Act")]
    wholes = [CodeTrie.from_tokenizer(tokenizer), CodeTrie.from_token_sequences(plain)]
    marker_ids = tokenizer(marker, add_special_tokens=False)["input_ids"]
    pieces = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in WORDS] + [marker_ids] * 6
    vocabulary = len(tokenizer) + 5  # a head wider than the tokenizer
    met = {"due": 0, "inside": 0, "free": 0}
    for number in range(16):
        whole = wholes[number % 3 == 2]
        tries = [whole.subset(mask=rng.permutation(len(whole)) < 1 + len(whole) // 2) for _ in range(2)]
        tries = [whole] if number % 2 else tries
        free_codes = number % 5 == 0
        processor = PrefixConstrainedLogitsProcessor(
            tries if len(tries) > 1 else whole,
            tokenizer.eos_token_id,
            trigger=marker,
            tokenizer=tokenizer,
            codes_in_text=free_codes,
        )
        width = int(rng.integers(0, 24))
        rows = [random_row(rng, pieces, marker_ids, whole, width, vocabulary) for _ in range(4)]
        ids = torch.tensor(rows, dtype=torch.long).reshape(4, width)
        scores = torch.from_numpy(rng.normal(size=(4, vocabulary)))
        masked = processor(ids, scores)
        processor._numpy = False
        assert torch.equal(processor(ids, scores), masked)
        first = tokenizer.first_code_id
        codes = set() if free_codes or whole is wholes[1] else set(range(first, first + tokenizer.num_code_tokens))
        for row, taken in enumerate(rows):
            twin = Twin(tokenizer, marker, tries[row // (4 // len(tries))], codes)
            stays = torch.nonzero(masked[row] != -torch.inf).flatten().tolist()
            assert {token for token in stays if token < len(tokenizer)} == twin.expected(taken)
            assert torch.equal(masked[row, stays], scores[row, stays])
            state = twin.read(taken)[1]
            met["free" if state is None else "inside" if state else "due"] += 1
    assert min(met.values()) > 4  # premise


def stays(processor, ids: list[int], vocabulary: int) -> set[int]:
    masked = processor(torch.tensor([ids]), torch.zeros(1, vocabulary))
    return set(torch.nonzero(masked[0] == 0).flatten().tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_from_prompt_to_text_again(tokenizers, kind):
    tokenizer = tokenizers[kind]
    vocabulary, eos = len(tokenizer), tokenizer.eos_token_id
    processor = PrefixConstrainedLogitsProcessor(
        CodeTrie.from_tokenizer(tokenizer), eos, trigger="Action:", tokenizer=tokenizer
    )
    codes = set(range(tokenizer.first_code_id, vocabulary))
    prompt = tokenizer("Thought: count.\nAction:", add_special_tokens=False)["input_ids"]
    tool = tokenizer.encode_tool("tool_4")
    sequences = tokenizer.tool_token_ids().tolist()
    assert stays(processor, prompt, vocabulary) == {row[0] for row in sequences}
    assert stays(processor, prompt + tool[:1], vocabulary) == {row[1] for row in sequences if row[0] == tool[0]}
    assert stays(processor, prompt + tool[:2], vocabulary) == {row[2] for row in sequences if row[:2] == tool[:2]}
    after = stays(processor, prompt + tool, vocabulary)
    assert eos in after
    assert not after & codes
    assert len(after) > vocabulary - len(codes) - 20
    assert stays(processor, prompt + tool + prompt, vocabulary) == {row[0] for row in sequences}
    # Codes without a marker, and a marker with text behind it, mean nothing.
    assert eos in stays(processor, tool[:2], vocabulary)
    assert eos in stays(processor, prompt + tokenizer(" count", add_special_tokens=False)["input_ids"], vocabulary)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["greedy", "sampling", "beams", "several"])
def test_generate_writes_one_tool_behind_each_marker(make_model, tokenizers, kind, mode):
    tokenizer = tokenizers[kind]
    model = make_model(tokenizer, pad_to_multiple_of=64)
    processor = PrefixConstrainedLogitsProcessor(
        CodeTrie.from_tokenizer(tokenizer), tokenizer.eos_token_id, trigger="Action: ", tokenizer=tokenizer
    )
    texts = ["Thought: count.\nAction: ", "Count the words", "Thought: Act"]
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    inputs = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    marker = tokenizer("Action:", add_special_tokens=False)["input_ids"]

    def push(ids, scores):
        """Make the model write markers: it goes on with one where it stands in front of or inside of one."""
        for row, taken in enumerate(ids.tolist()):
            step = next((k for k in range(len(marker) - 1, 0, -1) if taken[-k:] == marker[:k]), 0)
            scores[row, marker[step]] += 40 if step or row % 2 else 0
        scores[:, tokenizer.eos_token_id] -= 100
        return scores

    options = {
        "greedy": {},
        "sampling": {"do_sample": True, "top_k": 0},
        "beams": {"num_beams": 3},
        "several": {"do_sample": True, "num_return_sequences": 3, "top_k": 0},
    }[mode]
    torch.manual_seed(0)
    found = model.generate(
        **inputs, logits_processor=[push, processor], max_new_tokens=40, min_new_tokens=20, **options
    )
    first, count = tokenizer.first_code_id, 0
    table = marker_table(tokenizer, "Action: ")
    sequences = {tuple(row) for row in tokenizer.tool_token_ids().tolist()}
    for row in found.tolist():
        place = 0
        while place < len(row):
            if first <= row[place] < len(tokenizer):  # generated in no other place than behind a marker
                taken = tuple(row[place : place + 3])
                assert taken in sequences or place + 3 > len(row)
                assert tokenizer.backend_tokenizer.decode(row[:place]).rstrip().endswith(table.text.rstrip())
                place, count = place + 3, count + 1
            else:
                place += 1
        text = tokenizer.backend_tokenizer.decode(row, skip_special_tokens=False)
        parts = text.split(table.text.rstrip())[1:]
        assert all(part.lstrip().startswith("<a_") for part in parts[:-1])
        assert not parts or not parts[-1].strip() or parts[-1].lstrip().startswith("<a_")
    assert count >= 2  # premise


# The marker and the vocabulary


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_tokens_spell_the_text(tokenizers, kind):
    tokenizer = tokenizers[kind]
    texts = token_bytes(tokenizer.backend_tokenizer)
    assert len(texts) == len(tokenizer)
    for text in [*CORPUS[:6], "a 行动 b ünï"]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        spelled = b"".join(texts[token] for token in ids).decode()
        assert spelled.strip() == tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False).strip()


@pytest.mark.parametrize("kind", ["bytes", "fallback"])
def test_a_marker_of_characters_that_are_cut_into_bytes(tokenizers, kind):
    tokenizer = tokenizers[kind]
    processor = PrefixConstrainedLogitsProcessor(
        CodeTrie.from_tokenizer(tokenizer), tokenizer.eos_token_id, trigger="动→", tokenizer=tokenizer
    )
    ids = tokenizer("行动→", add_special_tokens=False)["input_ids"]
    assert len(ids) > 3  # premise
    first = {row[0] for row in tokenizer.tool_token_ids().tolist()}
    assert stays(processor, ids, len(tokenizer)) == first
    assert not stays(processor, ids[:-1], len(tokenizer)) & first


def test_a_marker_that_is_a_token_of_its_own(tokenizers):
    base = byte_level()
    base.add_tokens(["<call>"], special_tokens=True)
    tokenizer = ToolscalerTokenizer.from_tokenizer(base, codes=[[0], [1]], tool_ids=["a", "b"], code_sizes=(2,))
    trie = CodeTrie.from_tokenizer(tokenizer)
    processor = PrefixConstrainedLogitsProcessor(trie, tokenizer.eos_token_id, trigger="<call>", tokenizer=tokenizer)
    call = tokenizer.convert_tokens_to_ids("<call>")
    assert stays(processor, [5, call], len(tokenizer)) == set(trie.sequences[:, 0].tolist())
    assert call in stays(processor, [5], len(tokenizer))


def test_tables_are_made_once_and_go_with_the_tokenizer():
    tokenizer = byte_level()
    table = marker_table(tokenizer, "Action:")
    assert marker_table(tokenizer, "Action:") is table
    assert marker_table(tokenizer, "Action: ") is not table
    tokenizer.add_tokens(["<more>"])
    assert marker_table(tokenizer, "Action:").vocabulary == table.vocabulary + 1
    known = weakref.ref(tokenizer)
    assert known in _cache.keyrefs()
    del tokenizer
    gc.collect()
    assert known not in _cache.keyrefs()


def test_errors(tokenizers):
    tokenizer = tokenizers["bytes"]
    trie = CodeTrie.from_tokenizer(tokenizer)
    for marker in ("", " \n", 3, "x" * 200):
        with pytest.raises(ConfigError, match="trigger"):
            PrefixConstrainedLogitsProcessor(trie, trigger=marker, tokenizer=tokenizer)
    with pytest.raises(ConfigError, match="tokenizer"):
        PrefixConstrainedLogitsProcessor(trie, trigger="Action:")
    with pytest.raises(DecodingError, match="fast tokenizer"):
        PrefixConstrainedLogitsProcessor(trie, trigger="Action:", tokenizer="gpt2")
    with pytest.raises(DecodingError, match="knows the trie's tokens"):
        PrefixConstrainedLogitsProcessor(trie, trigger="Action:", tokenizer=byte_level())
    for options in ({"prompt_length": 3}, {"reuse_buffer": True}, {"on_invalid": "raise"}):
        with pytest.raises(ConfigError, match="with a trigger"):
            PrefixConstrainedLogitsProcessor(trie, trigger="Action:", tokenizer=tokenizer, **options)
    words = tokenizers["wordpiece"]
    with pytest.raises(DecodingError, match="text that the tokenizer knows"):
        PrefixConstrainedLogitsProcessor(CodeTrie.from_tokenizer(words), trigger="☃:", tokenizer=words)
    processor = PrefixConstrainedLogitsProcessor(trie, trigger="Action:", tokenizer=tokenizer)
    scores = torch.zeros(2, len(tokenizer))
    scores[1, 40] = torch.nan
    with pytest.raises(DecodingError, match=r"rows \[1\]"):
        processor(torch.full((2, 3), 50), scores)


def test_trigger_compiles_into_one_graph(tokenizers):
    tokenizer = tokenizers["bytes"]
    trie, eos = CodeTrie.from_tokenizer(tokenizer), tokenizer.eos_token_id
    options = {"trigger": "Action:", "tokenizer": tokenizer}
    processor = PrefixConstrainedLogitsProcessor(trie, eos, **options).prepare("cpu")
    plain = PrefixConstrainedLogitsProcessor(trie, eos, **options)
    torch._dynamo.reset()
    compiled = torch.compile(lambda ids, scores: processor(ids, scores), fullgraph=True, backend="aot_eager")
    marker = tokenizer("Action:", add_special_tokens=False)["input_ids"]
    tool = tokenizer.encode_tool("tool_2")
    for tail in (marker, marker + tool[:2], [50]):
        ids = torch.tensor([([60] * 20 + tail)[-20:], [60] * 20])
        scores = torch.randn(2, len(tokenizer))
        assert torch.equal(compiled(ids, scores), plain(ids, scores))
    torch._dynamo.reset()
