"""The only source of randomness: every random object has a name, every sample its own stream.

Nothing here reads or moves a global generator. Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch


def derive(seed: int, *names: str | bytes) -> int:
    """Give the 63-bit integer that belongs to a root seed and a path of names.

    Formula: the first 8 bytes (little-endian, halved) of sha256 over the seed and the
    length-prefixed names, so that ("ab", "c") and ("a", "bc") differ.
    """
    digest = hashlib.sha256(str(int(seed)).encode())
    for name in names:
        data = name.encode("utf-8", "surrogatepass") if isinstance(name, str) else name
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return int.from_bytes(digest.digest()[:8], "little") >> 1


def derive_each(seed: int, names: Iterable[str], contents: Iterable[str | bytes]) -> list[int]:
    """Give `derive` of the names and of each content as the last one."""
    return [derive(seed, *names, content) for content in contents]


def torch_generator(seed: int, *names: str | bytes) -> torch.Generator:
    """Give a private CPU generator for the named random object."""
    import torch

    return torch.Generator(device="cpu").manual_seed(derive(seed, *names))


def numpy_generator(seed: int, *names: str | bytes) -> np.random.Generator:
    """Give a private numpy generator for the named random object."""
    return np.random.default_rng(derive(seed, *names))


def sample_generator(seed: int, name: str, content: str | bytes) -> random.Random:
    """Give a consumer's generator of one sample, keyed by its text or the bytes of its data."""
    return random.Random(derive(seed, name, content))


def sample_generators(seed: int, name: str, contents: Iterable[str | bytes]) -> list[random.Random]:
    """Give a consumer's generator of every sample; see `sample_generator`."""
    return [random.Random(key) for key in derive_each(seed, [name], contents)]


def uniform(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Draw float32 numbers in [0, 1) on the CPU, whatever torch's default type and device are."""
    import torch

    return torch.rand(*shape, generator=generator, dtype=torch.float32, device="cpu")


def normal(generator: np.random.Generator, *shape: int) -> torch.Tensor:
    """Draw standard normal float32 numbers that are the same on every processor.

    torch's own normal draws differ in the last bits between processors with and without AVX2, and
    with them every digest; numpy's come from tables and are rounded here once.
    """
    import torch

    return torch.from_numpy(generator.standard_normal(shape)).float()
