"""Convolutions that OpenVINO does not finish compiling: a model with one hangs when it is loaded.

Seen with OpenVINO 2026.4 on CPUs with bf16, in which it runs f32 models there unless it is told otherwise: depthwise
convolutions of 2 to 16 channels with a kernel of two or three axes, 15 or more wide, at stride 1 along the width and
without dilation. With 17 channels or more, one axis, stride 2, any dilation, and in f32, they compile in 0.1 s. A model
goes from the machine that made it to others, so none is made anywhere.
"""

from __future__ import annotations

from ndpass.conv import Conv

MOST_CHANNELS = 16
WIDTH = 15


def never_compiles(conv: Conv, channels: int) -> bool:
    """Whether OpenVINO hangs on a depthwise convolution of `channels` channels with the geometry of `conv`."""
    return (
        1 < channels <= MOST_CHANNELS
        and len(conv.kernel) > 1
        and conv.kernel[-1] >= WIDTH
        and conv.strides[-1] == 1
        and max(conv.dilations) == 1
    )
