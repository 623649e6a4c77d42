"""Trains the small networks that ndpass ships or that benchmarks measure. Needs the extra `bench`, which is torch."""
