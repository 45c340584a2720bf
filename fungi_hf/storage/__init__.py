"""Files on disk, uploads and digests; knows no config and no model."""
