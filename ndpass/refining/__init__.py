"""Trains a rewritten network to the original's outputs, without labels; the only wing that uses torch."""
