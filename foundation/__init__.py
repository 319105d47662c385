"""What lies under everything: errors, random numbers, whole files, ranks. Imports nothing of
ours."""
