"""What is computed: per-sample gradients of Linear layers as factors, and their sketches."""
