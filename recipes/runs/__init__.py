"""One run, from config to folder."""
