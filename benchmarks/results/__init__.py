"""Rows of figures (one JSON file a table), the pictures and the pages drawn from them."""
