"""Contract: numpy, a buffer used again and torch operations give one and the same mask, that of a search in lists."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from toolscaler import CodeTrie, PrefixConstrainedLogitsProcessor
from toolscaler.decoding.torch_mask import _tries
from toolscaler.errors import ConfigError, DecodingError, InvalidPrefixError

VOCABULARY, EOS = 60, 2
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def random_sequences(rng) -> list[list[int]]:
    """Ids of their own at each depth or not, of one length or not."""
    longest, apart, ragged = int(rng.integers(1, 5)), rng.random() < 0.5, rng.random() < 0.5
    return [
        [
            12 + apart * 8 * place + int(rng.integers(0, 6))
            for place in range(rng.integers(1, longest + 1) if ragged else longest)
        ]
        for _ in range(rng.integers(1, 20))
    ]


def random_view(rng, whole: CodeTrie) -> CodeTrie:
    mask = rng.random(len(whole)) < 0.5
    mask[rng.integers(len(mask))] = True
    return whole.subset(mask=mask)


def expected_tokens(trie: CodeTrie, row: list[int], eos: int | None, prompt_length: int | None) -> set[int]:
    """What may follow a row, by searching the list of allowed sequences."""
    allowed = [sequence[sequence >= 0].tolist() for sequence in trie.sequences]

    def begun(taken):
        return [sequence for sequence in allowed if sequence[: len(taken)] == taken]

    def tail(ids):
        return next(ids[start:] for start in range(len(ids) + 1) if begun(ids[start:]))

    taken = tail(row) if prompt_length is None else row[prompt_length:]
    following = {sequence[len(taken)] for sequence in begun(taken) if len(sequence) > len(taken)}
    if taken in allowed or not following:
        following.add(eos)
    if prompt_length is None and row and row[-1] == eos and tail(row[:-1]) in allowed:
        following = {eos}
    return following - {None}


def random_case(rng):
    sequences = random_sequences(rng)
    whole = CodeTrie.from_token_sequences(sequences)
    rows = 2 * int(rng.integers(1, 5))
    kind = rng.integers(0, 4)
    trie = whole if kind < 2 else random_view(rng, whole)
    if kind == 3:
        trie = [random_view(rng, whole) if rng.random() < 0.8 else whole for _ in range(rng.choice([1, 2, rows]))]
    width = int(rng.integers(0, 8))
    ids = np.empty((rows, width), dtype=np.int64)
    for row in range(rows):
        begun = sequences[rng.integers(len(sequences))]
        begun = begun[: rng.integers(0, len(begun) + 1)] + [EOS] * int(rng.random() < 0.3)
        everything = [*rng.integers(0, VOCABULARY, 10).tolist(), *(begun if rng.random() < 0.8 else [])]
        ids[row] = everything[len(everything) - width :]
    return {
        "trie": trie,
        "ids": torch.from_numpy(ids),
        "eos": EOS if rng.random() < 0.8 else None,
        "prompt_length": None if rng.random() < 0.6 else int(rng.integers(0, width + 1)),
        "scores": torch.from_numpy(rng.normal(size=(rows, VOCABULARY))).to(DTYPES[rng.integers(0, 4)]),
    }


def on_torch(processor: PrefixConstrainedLogitsProcessor) -> PrefixConstrainedLogitsProcessor:
    processor._numpy = False
    return processor


@pytest.mark.parametrize("seed", range(8))
def test_all_ways_equal_a_search_in_lists(seed):
    rng = np.random.default_rng(seed)
    for _ in range(120):
        case = random_case(rng)
        ids, scores, eos, length = case["ids"], case["scores"], case["eos"], case["prompt_length"]
        masked = PrefixConstrainedLogitsProcessor(case["trie"], eos, prompt_length=length)(ids, scores)
        tries = case["trie"] if isinstance(case["trie"], list) else [case["trie"]]
        for row, taken in enumerate(ids.tolist()):
            expected = expected_tokens(tries[row // (len(ids) // len(tries))], taken, eos, length)
            assert set(torch.nonzero(masked[row] != -torch.inf).flatten().tolist()) == expected
            assert torch.equal(masked[row, sorted(expected)], scores[row, sorted(expected)])
        again = PrefixConstrainedLogitsProcessor(case["trie"], eos, prompt_length=length, reuse_buffer=True)
        for _ in range(3):
            assert torch.equal(again(ids, scores), masked)
        torch_way = on_torch(PrefixConstrainedLogitsProcessor(case["trie"], eos, prompt_length=length))
        assert torch.equal(torch_way(ids, scores), masked)


def test_scores_of_any_layout():
    trie = CodeTrie.from_token_sequences([[12, 15], [13, 16], [17, 16]])
    ids = torch.tensor([[5, 12], [5, 13], [5, 5], [13, 16]])
    scores = torch.randn(VOCABULARY, 4).T
    assert not scores.is_contiguous()
    masked = PrefixConstrainedLogitsProcessor(trie, EOS)(ids, scores.contiguous())
    assert torch.equal(PrefixConstrainedLogitsProcessor(trie, EOS)(ids, scores), masked)
    assert torch.equal(PrefixConstrainedLogitsProcessor(trie, EOS)(ids.int(), scores), masked)
    assert torch.equal(PrefixConstrainedLogitsProcessor(trie, EOS)(ids[:3], scores[:3]), masked[:3])


def test_gradients_go_through():
    trie = CodeTrie.from_token_sequences([[12, 15], [13, 16]])
    scores = torch.randn(1, VOCABULARY, requires_grad=True)
    masked = PrefixConstrainedLogitsProcessor(trie, EOS)(torch.tensor([[5, 5]]), scores)
    masked[0, [12, 13]].sum().backward()
    assert torch.nonzero(scores.grad[0]).flatten().tolist() == [12, 13]


# Errors


def test_scores_that_are_no_numbers_name_their_rows():
    trie = CodeTrie.from_token_sequences([[12, 15], [13, 16]])
    ids = torch.tensor([[5, 5], [5, 12], [5, 12], [5, 13]])
    for dtype in DTYPES:
        for bad in (float("nan"), float("inf")):
            for rows in (ids, ids[1:3]):
                scores = torch.zeros(len(rows), VOCABULARY, dtype=dtype)
                scores[:, 20] = bad  # not allowed anywhere
                scores[0, 15] = -torch.inf
                PrefixConstrainedLogitsProcessor(trie, EOS)(rows, scores)
                scores[1, 15] = bad
                with pytest.raises(DecodingError, match=r"rows \[1\]"):
                    PrefixConstrainedLogitsProcessor(trie, EOS)(rows, scores)
            start = torch.zeros(3, VOCABULARY, dtype=dtype)
            start[2, 13] = bad
            with pytest.raises(DecodingError, match=r"rows \[2\]"):
                PrefixConstrainedLogitsProcessor(trie, EOS)(ids[:1].expand(3, -1), start)


def test_rows_that_fit_no_sequence_may_only_end_or_are_named():
    trie = CodeTrie.from_token_sequences([[12, 15], [13, 16], [14]])
    scores = torch.zeros(7, VOCABULARY)
    output = torch.tensor(
        [[12, 15, EOS], [12, 16, EOS], [12, 15, 0], [14, EOS, 0], [EOS, 0, 0], [12, EOS, 0], [7, 7, 7]]
    )
    ids = torch.cat([torch.full((7, 2), 5), output], 1)
    masked = PrefixConstrainedLogitsProcessor(trie, EOS, prompt_length=2)(ids, scores)
    assert [torch.nonzero(row == 0).flatten().tolist() for row in masked] == [[EOS]] * 7
    for way in (lambda processor: processor, on_torch):
        strict = way(PrefixConstrainedLogitsProcessor(trie, EOS, prompt_length=2, on_invalid="raise"))
        with pytest.raises(InvalidPrefixError, match="begin a sequence") as caught:
            strict(ids, scores)
        assert caught.value.rows == (1, 2, 4, 5, 6)
        strict(ids[[0, 3]], scores[:2])
        tails = way(PrefixConstrainedLogitsProcessor(trie, EOS, on_invalid="raise"))
        with pytest.raises(InvalidPrefixError) as caught:
            tails(torch.tensor([[5, 12], [12, 16], [5, 5], [13, 15], [15, EOS]]), scores[:5])
        assert caught.value.rows == (1, 3)
    with pytest.raises(ConfigError, match="on_invalid"):
        PrefixConstrainedLogitsProcessor(trie, EOS, on_invalid="skip")


def test_lists_of_tries_are_checked():
    trie = CodeTrie.from_token_sequences([[12, 15], [13, 16]])
    other = CodeTrie.from_token_sequences([[12, 15], [13, 16]])
    for wrong in ([], [trie, other], [trie, "tool"], "tool", None):
        with pytest.raises(DecodingError, match="trie"):
            PrefixConstrainedLogitsProcessor(wrong, EOS)
    for way in (lambda processor: processor, on_torch):
        with pytest.raises(DecodingError, match="2 tries for 3 rows"):
            way(PrefixConstrainedLogitsProcessor([trie, trie], EOS))(torch.full((3, 2), 5), torch.zeros(3, VOCABULARY))


# The buffer


@pytest.fixture(scope="module")
def trie():
    rng = np.random.default_rng(0)
    return CodeTrie.from_token_sequences(np.unique(rng.integers(0, 5, (40, 3)), axis=0) + np.array([12, 18, 24]))


def states(trie, seed: int, rows: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    depth = int(rng.integers(0, 4))
    chosen = trie.sequences[rng.integers(0, len(trie), rows), :depth]
    ids = torch.from_numpy(np.concatenate([np.full((rows, 3), 5), chosen], 1))
    return ids, torch.from_numpy(rng.normal(size=(rows, VOCABULARY)).astype(np.float32))


def fresh(trie, seed, rows=4):
    return PrefixConstrainedLogitsProcessor(trie, EOS)(*states(trie, seed, rows))


def test_memory_is_used_again_once_nobody_holds_it(trie):
    processor = PrefixConstrainedLogitsProcessor(trie, EOS, reuse_buffer=True)
    addresses = set()
    for seed in range(20):
        addresses.add(processor(*states(trie, seed)).data_ptr())
    assert len(addresses) == 1
    result = None
    for seed in range(20):  # as generate does: the last result lives until the next is there
        result = processor(*states(trie, seed))
        addresses.add(result.data_ptr())
        assert torch.equal(result, fresh(trie, seed))
    assert len(addresses) == 2


HOLDERS = {
    "tensor": lambda tensor: tensor,
    "list": lambda tensor: [tensor],
    "view": lambda tensor: tensor[1:],
    "detached": lambda tensor: tensor.detach(),
    "data": lambda tensor: tensor.data,
    "array": lambda tensor: tensor.numpy(),
    "memory view": lambda tensor: memoryview(tensor.numpy()),
    "storage": lambda tensor: tensor.untyped_storage(),
    "typed storage": lambda tensor: tensor.storage(),
    "other dtype": lambda tensor: tensor.view(torch.int32),
    "dlpack": lambda tensor: torch.utils.dlpack.to_dlpack(tensor),
    "graph": lambda tensor: torch.ones(4, VOCABULARY, requires_grad=True) * tensor,
    "closure": lambda tensor: lambda: tensor,
    "iterator": lambda tensor: iter(tensor),
    "bound method": lambda tensor: tensor.sum,
}


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize("holder", HOLDERS)
def test_a_result_that_somebody_holds_stays_as_it_is(trie, holder):
    processor = PrefixConstrainedLogitsProcessor(trie, EOS, reuse_buffer=True)
    held, addresses, copies = [], [], []
    for seed in range(6):
        result = processor(*states(trie, seed))
        addresses.append(result.data_ptr())
        copies.append(result.clone())
        held.append(HOLDERS[holder](result))
        del result
    gc.collect()
    assert len(set(addresses)) == 6
    if holder in ("tensor", "detached", "data"):
        assert all(torch.equal(a, b) for a, b in zip(held, copies, strict=True))


CHANGES = {
    "in place": lambda tensor: tensor.add_(1),
    "one entry": lambda tensor: tensor.__setitem__((0, 0), 3.0),
    "through a view": lambda tensor: tensor[0].zero_(),
    "through a detached one": lambda tensor: tensor.detach().zero_(),
    "out=": lambda tensor: torch.mul(tensor, 2, out=tensor),
    "shape": lambda tensor: tensor.resize_(VOCABULARY, 4),
    "transposed": lambda tensor: tensor.t_(),
    "gradient": lambda tensor: tensor.requires_grad_(),
    "attribute": lambda tensor: setattr(tensor, "note", 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_result_that_somebody_changed_does_not_come_back(trie, change):
    processor = PrefixConstrainedLogitsProcessor(trie, EOS, reuse_buffer=True)
    for seed in range(12):
        CHANGES[change](processor(*states(trie, seed)))
        result = processor(*states(trie, seed + 100))
        assert torch.equal(result, fresh(trie, seed + 100))
        assert not result.requires_grad
        assert not result.__dict__


def test_shapes_and_dtypes_may_change_between_calls(trie):
    processor = PrefixConstrainedLogitsProcessor(trie, EOS, reuse_buffer=True)
    rng = np.random.default_rng(3)
    kept = []
    for seed in range(150):
        rows, dtype = int(rng.integers(1, 5)), DTYPES[rng.integers(0, 4)]
        ids, scores = states(trie, seed, rows)
        result = processor(ids, scores.to(dtype))
        expected = PrefixConstrainedLogitsProcessor(trie, EOS)(ids, scores.to(dtype))
        assert torch.equal(result, expected)
        assert result.dtype == dtype
        if rng.random() < 0.3:
            kept.append((result, expected))
    assert all(torch.equal(result, expected) for result, expected in kept)


def test_inference_mode_and_errors_leave_the_buffer_sound(trie):
    processor = PrefixConstrainedLogitsProcessor(trie, EOS, reuse_buffer=True)
    for seed in range(20):
        ids, scores = states(trie, seed)
        with torch.inference_mode():
            assert torch.equal(processor(ids, scores), fresh(trie, seed))
        with pytest.raises(DecodingError, match="NaN"):
            processor(ids, torch.full_like(scores, torch.nan))
        assert torch.equal(processor(ids, scores), fresh(trie, seed))


def test_threads_never_share_a_buffer(trie):
    processor = PrefixConstrainedLogitsProcessor(trie, EOS, reuse_buffer=True)
    expected = {seed: fresh(trie, seed, 1 + seed % 3) for seed in range(40)}
    wrong, start = [], threading.Barrier(4)

    def work(number: int) -> None:
        rng, kept = np.random.default_rng(number), []
        start.wait()
        for _ in range(300):
            seed = int(rng.integers(40))
            result = processor(*states(trie, seed, 1 + seed % 3))
            kept = [*kept[-2:], (seed, result)]
            wrong.extend(seed for seed, result in kept if not torch.equal(result, expected[seed]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_copy_has_a_buffer_of_its_own(trie):
    processor = PrefixConstrainedLogitsProcessor(trie, EOS, reuse_buffer=True)
    on_torch(processor)(*states(trie, 1))  # device tensors are not copied
    processor._numpy = True
    processor(*states(trie, 1))
    for other in (copy.deepcopy(processor), copy.copy(processor), pickle.loads(pickle.dumps(processor))):
        a, b = processor(*states(trie, 1)), other(*states(trie, 1))
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()


# Torch operations


class Operations(TorchDispatchMode):
    """Collects the names of all operations but views."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.names.append(func.overloadpacket._qualified_op_name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


SYNCHRONISING = {"item", "_local_scalar_dense", "nonzero", "unique", "_unique2", "masked_select", "repeat_interleave"}


def operations(processor, ids, scores) -> list[str]:
    processor(ids, scores)
    with Operations() as seen:
        processor(ids, scores)
    return seen.names


def test_few_operations_and_none_that_waits():
    rng = np.random.default_rng(0)
    sequences = np.unique(rng.integers(0, 64, (3000, 4)), axis=0) + 100 + 64 * np.arange(4)
    trie = CodeTrie.from_token_sequences(sequences)
    scores = torch.randn(640, 400)
    for depth in range(5):
        chosen = sequences[rng.integers(0, len(sequences), 640), :depth]
        ids = torch.from_numpy(np.concatenate([np.full((640, 6), 7), chosen], 1))
        for length in (None, 6):
            names = operations(on_torch(PrefixConstrainedLogitsProcessor(trie, EOS, prompt_length=length)), ids, scores)
            assert len(names) <= 24
            assert not SYNCHRONISING & set(names)
    views = [trie.subset(mask=rng.random(len(trie)) < 0.5) for _ in range(64)]
    names = operations(on_torch(PrefixConstrainedLogitsProcessor(views, EOS)), ids, scores)
    assert len(names) <= 48
    assert not SYNCHRONISING & set(names)


def test_one_set_of_tensors_a_trie_and_none_left_behind(trie):
    whole = CodeTrie.from_token_sequences(trie.sequences)
    one = on_torch(PrefixConstrainedLogitsProcessor(whole, EOS))
    two = on_torch(PrefixConstrainedLogitsProcessor(whole.subset(mask=np.arange(len(whole)) > 3), EOS))
    for processor in (one, two):
        processor(*states(whole, 1))
    assert one._tables["cpu", None][0] is two._tables["cpu", None][0]
    known = weakref.ref(whole)
    assert known in _tries.keyrefs()
    del one, two, processor, whole
    gc.collect()
    assert known() is None
    assert known not in _tries.keyrefs()


@pytest.mark.parametrize("many", [False, True], ids=["one", "a list each"])
def test_compiles_into_one_graph(trie, many):
    tries = [trie.subset(mask=np.arange(len(trie)) % 4 != k) for k in range(4)] if many else trie
    processor = PrefixConstrainedLogitsProcessor(tries, EOS).prepare("cpu")
    plain = PrefixConstrainedLogitsProcessor(tries, EOS)
    torch._dynamo.reset()
    compiled = torch.compile(lambda ids, scores: processor(ids, scores), fullgraph=True, backend="aot_eager")
    for seed in (0, 1, 2):
        ids, scores = states(trie, seed)
        ids = torch.nn.functional.pad(ids, (6 - ids.shape[1], 0), value=5)
        assert torch.equal(compiled(ids, scores), plain(ids, scores))
    torch._dynamo.reset()
