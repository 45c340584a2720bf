"""Features as columns of a Ray data set."""

from __future__ import annotations

import numpy as np
import pytest

from fungi_hf.errors import ConfigError, InputTypeError, NotFittedError
from fungi_hf.integrations.ray import FungiBatches, extract_dataset
from tests.tiny import TEXTS, extractor_of


def by_row(rows, name="text_fungi"):
    found = {row["row"]: row[name] for row in rows}
    assert len(found) == len(rows)
    return np.array([found[row] for row in sorted(found)])


def test_two_actors_give_what_one_process_gives(cluster, table, folder, wanted, tmp_path):
    dataset = cluster.data.read_parquet(str(table)).repartition(8)
    made = extract_dataset(dataset, folder, workers=2, batch_size=250)
    made.write_parquet(str(tmp_path / "out"))
    import pyarrow.parquet as pq

    whole = pq.read_table(tmp_path / "out")
    rows = whole["row"].to_pylist()
    assert sorted(rows) == list(range(2000))  # every id, once
    assert str(whole.schema.field("text_fungi").type).startswith("fixed_size_list<")
    found = np.stack(whole["text_fungi"].to_numpy(zero_copy_only=False))
    assert np.abs(found - wanted.array[rows]).max() < 1e-5
    assert whole["text"].to_pylist() == texts_of(table, rows)


def texts_of(table, rows):
    import pyarrow.parquet as pq

    texts = pq.read_table(table)["text"].to_pylist()
    return [texts[row] for row in rows]


def test_an_extractor_in_memory_is_sent_once(cluster):
    extractor = extractor_of(objectives=("kl",), dtype="float32")
    items = [{"row": i, "text": text} for i, text in enumerate(TEXTS)]
    made = extract_dataset(cluster.data.from_items(items), extractor, workers=1)
    found = by_row(made.take_all())
    assert np.abs(found - extractor(TEXTS).array).max() < 1e-5


def test_a_bad_row_stays_with_a_reason_or_ends_the_job(cluster):
    extractor = extractor_of(objectives=("kl",), dtype="float32")
    texts = [*TEXTS[:3], None, *TEXTS[3:]]
    items = [{"row": 100 + i, "text": text} for i, text in enumerate(texts)]
    dataset = cluster.data.from_items(items)
    rows = extract_dataset(dataset, extractor, workers=1, on_error="skip").take_all()
    assert sorted(row["row"] for row in rows) == list(range(100, 107))
    (bad,) = [row for row in rows if row["text_error"]]
    assert bad["row"] == 103
    assert bad["text_fungi"] is None
    assert "input 103 must be a text" in bad["text_error"]
    good = by_row([row for row in rows if not row["text_error"]])
    assert np.abs(good - extractor(TEXTS).array).max() < 1e-5
    with pytest.raises(Exception, match="input 103 must be a text"):
        extract_dataset(dataset, extractor, workers=1).take_all()


def test_tensors_and_names_of_columns(cluster):
    extractor = extractor_of(objectives=("kl",), dtype="float32")
    dataset = cluster.data.from_items([{"question": text} for text in TEXTS])
    made = extract_dataset(dataset, extractor, {"question": "vector"}, workers=1, output="tensor")
    (batch,) = made.iter_batches(batch_size=None)
    assert batch["vector"].shape == (len(TEXTS), extractor.width)


def test_threads_of_an_actor_are_its_cpus(cluster):
    class Counting(FungiBatches):
        def __call__(self, table):
            import os

            import torch

            said = f"{torch.get_num_threads()} {os.environ['TOKENIZERS_PARALLELISM']}"
            return super().__call__(table).append_column("said", [[said] * len(table)])

    from fungi_hf.integrations.ray.cluster import Actors, Carried

    extractor = extractor_of(objectives=("kl",), dtype="float32")
    for cpus, threads in ((2, 2), (0.5, 1)):
        actors = Actors(number=1, num_cpus=cpus)
        made = cluster.data.from_items([{"text": "money"}]).map_batches(
            Counting,
            fn_constructor_args=(Carried.of(cluster, extractor),),
            fn_constructor_kwargs={"threads": actors.threads},
            batch_format="pyarrow",
            **actors.options(cluster, 1),
        )
        assert [row["said"] for row in made.take_all()] == [f"{threads} false"]


def test_what_cannot_work_is_refused_before_it_starts(cluster):
    extractor = extractor_of(objectives=("kl",), dtype="float32")
    dataset = cluster.data.from_items([{"text": "money"}])
    words = "^4 workers of 1 CPU take all 4 CPUs of the cluster and nothing is left to read"
    with pytest.raises(ConfigError, match=words):
        extract_dataset(dataset, extractor, workers=4)
    with pytest.raises(ConfigError, match=r"1 workers of 1 GPU need more than the 0 GPUs"):
        extract_dataset(dataset, extractor, num_gpus=1)
    with pytest.raises(NotFittedError, match="fit the extractor first"):
        extract_dataset(dataset, extractor_of(), workers=1)
    with pytest.raises(InputTypeError, match=r"must be a ray.data.Dataset; got list"):
        extract_dataset([{"text": "money"}], extractor)
    with pytest.raises(ConfigError, match="on_error"):
        FungiBatches(extractor, on_error="maybe")
