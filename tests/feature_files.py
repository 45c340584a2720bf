"""A Parquet file of features as `fungi-hf extract` wrote them before it worked in shards."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq


def write_parquet(path, features, inputs) -> None:
    values = pa.array(features.array.reshape(-1), type=pa.float32())
    rows = pa.FixedSizeListArray.from_arrays(values, features.array.shape[1])
    table = pa.table({"input": pa.array([str(one) for one in inputs]), "features": rows})
    pq.write_table(table.replace_schema_metadata(features.header("fungi_")), path)
