"""What an actor does with a table, without Ray."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from fungi_hf.errors import (
    ConfigError,
    FingerprintMismatchError,
    InputTypeError,
    NotFittedError,
    OptionalDependencyError,
)
from fungi_hf.integrations.parts import ExtractorParts
from fungi_hf.integrations.ray import FungiBatches, extract_dataset, extract_files
from fungi_hf.integrations.ray.cluster import Actors, Carried
from tests.tiny import ROUNDING, TEXTS, extractor_of, saved_model

pa = pytest.importorskip("pyarrow")
HAS_RAY = importlib.util.find_spec("ray") is not None


@pytest.fixture(scope="module")
def extractor():
    return extractor_of(objectives=("kl",), dtype="float32")


def rows_of(column):
    return np.stack(column.to_numpy(zero_copy_only=False))


def test_a_table_gets_a_column_of_features(extractor):
    table = pa.table({"id": range(len(TEXTS)), "text": TEXTS})
    found = FungiBatches(extractor)(table)
    assert found.column_names == ["id", "text", "text_fungi"]
    assert found["id"].to_pylist() == list(range(len(TEXTS)))
    field = found.schema.field("text_fungi")
    assert field.type == pa.list_(pa.float32(), extractor.width)
    assert field.metadata[b"fungi_fingerprint"].decode() == extractor.fingerprint
    layout = {name: [part.start, part.stop] for name, part in extractor.layout.items()}
    assert json.loads(field.metadata[b"fungi_layout"]) == layout
    assert np.array_equal(rows_of(found["text_fungi"]), extractor(TEXTS).array)


@pytest.mark.parametrize("bad", [[0], [2, 3], [0, 1, 2, 3, 4, 5]])
def test_rows_stay_where_inputs_are_skipped(extractor, bad):
    texts = [None if i in bad else text for i, text in enumerate(TEXTS)]
    table = pa.table({"row": range(70, 70 + len(TEXTS)), "text": pa.array(texts, pa.string())})
    found = FungiBatches(extractor, on_error="skip")(table)
    assert found["text_fungi"].is_null().to_pylist() == [i in bad for i in range(len(TEXTS))]
    for i, reason in enumerate(found["text_error"].to_pylist()):
        assert (reason or "").startswith(f"input {70 + i} must be a text" if i in bad else "")
        assert (reason is not None) == (i in bad)
    good = [i for i in range(len(TEXTS)) if i not in bad]
    if good:
        kept = rows_of(found["text_fungi"].filter(pa.array([i in good for i in range(len(TEXTS))])))
        wanted = extractor([TEXTS[i] for i in good]).array
        assert np.allclose(kept, wanted, rtol=0, atol=ROUNDING)
    with pytest.raises(InputTypeError, match=f"input {70 + bad[0]} must be a text"):
        FungiBatches(extractor)(table)


def test_no_rows_have_the_same_columns(extractor):
    batches = FungiBatches(extractor, on_error="skip")
    none = batches(pa.table({"text": pa.array([], pa.string())}))
    some = batches(pa.table({"text": TEXTS}))
    assert none.schema == some.schema
    assert len(none) == 0


def test_several_columns_by_their_names(extractor):
    table = pa.table({"question": TEXTS, "answer": TEXTS[::-1]})
    found = FungiBatches(extractor, {"question": "q", "answer": "a"})(table)
    assert np.array_equal(rows_of(found["q"]), rows_of(found["a"])[::-1]) or np.allclose(
        rows_of(found["q"]), rows_of(found["a"])[::-1], rtol=0, atol=ROUNDING
    )
    assert FungiBatches(extractor, ["question", "answer"])(table).column_names[2:] == [
        "question_fungi",
        "answer_fungi",
    ]


def test_lists_of_variable_size_are_for_spark(extractor):
    table = pa.table({"row": [0, 1], "text": pa.array([TEXTS[0], None], pa.string())})
    found = FungiBatches(extractor, on_error="skip", output="variable_list")(table)["text_fungi"]
    assert found.type == pa.list_(pa.float32())
    assert found.null_count == 1
    wanted = FungiBatches(extractor, on_error="skip")(table)["text_fungi"]
    assert found.to_pylist() == wanted.to_pylist()


def test_an_extractor_comes_by_name_in_parts_or_as_it_is(extractor, tmp_path):
    saved_model(tmp_path / "model")
    table = pa.table({"text": TEXTS})
    parts = FungiBatches(ExtractorParts(extractor))(table)
    assert np.array_equal(rows_of(parts["text_fungi"]), extractor(TEXTS).array)
    named = FungiBatches(str(tmp_path / "model"), threads=1)
    assert rows_of(named(table)["text_fungi"]).shape == (len(TEXTS), named.extractor.width)


def test_wrong_arguments(extractor):
    table = pa.table({"text": TEXTS})
    with pytest.raises(ConfigError, match="no column 'txt'; choose one of 'text'"):
        FungiBatches(extractor, "txt")(table)
    with pytest.raises(ConfigError, match="has a column 'text' already; map 'text' to another"):
        FungiBatches(extractor, {"text": "text"})(table)
    with pytest.raises(ConfigError, match="at least one column"):
        FungiBatches(extractor, [])
    with pytest.raises(ConfigError, match="on_error"):
        FungiBatches(extractor, on_error="drop")
    with pytest.raises(ConfigError, match="output"):
        FungiBatches(extractor, output="numpy")
    with pytest.raises(ConfigError, match="threads"):
        FungiBatches(extractor, threads=0)
    with pytest.raises(NotFittedError, match="fit the extractor first"):
        FungiBatches(extractor_of())


def of_nodes(*alive):
    """A cluster, as far as the number of actors asks; a node that is gone counts for nothing."""
    nodes = [{"Alive": True, "Resources": one} for one in alive]
    nodes.append({"Alive": False, "Resources": {"CPU": 64, "GPU": 8}})
    whole = {name: sum(one.get(name, 0) for one in alive) for name in ("CPU", "GPU")}
    return SimpleNamespace(cluster_resources=lambda: whole, nodes=lambda: nodes)


@pytest.mark.parametrize(
    ("actors", "cpus", "gpus", "number"),
    [
        (Actors(), 8, 0, 7),
        (Actors(num_cpus=2), 8, 0, 3),
        (Actors(num_gpus=1), 8, 4, 4),
        (Actors(num_gpus=0.5), 16, 4, 8),
        (Actors(number=3), 4, 0, 3),
        (Actors(num_cpus=0.5), 2, 0, 2),
    ],
)
def test_actors_leave_a_cpu(actors, cpus, gpus, number):
    ray = of_nodes({"CPU": cpus, "GPU": gpus})
    assert actors.fitting(ray) == number


def test_actors_that_take_everything_are_refused():
    ray = of_nodes({"CPU": 2.0})
    words = "2 workers of 1 CPU take all 2 CPUs of the cluster and nothing is left to read"
    with pytest.raises(ConfigError, match=words):
        Actors(number=2).fitting(ray)
    one = of_nodes({"CPU": 1.0})
    with pytest.raises(ConfigError, match="1 workers of 1 CPU take all 1 CPUs"):
        Actors().fitting(one)
    with pytest.raises(ConfigError, match="1 workers of 1 GPU need more than the 0 GPUs"):
        Actors(num_gpus=1).fitting(ray)
    with pytest.raises(ConfigError, match="workers"):
        Actors(number=0)
    with pytest.raises(ConfigError, match="num_cpus"):
        Actors(num_cpus=0)


def test_an_actor_that_no_node_holds_is_refused():
    two = of_nodes({"CPU": 4}, {"CPU": 4})
    assert Actors(number=2, num_cpus=3).fitting(two) == 2
    words = r"no node has the 6 CPUs and 0 GPUs of one worker, .* the largest has 4 CPUs"
    with pytest.raises(ConfigError, match=words):
        Actors(number=1, num_cpus=6).fitting(two)
    apart = of_nodes({"CPU": 8}, {"CPU": 2, "GPU": 1})
    with pytest.raises(ConfigError, match="no node has the 4 CPUs and 1 GPUs"):
        Actors(number=1, num_cpus=4, num_gpus=1).fitting(apart)


@pytest.mark.skipif(not HAS_RAY, reason="the message names the node, which Ray knows")
def test_another_extractor_is_refused(extractor):
    with pytest.raises(FingerprintMismatchError, match="the driver's is 0123"):
        Carried(lambda device: extractor, "0123").build(None, 1)


@pytest.mark.skipif(HAS_RAY, reason="Ray is here")
def test_without_ray_the_extra_is_named(extractor, tmp_path):
    with pytest.raises(OptionalDependencyError, match=r"fungi-hf\[ray\]"):
        extract_dataset(object(), extractor)
    path = tmp_path / "in.txt"
    path.write_text("money\n")
    with pytest.raises(OptionalDependencyError, match=r"fungi-hf\[ray\]"):
        extract_files(path, tmp_path / "out", extractor)


def test_ray_is_imported_when_it_is_used():
    words = "import sys, fungi_hf.integrations.ray; print('ray' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
