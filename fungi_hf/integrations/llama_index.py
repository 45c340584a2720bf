"""LlamaIndex: an extractor as an embedding model, and exact search over nodes as a retriever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fungi_hf.encoders.prompts import role_name
from fungi_hf.errors import OptionalDependencyError
from fungi_hf.neighbors import ExactIndex

try:
    from llama_index.core.embeddings import BaseEmbedding
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import MetadataMode, NodeWithScore
except ImportError as error:
    raise OptionalDependencyError("llama_index", "llama-index") from error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.extractor import FungiExtractor


class FungiEmbedding(BaseEmbedding):
    """FUNGI features of texts, [F] floats each, with the encoder's prompts for either role."""

    extractor: Any = None

    def __init__(self, extractor: FungiExtractor, **options: Any) -> None:
        """Keep a fitted extractor; the options are those of `BaseEmbedding`."""
        super().__init__(extractor=extractor, **{"model_name": "fungi-hf", **options})

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        name = role_name(self.extractor.encoder, "document")
        found: list[list[float]] = self.extractor(texts, prompt_name=name).array.tolist()
        return found

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        name = role_name(self.extractor.encoder, "query")
        found: list[float] = self.extractor([query], prompt_name=name).array[0].tolist()
        return found

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


class FungiRetriever(BaseRetriever):
    """The k nodes whose texts are nearest by the cosine of FUNGI features, exactly."""

    def __init__(self, nodes: Sequence[Any], extractor: FungiExtractor, *, k: int = 4) -> None:
        """Extract the nodes' texts, as they are embedded elsewhere, metadata included."""
        super().__init__()
        self._nodes, self._extractor, self._k = list(nodes), extractor, k
        texts = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in self._nodes]
        name = role_name(extractor.encoder, "document")
        self._index = ExactIndex("cosine").fit(extractor(texts, prompt_name=name))

    def _retrieve(self, query_bundle: Any) -> list[Any]:
        name = role_name(self._extractor.encoder, "query")
        query = self._extractor([query_bundle.query_str], prompt_name=name)
        found = self._index.search(query, min(self._k, len(self._nodes)))
        pairs = zip(found.indices[0], found.scores[0], strict=True)
        return [NodeWithScore(node=self._nodes[row], score=float(score)) for row, score in pairs]
