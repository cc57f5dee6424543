"""What tests share: tiny checkpoints, tokenizers and fakes."""
