"""Models to and from disk, whole or not at all, and the model server's layout."""
