"""Commands that make what ndpass ships or claims: one file, one table or one model. Not part of the package."""
