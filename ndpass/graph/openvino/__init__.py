"""Finds, describes and edits the convolutions of an `ov.Model`."""
