"""What a model answers and how long it takes: runtimes, metrics, timing, the latency cache."""
