"""A loopback server that speaks the chat protocol, for tests and benchmarks."""
