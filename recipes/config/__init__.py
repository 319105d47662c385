"""From words to a checked config."""
