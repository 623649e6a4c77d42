"""From options to a verified result: the main job, `inspect` and the studies."""
