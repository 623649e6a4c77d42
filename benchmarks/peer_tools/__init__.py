"""What `benchmarks.peers` compares: other tools, and ndpass, as functions that write a model without training it."""
