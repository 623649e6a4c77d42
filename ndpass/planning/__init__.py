"""Candidates, sensitivity, choice and timed search: what gives a plan."""
