"""A plan becomes a fitted graph, layer after layer, resumable."""
