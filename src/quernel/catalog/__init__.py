"""What is known of the models without loading them: cards, read from data."""
