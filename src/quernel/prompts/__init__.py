"""From text to token ids: templates, instructions and tokenizers. The only place that spells a prompt."""
