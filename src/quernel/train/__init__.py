"""Training: losses, the growth of a token table into a transformer, and the built-in pair from raw data to artefacts."""
