"""Programs of their own, for what a test's process cannot undergo.

python -m tests.ray.drivers files TABLE OUT EXTRACTOR   a job on the cluster of RAY_ADDRESS
python -m tests.ray.drivers local                       a cluster that is there, or is started
python -m tests.ray.drivers versions TABLE OUT CACHE_A CACHE_B
                                                        a job on two nodes with a cache each
"""

from __future__ import annotations

import os
import sys

from fungi_hf.errors import FungiError
from fungi_hf.integrations.ray import extract_files
from fungi_hf.integrations.ray.cluster import cluster


def files(table, out, extractor):
    extract_files(table, out, extractor, workers=2, shard_rows=100)


def local():
    with cluster() as ray:
        said = [os.environ.get(n) for n in ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE")]
        print(int(ray.cluster_resources()["CPU"]), *said)


def versions(table, out, first, second):
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster()
    os.environ["HF_HUB_CACHE"] = first
    nodes.add_node(num_cpus=2, include_dashboard=False, env_vars={"HF_HUB_CACHE": first})
    nodes.add_node(num_cpus=3, env_vars={"HF_HUB_CACHE": second})
    ray.init(address=nodes.address, log_to_driver=False)
    try:
        # An actor of three CPUs finds its place on the second node alone.
        extract_files(table, out, "someone/extractor", workers=1, num_cpus=3, shard_rows=500)
        print("done")
    except FungiError as error:
        print(f"{type(error).__name__}: {error}")
    finally:
        ray.shutdown()
        nodes.shutdown()


if __name__ == "__main__":
    {"files": files, "local": local, "versions": versions}[sys.argv[1]](*sys.argv[2:])
