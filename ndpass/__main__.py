"""`python -m ndpass`: the command line."""

from ndpass.cli.app import main

main()
