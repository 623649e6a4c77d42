"""Data: what is fed to a model, and what is learned from its activations."""
