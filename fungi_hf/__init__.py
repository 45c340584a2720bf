"""Gradient features (FUNGI) for frozen Hugging Face encoders."""
