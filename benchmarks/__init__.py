"""Commands that make what ndpass ships or claims: one file, one table or one model. Not part of the package."""

import ndpass  # noqa: F401 - before any runtime: it keeps them from reporting to their makers
