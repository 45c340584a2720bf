"""LangChain: an extractor as `Embeddings`, and demonstrations for few-shot prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.encoders.prompts import role_name
from fungi_hf.errors import InputError, OptionalDependencyError
from fungi_hf.icl.examples import Examples
from fungi_hf.icl.selector import DemoSelector

try:
    from langchain_core.embeddings import Embeddings
    from langchain_core.example_selectors import BaseExampleSelector
except ImportError as error:
    raise OptionalDependencyError("langchain_core", "langchain") from error

if TYPE_CHECKING:
    from fungi_hf.extractor import FungiExtractor


class FungiEmbeddings(Embeddings):
    """FUNGI features of texts, [F] floats each, with the encoder's prompts for either role."""

    def __init__(self, extractor: FungiExtractor) -> None:
        self.extractor = extractor

    def embed_documents(self, texts: list[str], role: str = "document") -> list[list[float]]:
        """Give the features of documents."""
        name = role_name(self.extractor.encoder, role)
        found: list[list[float]] = self.extractor(texts, prompt_name=name).array.tolist()
        return found

    def embed_query(self, text: str) -> list[float]:
        """Give the features of one query."""
        return self.embed_documents([text], "query")[0]


class FungiExampleSelector(BaseExampleSelector):
    """Chooses the examples of a `FewShotPromptTemplate` as `DemoSelector` does, in prompt order.

    The texts that are compared stand under `input_key`; further options are the selector's.
    """

    def __init__(
        self, examples: list[dict[str, str]], extractor: FungiExtractor, input_key: str,
        *, k: int = 4, strategy: Any = "knn", **options: Any,
    ) -> None:  # fmt: skip
        self.examples, self._extractor, self._key = list(examples), extractor, input_key
        self._pool = self._of(self.examples)
        self._selector = DemoSelector(strategy, k, **options).fit(self._pool)

    def add_example(self, example: dict[str, str]) -> None:
        """Add an example to the pool; it alone is extracted."""
        one, pool = self._of([example]), self._pool
        parts: Any = [pool.features, one.features]
        texts = (*(pool.contents or ()), example[self._key])
        self._pool = Examples(np.concatenate(parts), texts, fingerprint=pool.fingerprint)
        self.examples.append(example)
        self._selector.fit(self._pool)

    def select_examples(self, input_variables: dict[str, str]) -> list[dict[str, str]]:
        """Give the k examples for one input, in prompt order."""
        shown = self._selector.select(self._of([input_variables]))[0]
        return [self.examples[one.row] for one in shown]

    def _of(self, rows: list[dict[str, str]]) -> Examples:
        for row in rows:
            if self._key not in row:
                raise InputError(f"an example has no {self._key!r}; it has {sorted(row)}")
        texts = [row[self._key] for row in rows]
        return Examples(self._extractor(texts), texts)  # type: ignore[arg-type]
