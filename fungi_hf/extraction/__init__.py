"""How inputs flow: reading, batches, groups, blocks, finished features, fitted state."""
