"""How many actors fit a cluster; the cluster is a stub, Ray itself is tested in tests/ray."""

from __future__ import annotations

import pytest

from fungi_hf.errors import ConfigError
from fungi_hf.integrations.ray.cluster import Actors


class Ray:
    """A cluster of nodes with so many CPUs and GPUs; one that is gone counts for nothing."""

    def __init__(self, *nodes: tuple[int, int]) -> None:
        self._nodes = nodes

    def nodes(self):
        alive = [{"Alive": True, "Resources": {"CPU": c, "GPU": g}} for c, g in self._nodes]
        return [*alive, {"Alive": False, "Resources": {"CPU": 64, "GPU": 8}}]

    def cluster_resources(self):
        cpus, gpus = (sum(column) for column in zip(*self._nodes, strict=True))
        return {"CPU": cpus, "GPU": gpus}


@pytest.mark.parametrize(
    ("actors", "nodes", "number"),
    [
        (Actors(), [(4, 0)], 3),
        (Actors(num_cpus=2), [(4, 0), (4, 0)], 3),
        (Actors(number=2, num_cpus=3), [(4, 0), (4, 0)], 2),
        (Actors(num_cpus=1, num_gpus=1), [(8, 2), (8, 0)], 2),
    ],
)
def test_what_fits(actors, nodes, number):
    assert actors.fitting(Ray(*nodes)) == number


@pytest.mark.parametrize(
    ("actors", "nodes", "words"),
    [
        (Actors(number=4), [(4, 0)], "4 workers of 1 CPU take all 4 CPUs"),
        (Actors(number=1, num_gpus=1), [(4, 0)], "need more than the 0 GPUs"),
        (
            Actors(number=1, num_cpus=6),
            [(4, 0), (4, 0)],
            r"no node has the 6 CPUs and 0 GPUs of one worker, .* the largest has 4 CPUs",
        ),
        (
            Actors(number=1, num_cpus=4, num_gpus=1),
            [(8, 0), (2, 1)],
            "no node has the 4 CPUs and 1",
        ),
    ],
)
def test_what_does_not_fit_is_refused(actors, nodes, words):
    with pytest.raises(ConfigError, match=words):
        actors.fitting(Ray(*nodes))
