"""Parameter-efficient fine-tuning: a frozen backbone, and little beside it that learns."""
