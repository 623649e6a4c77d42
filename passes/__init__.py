"""The passes: which convolutions each can rewrite, what a setting costs, and how it is done."""
