"""Parameters and text: the only wing that prints."""
