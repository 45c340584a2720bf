"""Ray: features in a pipeline of Ray Data, and jobs of shards over several machines.

Ray is imported when something is asked of it. Nothing here relies on the order of rows, or on a
task being run once: shards are named beforehand and valid by their digests.
"""

from fungi_hf.integrations.ray.batches import FungiBatches
from fungi_hf.integrations.ray.data import extract_dataset
from fungi_hf.integrations.ray.files import extract_files
from fungi_hf.integrations.ray.fitting import fit

__all__ = ["FungiBatches", "extract_dataset", "extract_files", "fit"]
