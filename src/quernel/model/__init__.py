"""Qwen3 as packed torch modules, and the loading of its checkpoints. It sees token ids and tensors, never text."""
