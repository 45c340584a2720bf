"""The paper's tables as one command; docs/paper.md says table by table what it gives."""
