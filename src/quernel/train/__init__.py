"""Training: losses, a token table that grows into a transformer, and the built-in pair from raw data to artefacts."""
