"""What can be plugged in: a package a family, a file a method."""
