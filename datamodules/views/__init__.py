"""Views: what a method sees of a sample. Made on the device, a whole batch at once, each sample
with its own draw."""
