"""Each adapter inside the library that it is for, beside the extractor's and selector's own rows.

Run by `make test-adapters`, in an environment that has these libraries.
"""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from fungi_hf import FungiConfig, FungiExtractor
from fungi_hf.errors import DemoConfigError, InputError
from fungi_hf.icl import DemoSelector, Examples, LabelSpace
from tests.tiny import model_of

pytestmark = [pytest.mark.adapters, pytest.mark.filterwarnings("default")]

TEXTS = [
    "where is my card",
    "card still not here",
    "the top up failed",
    "my top up was declined",
    "a new card please",
    "money is gone after top up",
]
LABELS = ["card", "card", "top_up", "top_up", "card", "top_up"]
QUERIES = ["is the card there yet", "why was the top up declined"]


@pytest.fixture(scope="module")
def extractor():
    prompts = {"query": "the query ", "document": "the document "}
    config = FungiConfig(objectives=("kl",), dtype="float64", prompts=prompts)
    return FungiExtractor.from_pretrained(model_of("bert")[0], config, model_of("bert")[1])


def chosen(extractor, k, **options):
    """Rows of the pool in prompt order, by the package alone."""
    selector = DemoSelector("knn", k, **options).fit(Examples(extractor(TEXTS), TEXTS))
    demos = selector.select(Examples(extractor(QUERIES), QUERIES))
    return [[one.row for one in demos[row]] for row in range(len(QUERIES))]


class TestLangChain:
    def test_embeddings_are_the_extractors(self, extractor):
        from fungi_hf.integrations.langchain import FungiEmbeddings

        embeddings = FungiEmbeddings(extractor)
        documents = extractor(TEXTS, prompt_name="document").array
        assert np.allclose(embeddings.embed_documents(TEXTS), documents)
        query = extractor(QUERIES[:1], prompt_name="query").array[0]
        assert np.allclose(embeddings.embed_query(QUERIES[0]), query)
        assert np.allclose(asyncio.run(embeddings.aembed_query(QUERIES[0])), query)

    def test_a_vector_store_finds_what_the_package_finds(self, extractor):
        from langchain_core.vectorstores import InMemoryVectorStore

        from fungi_hf.integrations.langchain import FungiEmbeddings

        store = InMemoryVectorStore(FungiEmbeddings(extractor))
        store.add_texts(TEXTS)
        found = [one.page_content for one in store.similarity_search(QUERIES[0], k=3)]
        documents = extractor(TEXTS, prompt_name="document").array
        scores = documents @ extractor(QUERIES[:1], prompt_name="query").array[0]
        assert found == [TEXTS[row] for row in np.argsort(-scores)[:3]]

    def test_examples_in_a_prompt_are_those_of_the_selector(self, extractor):
        from langchain_core.prompts import FewShotPromptTemplate, PromptTemplate

        from fungi_hf.integrations.langchain import FungiExampleSelector

        examples = [{"text": t, "label": y} for t, y in zip(TEXTS, LABELS, strict=True)]
        selector = FungiExampleSelector(examples, extractor, "text", k=3)
        template = FewShotPromptTemplate(
            example_selector=selector,
            example_prompt=PromptTemplate.from_template("Text: {text}\nLabel: {label}"),
            suffix="Text: {text}\nLabel:",
            input_variables=["text"],
        )
        for query, rows in zip(QUERIES, chosen(extractor, 3), strict=True):
            shown = [f"Text: {TEXTS[row]}\nLabel: {LABELS[row]}" for row in rows]
            expected = "\n\n".join([*shown, f"Text: {query}\nLabel:"])
            assert template.format(text=query) == expected
        selector.add_example({"text": "is the card here", "label": "card"})
        pool = Examples(extractor([*TEXTS, "is the card here"]), [*TEXTS, "is the card here"])
        demos = DemoSelector("knn", 3).fit(pool).select(Examples(extractor(QUERIES), QUERIES))
        expected = [one.content for one in demos[0]]
        assert [e["text"] for e in selector.select_examples({"text": QUERIES[0]})] == expected
        with pytest.raises(InputError, match="an example has no 'text'; it has"):
            selector.select_examples({"question": "?"})
        with pytest.raises(DemoConfigError, match="k is 9, the pool has 6 rows"):
            FungiExampleSelector(examples, extractor, "text", k=9)


class TestLlamaIndex:
    def test_embeddings_and_retriever(self, extractor):
        from llama_index.core import VectorStoreIndex
        from llama_index.core.schema import TextNode

        from fungi_hf.integrations.llama_index import FungiEmbedding, FungiRetriever

        nodes = [TextNode(text=text, id_=str(row)) for row, text in enumerate(TEXTS)]
        model = FungiEmbedding(extractor)
        documents = extractor(TEXTS, prompt_name="document").array
        assert np.allclose(model.get_text_embedding_batch(TEXTS), documents, atol=1e-6)
        index = VectorStoreIndex(nodes, embed_model=model)
        for query in QUERIES:
            scores = documents @ extractor([query], prompt_name="query").array[0]
            expected = [str(row) for row in np.argsort(-scores)[:3]]
            for retriever in (
                index.as_retriever(similarity_top_k=3),
                FungiRetriever(nodes, extractor, k=3),
            ):
                found = retriever.retrieve(query)
                assert [one.node.node_id for one in found] == expected
            cosines = [one.score for one in found]
            assert np.allclose(cosines, np.sort(scores)[::-1][:3] / 2, atol=1e-6)
        assert len(FungiRetriever(nodes[:2], extractor, k=5).retrieve("card")) == 2


class TestDSPy:
    def test_the_embedder_gives_the_extractors_rows(self, extractor):
        from fungi_hf.integrations.dspy import fungi_embedder

        assert np.allclose(fungi_embedder(extractor)(TEXTS), extractor(TEXTS).array)

    def test_a_program_is_shown_the_selectors_demonstrations(self, extractor):
        import dspy
        from dspy.utils import DummyLM

        from fungi_hf.integrations.dspy import FungiFewShot

        pairs = zip(TEXTS, LABELS, strict=True)
        train = [dspy.Example(text=t, label=y).with_inputs("text") for t, y in pairs]
        program = dspy.Predict("text -> label")
        optimizer = FungiFewShot(train, extractor, k=3, text=lambda fields: fields["text"])
        compiled = optimizer.compile(program)
        for query, rows in zip(QUERIES, chosen(extractor, 3), strict=True):
            model = DummyLM([{"label": "card"}])
            with dspy.context(lm=model):
                assert compiled(text=query).label == "card"
            sent = json.dumps(model.history[-1]["messages"])
            places = [sent.index(TEXTS[row]) for row in rows]
            assert places == sorted(places)  # in prompt order
            assert sum(text in sent for text in TEXTS) == 3
        assert not program.demos  # the student is as it was


def test_lm_eval_reads_the_task_and_scores_it(extractor, tmp_path):
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    from fungi_hf.integrations.lm_eval import export_task

    pool = Examples(extractor(TEXTS), TEXTS, LABELS)
    queries = Examples(extractor(QUERIES), QUERIES, ["card", "top_up"])
    labels = LabelSpace(["card", "top_up"])
    demos = DemoSelector("knn", 3).fit(pool).select(queries)
    task = export_task(tmp_path, "cards", demos, queries, labels)
    rows = [json.loads(line) for line in task.with_suffix(".jsonl").read_text().splitlines()]
    for row, places in zip(rows, chosen(extractor, 3), strict=True):
        assert [one["text"] for one in row["demonstrations"]] == [TEXTS[p] for p in places]
        assert row["prompt"].endswith(f"Text: {row['text']}\nLabel:")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = simple_evaluate(model="dummy", tasks=["cards"], task_manager=manager)
    samples = found["samples"]["cards"]
    assert [one["doc"]["text"] for one in samples] == QUERIES
    for sample, row in zip(samples, rows, strict=True):
        asked = [request[:2] for request in sample["arguments"]]
        assert asked == [(row["prompt"], " card"), (row["prompt"], " top_up")]
        assert sample["target"] == row["label"]
    with pytest.raises(InputError, match="with texts and targets"):
        export_task(tmp_path, "cards", demos, Examples(extractor(QUERIES), QUERIES), labels)
