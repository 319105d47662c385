"""What a head is for."""
