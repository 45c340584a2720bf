"""Features of large inputs in shards: planned by row counts, valid by digest, written by anyone.

A shard is a slice of the input and one output file whose name is known beforehand. Resuming, order,
retries, two jobs at once and clusters all become one question: is the file there, and valid?
"""

from fungi_hf.shards.extract import Receipt, ShardOptions, extract_shard, extract_to
from fungi_hf.shards.plan import Shard, ShardPlan
from fungi_hf.shards.store import Manifest, ShardStore

__all__ = [
    "Manifest",
    "Receipt",
    "Shard",
    "ShardOptions",
    "ShardPlan",
    "ShardStore",
    "extract_shard",
    "extract_to",
]
