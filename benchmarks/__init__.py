"""One script per claim of speed or memory; each prints and writes JSON."""
