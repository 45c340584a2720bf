"""Demonstrations for language models: recipes, their runner, and what the numbers mean."""
