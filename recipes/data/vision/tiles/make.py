"""Cut the tiles out of the photographs that scikit-image 0.26.0 brings.

    pip download --no-deps scikit-image==0.26.0 && unzip scikit_image-*.whl 'skimage/data/*'
    python recipes/data/vision/tiles/make.py skimage/data

A photograph is cut into 4 rows and 6 columns of squares; ten squares of its left half teach, ten of
its right half are asked for.
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FILES = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "hubble": "hubble_deep_field.jpg",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
}
ROWS, COLUMNS, SIDE, KEPT = 4, 6, 64, 10


def tiles(path: Path) -> list[list[bytes]]:
    """Give the JPEG files of a photograph's tiles, row by row."""
    image = Image.open(path).convert("RGB")
    side = min(image.height // ROWS, image.width // COLUMNS)
    top, left = (image.height - ROWS * side) // 2, (image.width - COLUMNS * side) // 2
    grid = []
    for row in range(ROWS):
        grid.append([])
        for column in range(COLUMNS):
            corner = left + column * side, top + row * side
            tile = image.crop((*corner, corner[0] + side, corner[1] + side))
            buffer = io.BytesIO()
            tile.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=90)
            grid[-1].append(buffer.getvalue())
    return grid


def main() -> None:
    """Write the table and the names."""
    here = Path(__file__).parent
    rows = []
    for label, (name, file) in enumerate(FILES.items()):
        grid = tiles(Path(sys.argv[1]) / file)
        halves = {"train": range(COLUMNS // 2), "test": range(COLUMNS // 2, COLUMNS)}
        for split, columns in halves.items():
            places = [(r, c) for r in range(ROWS) for c in columns]
            for i in np.linspace(0, len(places) - 1, KEPT).round().astype(int):
                r, c = places[i]
                rows.append(
                    {"image_bytes": grid[r][c], "label": label, "split": split,
                     "file": f"{name}_{r}_{c}.jpg"}
                )  # fmt: skip
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, here / "tiles.parquet", compression="zstd")
    (here / "labels.json").write_text(json.dumps(list(FILES), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
