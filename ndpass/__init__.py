"""ndpass rewrites the convolutions of a trained CNN into cheaper ones, without training."""

__version__ = "0.1.0"
