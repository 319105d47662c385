"""What a run shows: record, figures, the HTML page, the progress bar and the final table."""
