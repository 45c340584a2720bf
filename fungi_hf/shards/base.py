"""What a source of inputs is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Source(ABC):
    """Rows that are read in slices.

    Attributes:
        n_rows: N.
        name: Where they come from, for messages.
        digest: Of what they are; another input has another.
    """

    n_rows: int
    name: str
    digest: str

    @abstractmethod
    def read(self, start: int, stop: int) -> list[Any]:
        """Give rows start to stop - 1."""
