"""Options of approximate search, and the numbers that they mean for vectors of some size."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from fungi_hf.checks import check_fields, check_flag
from fungi_hf.errors import ConfigError
from fungi_hf.neighbors.base import check_count

_ROWS_A_CELL = 39  # fewer, and faiss calls the cells' k-means badly trained
_CODE_BYTES = 64
_FEWEST_PROBES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class FaissOptions:
    """What shapes an approximate index.

    Attributes:
        n_lists: `ivf`, `ivfpq`: number of cells; None takes sqrt(N), at most N / 39.
        n_probes: `ivf`, `ivfpq`: cells looked at per query; None takes a quarter of them for
            `ivf`, and a twelfth, but at least 32, for `ivfpq`.
        n_links: `hnsw`: links per row.
        build_depth: `hnsw`: candidates while building.
        search_depth: `hnsw`: candidates while searching; at least 2 K are taken.
        n_codes: `ivfpq`: bytes in memory per row; None takes 64, but at most one for two columns.
        rerank: `ivfpq`: candidates per neighbour asked for that are scored exactly.
        rotate: `ivfpq`: turn vectors so that each code has an equal share of their spread.
        seed: Of the cells' k-means, of the rows that it sees, and of the graph's levels.
    """

    n_lists: int | None = None
    n_probes: int | None = None
    n_links: int = 32
    build_depth: int = 100
    search_depth: int = 256
    n_codes: int | None = None
    rerank: int = 10
    rotate: bool = True
    seed: int = 42

    def __post_init__(self) -> None:
        check_fields(self, ["rotate"], check_flag)
        for name, value in asdict(self).items():
            if value is not None and name != "rotate":
                check_count(value, name, 0 if name == "seed" else 1)

    def cells(self, n_rows: int) -> int:
        """Give the number of cells of an index of n_rows."""
        wanted = self.n_lists or max(1, min(int(n_rows**0.5), n_rows // _ROWS_A_CELL))
        return min(wanted, n_rows)

    def probes(self, n_cells: int, *, are_coded: bool) -> int:
        """Give the number of cells to look at, of vectors themselves or of their codes."""
        usual = max(_FEWEST_PROBES, n_cells // 12) if are_coded else -(-n_cells // 4)
        return min(self.n_probes or usual, n_cells)

    def code_bytes(self, width: int) -> int:
        """Give the bytes per row of `width` columns.

        Raises:
            ConfigError: If there were more than two codes (a byte has two) per column.
        """
        most = -(-width // 2)
        if self.n_codes is not None and self.n_codes > most:
            raise ConfigError(
                f"n_codes is {self.n_codes}; vectors of {width} columns take from 1 to {most}"
            )
        return self.n_codes or min(_CODE_BYTES, most)
