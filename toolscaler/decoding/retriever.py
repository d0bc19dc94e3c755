"""Queries in, ranked tools with log-probabilities out: constrained beam search over the code trie (section 4.3)."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from tqdm.auto import tqdm

from toolscaler.decoding.trie import CodeTrie
from toolscaler.errors import ConfigError, DecodingError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from toolscaler.tokenization import ToolscalerTokenizer

logger = logging.getLogger(__name__)

Scores = Literal["full", "group"]
DEFAULT_NUM_BEAMS = 10


@dataclass(frozen=True)
class RetrievedTool:
    """One tool of a ranking.

    Attributes:
        name: Tool id.
        score: Log-probability of the tool's code sequence (generative retrieval), or a baseline's own score. Higher is
            better.
        codes: The tool's codes; empty for retrievers that have none.
    """

    name: str
    score: float
    codes: tuple[int, ...] = ()


class GenerativeRetriever:
    """Let a model write the codes of the tools that answer a query.

    Args:
        model: Causal LM that was trained on the codes.
        tokenizer: Its tokenizer. Tools added to or removed from it count from the next call on.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: ToolscalerTokenizer) -> None:
        needed = tokenizer.required_vocab_size
        rows = model.get_input_embeddings().weight.shape[0]
        if rows < needed:
            raise DecodingError(f"expected a model with at least {needed} embedding rows, got {rows}")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._trie: tuple[Any, CodeTrie] | None = None
        self._ended: tuple[CodeTrie, CodeTrie] | None = None
        self._accepted = frozenset(inspect.signature(type(model).forward).parameters)

    @classmethod
    def from_pretrained(cls, name_or_path: str, *, device: str | None = None, **kwargs: Any) -> GenerativeRetriever:
        """Load model and tokenizer from a folder or Hub id.

        Args:
            name_or_path: Folder or repo id.
            device: Device to put the model on; default: CUDA where there is one, else the CPU.
            **kwargs: More arguments of ``AutoModelForCausalLM.from_pretrained``; ``revision`` is the tokenizer's too.
        """
        from transformers import AutoModelForCausalLM

        from toolscaler.tokenization import ToolscalerTokenizer

        tokenizer = ToolscalerTokenizer.from_pretrained(name_or_path, revision=kwargs.get("revision") or "main")
        model = AutoModelForCausalLM.from_pretrained(name_or_path, **kwargs)
        return cls(model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), tokenizer)

    @property
    def trie(self) -> CodeTrie:
        """Trie of the tokenizer's present catalogue; built anew after the catalogue has changed."""
        index = self.tokenizer.tool_index
        if self._trie is None or self._trie[0] is not index:
            self._trie = (index, CodeTrie.from_tokenizer(self.tokenizer))
        return self._trie[1]

    def retrieve(
        self,
        queries: str | Sequence[str],
        top_k: int = 5,
        *,
        tools: Iterable[str] | CodeTrie | None = None,
        num_beams: int | None = None,
        batch_size: int = 16,
        scores: Scores = "full",
        show_progress: bool = False,
    ) -> list[list[RetrievedTool]]:
        """Rank tools for each query.

        Args:
            queries: One query or several.
            top_k: Tools a query at most; fewer where fewer are allowed or the beams end in fewer.
            tools: Ids of the allowed tools, or a trie made by ``retriever.trie.subset``; default: the whole catalogue.
            num_beams: Beam width; default: the larger of 10 and ``top_k``. As many beams as tools make it exact.
            batch_size: Queries a batch.
            scores: ``full``: the sum of log-probabilities over the whole vocabulary, end token included: what
                transformers' beam search gives with ``length_penalty=0``. ``group``: each code's log-probability among
                the codes of its position, no end token.
            show_progress: Show a progress bar.

        Returns:
            One ranking a query, best first. Every tool is in the allowed set.

        Raises:
            UnknownToolError: An allowed tool does not exist.
            EmptyCatalogueError: No tool is allowed.
            ConfigError: A number is below one, or ``scores`` is unknown.
        """
        for name, value in (("top_k", top_k), ("batch_size", batch_size), ("num_beams", num_beams)):
            if value is not None and value < 1:
                raise ConfigError(name, value, "a whole number above zero")
        if scores not in get_args(Scores):
            raise ConfigError("scores", scores, f"one of {get_args(Scores)}")
        trie = self._search_trie(tools, scores)
        texts = [queries] if isinstance(queries, str) else list(queries)
        prompts = [self.tokenizer.encode_retrieval_prompt(text) for text in texts]
        order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))  # alike lengths together: less padding
        results: list[list[RetrievedTool]] = [[] for _ in prompts]
        beams = max(DEFAULT_NUM_BEAMS if num_beams is None else num_beams, top_k)
        with torch.inference_mode(), tqdm(total=len(prompts), desc="retrieve", disable=not show_progress) as progress:
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                found = self._search([prompts[row] for row in rows], trie, beams, scores)
                for row, ended in zip(rows, found, strict=True):
                    results[row] = self._ranking(trie, ended, top_k)
                progress.update(len(rows))
        return results

    def _search_trie(self, tools: Iterable[str] | CodeTrie | None, scores: Scores) -> CodeTrie:
        """Give the trie to search: with the end token behind each sequence where scores count it."""
        trie = self.trie if tools is None else tools if isinstance(tools, CodeTrie) else self.trie.subset(tools=tools)
        if scores == "group":
            return trie
        if self._ended is None or self._ended[0] is not trie:
            self._ended = (trie, trie.with_end_token(self.tokenizer.eos_token_id))
        return self._ended[1]

    def _search(
        self, prompts: list[list[int]], trie: CodeTrie, beams: int, scores: Scores
    ) -> list[list[tuple[float, int]]]:
        """Search one batch; give (score, final node) pairs for each prompt, best first.

        Every live beam is one row, whichever prompt it belongs to. The prompts are run once, and the cache is copied
        only where beams fork.
        """
        device = self.model.device
        ids, mask = self._padded(prompts)
        cache: Any = None
        owner = np.arange(len(prompts))
        nodes, totals = np.zeros(len(prompts), dtype=np.int64), np.zeros(len(prompts))
        ended: list[list[tuple[float, int]]] = [[] for _ in prompts]
        for depth in range(trie.max_length):
            logits, cache = self._forward(ids, mask, cache)
            rows, tokens = trie.children(nodes)
            index = torch.from_numpy(rows).to(device), torch.from_numpy(tokens).to(device)
            gained = self._log_probs(logits, scores, depth)[index].double().cpu().numpy()
            candidates = totals[rows] + gained
            kept = _best_of_each(owner[rows], candidates, beams)
            rows, tokens, totals = rows[kept], tokens[kept], candidates[kept]
            nodes = trie.advance(nodes[rows], tokens)
            owner = owner[rows]
            leaf = trie.is_end(nodes)
            for prompt, total, node in zip(owner[leaf], totals[leaf], nodes[leaf], strict=True):
                ended[prompt].append((float(total), int(node)))
            live = ~leaf
            rows, tokens, totals, nodes, owner = rows[live], tokens[live], totals[live], nodes[live], owner[live]
            if not len(rows):
                break
            source = torch.from_numpy(rows).to(device)
            cache.reorder_cache(source)
            mask = torch.cat([mask[source], mask.new_ones(len(rows), 1)], 1)
            ids = torch.from_numpy(tokens[:, None]).to(device)
        return [sorted(entries, key=lambda entry: -entry[0]) for entries in ended]

    def _padded(self, prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        return ids.to(self.model.device), mask.to(self.model.device)

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        """Run the model on new columns; give the logits of the last one, (rows, vocabulary), and the cache."""
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": True}
        if cache is not None:
            given["past_key_values"] = cache
        if "position_ids" in self._accepted:
            given["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if "logits_to_keep" in self._accepted:
            given["logits_to_keep"] = 1
        outputs = self.model(**given)
        return outputs.logits[:, -1], outputs.past_key_values

    def _log_probs(self, logits: torch.Tensor, scores: Scores, depth: int) -> torch.Tensor:
        """Normalise (rows, vocabulary) logits over the vocabulary, or over the codes of the position."""
        if scores == "full":
            return logits.float().log_softmax(-1)
        sizes = self.tokenizer.code_sizes
        start = self.tokenizer.first_code_id + sum(sizes[:depth])
        group = logits[:, start : start + sizes[depth]].float().logsumexp(-1, keepdim=True)
        return logits.float() - group

    def _ranking(self, trie: CodeTrie, ended: list[tuple[float, int]], top_k: int) -> list[RetrievedTool]:
        found = []
        for score, node in ended:
            for tool in trie.tools_at(node):
                name = trie.tool_ids[tool]
                found.append(RetrievedTool(name, score, tuple(self.tokenizer.tool_index[name])))
        return found[:top_k]


def _best_of_each(owner: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Give the indices of the ``count`` largest values of each owner, owners in order, best first."""
    order = np.lexsort((-values, owner))
    grouped = owner[order]
    first = np.searchsorted(grouped, grouped)
    return order[np.arange(len(order)) - first < count]
