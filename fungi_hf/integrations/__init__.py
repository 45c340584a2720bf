"""Adapters for other libraries; each is imported by its own name and asks for its package then."""
