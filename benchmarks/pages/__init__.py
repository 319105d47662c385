"""What makes pages of docs/ and their pictures."""
