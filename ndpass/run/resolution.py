"""How many samples a drop of the metric needs to be told, and how many are held out for it."""

from __future__ import annotations

import math

from ndpass.errors import UsageError

HELD_OUT = 0.2  # of the calibration data, for the metric, where no validation data are given
FEWEST = 0.5  # of the calibration data that are left to fit to, at least
ENOUGH = 100  # samples, with fewer of which an output's error is said to be of few
RESOLVED = 300  # samples for each of which a point of drop is resolved: the share of answers that flip is about 3·drop


def needed(limit: float) -> int:
    """Samples that tell a drop of `limit` points."""
    return math.ceil(RESOLVED / limit)


def held_out(samples: int, limit: float | None) -> float:
    """The share of the calibration data that the metric is measured on.

    limit: points that may be lost; None: nothing is asked of the metric. A fifth, or more where the limit needs more
    and half of the data are left to fit to.
    """
    wanted = 0.0 if limit is None else needed(limit) / samples
    return wanted if HELD_OUT < wanted <= 1 - FEWEST else HELD_OUT


def check_resolution(samples: int, limit: float, given: int | None = None, answers: int | None = None) -> str | None:
    """A sentence where `samples` tell a drop of `limit` points only roughly; UsageError where they cannot tell it.

    given: the calibration data that they were held out from; None: they are validation data of their own. answers: that
    the metric counts in these samples, as places of sequences; None: one of each.
    """
    answers = samples if answers is None else max(answers, 1)
    if answers >= needed(limit):
        return None
    kind = f"{samples} " + ("validation samples" if given is None else f"samples held out of {given}")
    kind = kind if answers == samples else f"{answers} answers in {kind}"
    enough = math.ceil(needed(limit) * samples / answers)
    remedy = f"give {_more(enough, limit, given)}, or allow --max-drop {_allowed(answers):g}, or use --max-error"
    if 100 / answers > limit:
        one = 100 / answers
        raise UsageError(f"--max-drop {limit:g}: one of the {kind} is {one:.3g} points: {remedy}")
    return f"{kind} tell a drop of {limit:g} points only roughly: {remedy}"


def few_for_an_error(samples: int) -> str | None:
    """A sentence where the outputs' error is measured on so few samples that others may well err more."""
    if samples >= ENOUGH:
        return None
    return f"the error is measured on {samples} samples, others may err more: give {ENOUGH} as --validation"


def _allowed(answers: int) -> float:
    """The least limit, in tenths of a point, that so many answers tell."""
    return math.ceil(10 * RESOLVED / answers) / 10


def _more(enough: int, limit: float, given: int | None) -> str:
    """What to give, in samples as the user counts them; enough: to measure on, where they are `held_out`."""
    if given is None:
        return f"--validation with at least {enough}"
    least = math.ceil(enough / HELD_OUT)
    if enough <= needed(limit):
        least = min(least, math.ceil(needed(limit) / (1 - FEWEST)))
    return f"--calibration with at least {least} or --validation with {enough}"
