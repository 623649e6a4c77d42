"""Networks that benchmarks measure: the published ones, built layer by layer, and their forms in torch."""
