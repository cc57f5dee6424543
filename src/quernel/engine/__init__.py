"""From token ids to hidden states: segments, batches, the thread that runs them. It sees no text and no template."""
