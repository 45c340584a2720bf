"""The pipeline task in transformers."""
