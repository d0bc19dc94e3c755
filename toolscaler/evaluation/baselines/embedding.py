"""Embedding similarity: the tool whose document lies closest to the query, for any encoder of texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from tqdm.auto import tqdm

from toolscaler._optional import require
from toolscaler.data.documents import ToolDocument
from toolscaler.decoding import Ranking
from toolscaler.errors import ConfigError, EvaluationError
from toolscaler.evaluation.baselines.catalogue import Catalogue, check_request, document_text, search_words


@runtime_checkable
class TextEncoder(Protocol):
    """Whatever turns texts into vectors; a sentence-transformers model is one."""

    def encode(self, texts: list[str], /) -> Any:
        """Give (number of texts, dimensions) numbers: an array, a tensor or a list of rows."""
        ...


class EmbeddingRetriever:
    """Rank tools by the cosine similarity of query and document (the paper's EmbSim, section 5.1).

    Args:
        documents: The tools.
        encoder: Anything with ``encode(list[str]) -> (n, dimensions)``; or ``"lsa"``: an :class:`LsaEncoder` fitted on
            the documents; or the name or folder of a sentence-transformers model (extra ``eval``). An
            :class:`~toolscaler.evaluation.baselines.EmbeddingEndpoint` is one too.
        batch_size: Texts given to the encoder, and queries compared, at a time.
        text: What of a document is encoded; default: :func:`~toolscaler.evaluation.baselines.document_text`.
        query_prefix: Put before every query, for models that were trained with one (``query: ``).
        document_prefix: Put before every document.
        show_progress: Show a progress bar while documents are encoded.

    Raises:
        EmptyCatalogueError: There are no documents.
        EvaluationError: Two documents have the same id, or the encoder gives something else than finite vectors.
        ConfigError: ``batch_size`` is below one, or ``encoder`` has no ``encode``.
        MissingDependencyError: The package of a named encoder is not installed.
    """

    def __init__(
        self,
        documents: Sequence[ToolDocument],
        encoder: TextEncoder | str,
        *,
        batch_size: int = 64,
        text: Callable[[ToolDocument], str] = document_text,
        query_prefix: str = "",
        document_prefix: str = "",
        show_progress: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ConfigError("batch_size", batch_size, "a whole number above zero")
        self.catalogue = Catalogue(documents)
        self.batch_size, self.query_prefix = batch_size, query_prefix
        texts = [document_prefix + text(document) for document in documents]
        self.encoder: Any = _load_encoder(encoder, texts)
        parts = [
            self._encode(texts[start : start + batch_size])
            for start in tqdm(range(0, len(texts), batch_size), desc="encode documents", disable=not show_progress)
        ]
        #: float32 (N, dimensions), of length one (or zero, where a document means nothing to the encoder).
        self.embeddings: np.ndarray = np.concatenate(parts)

    def retrieve(
        self,
        queries: str | Sequence[str],
        top_k: int = 5,
        *,
        tools: Iterable[str] | None = None,
        show_progress: bool = False,
    ) -> list[Ranking]:
        """Rank tools for each query.

        Args:
            queries: One query or several.
            top_k: Tools a query; fewer only where fewer are allowed.
            tools: Ids of the allowed tools; default: all.
            show_progress: Show a progress bar.

        Returns:
            One ranking a query, best first, scores between -1 and 1; equal scores in the order of the documents.

        Raises:
            UnknownToolError: An allowed tool does not exist.
            EmptyCatalogueError: No tool is allowed.
            ConfigError: ``top_k`` is below one.
            EvaluationError: The encoder gives something else than finite vectors of the documents' dimension.
        """
        texts, rows = check_request(queries, top_k), self.catalogue.rows(tools)
        found: list[Ranking] = []
        starts = range(0, len(texts), self.batch_size)
        for start in tqdm(starts, desc="embedding", disable=not show_progress):
            scores = self.scores(texts[start : start + self.batch_size])
            found += [self.catalogue.best(row, top_k, rows) for row in scores]
        return found

    def scores(self, queries: Sequence[str]) -> np.ndarray:
        """Give the cosines of queries, encoded as one batch, with all tools: float32 (Q, N), from -1 to 1.

        Raises:
            EvaluationError: The encoder gives something else than finite vectors of the documents' dimension.
        """
        vectors = self._encode([self.query_prefix + text for text in queries])
        if vectors.shape[1] != self.embeddings.shape[1]:
            raise EvaluationError(
                f"expected query vectors of the documents' {self.embeddings.shape[1]} dimensions, the encoder gave "
                f"{vectors.shape[1]}"
            )
        return np.clip(vectors @ self.embeddings.T, -1.0, 1.0)

    def _encode(self, texts: list[str]) -> np.ndarray:
        """Encode texts as float32 (n, dimensions) of length one."""
        given = self.encoder.encode(texts)
        if hasattr(given, "detach"):  # a tensor, perhaps on a device
            given = given.detach().cpu().float().numpy()
        vectors = np.asarray(given, dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise EvaluationError(
                f"expected finite vectors (n, dimensions) for {len(texts)} texts, the encoder gave "
                f"shape {vectors.shape}{'' if np.isfinite(vectors).all() else ' with values that are not finite'}"
            )
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        return (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


class LsaEncoder:
    """Latent semantic analysis: TF-IDF of words, then a truncated SVD; offline and without a download.

    Words are those of :func:`~toolscaler.evaluation.baselines.search_words`. Only the texts given to :meth:`fit` shape
    it, so that a baseline fitted on documents has seen no query. Needs scikit-learn (extra ``eval``).

    Args:
        num_dimensions: Dimensions; fewer where there are fewer texts or words.
        seed: Seed of the SVD.
    """

    def __init__(self, num_dimensions: int = 128, *, seed: int = 0) -> None:
        if num_dimensions < 1:
            raise ConfigError("num_dimensions", num_dimensions, "a whole number above zero")
        self.num_dimensions, self.seed = num_dimensions, seed
        self._vectorizer: Any = None
        self._projection: np.ndarray | None = None

    def fit(self, texts: Sequence[str]) -> LsaEncoder:
        """Learn words, their weights and the dimensions from texts.

        Raises:
            EvaluationError: No text has a word.
            MissingDependencyError: scikit-learn is not installed.
        """
        purpose = "LsaEncoder"
        features = require("sklearn.feature_extraction.text", extra="eval", purpose=purpose)
        decomposition = require("sklearn.decomposition", extra="eval", purpose=purpose)
        vectorizer = features.TfidfVectorizer(analyzer=search_words, sublinear_tf=True, dtype=np.float32)
        try:
            table = vectorizer.fit_transform(texts)
        except ValueError as error:
            raise EvaluationError(f"expected texts with words to fit on, got {len(texts)} without any") from error
        size = min(self.num_dimensions, min(table.shape) - 1)
        # With a single text or word there is nothing to reduce: the TF-IDF vectors are used as they are.
        svd = decomposition.TruncatedSVD(size, n_iter=5, random_state=self.seed).fit(table) if size > 0 else None
        # Contiguous: the SVD's own transform copies all components anew for every batch.
        self._projection = None if svd is None else np.ascontiguousarray(svd.components_.T, dtype=np.float32)
        self._vectorizer = vectorizer
        return self

    def encode(self, texts: list[str]) -> np.ndarray:
        """Give float32 (n, dimensions).

        Raises:
            EvaluationError: The encoder was not fitted.
        """
        if self._vectorizer is None:
            raise EvaluationError("LsaEncoder: expected a fitted encoder; call fit(texts) on the documents first")
        table = self._vectorizer.transform(texts)
        return np.asarray(table.toarray() if self._projection is None else table @ self._projection, dtype=np.float32)


def _load_encoder(encoder: TextEncoder | str, document_texts: list[str]) -> TextEncoder:
    if isinstance(encoder, str):
        if encoder == "lsa":
            return LsaEncoder().fit(document_texts)
        package = require("sentence_transformers", extra="eval", purpose=f"the encoder {encoder!r}")
        try:
            return package.SentenceTransformer(encoder)
        except (OSError, ValueError) as error:
            raise ConfigError("encoder", encoder, f"'lsa' or a sentence-transformers model: {error}") from error
    if not callable(getattr(encoder, "encode", None)):
        raise ConfigError("encoder", encoder, "an object with encode(texts), 'lsa', or a sentence-transformers model")
    return encoder
