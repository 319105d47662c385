"""Views: the transformed samples that methods train on. Made on the device for a whole batch, with
an independent draw per sample."""
