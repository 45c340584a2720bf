"""Folders and repositories that hold configs and fitted state."""
