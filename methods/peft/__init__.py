"""Parameter-efficient fine-tuning: a frozen backbone with few trained parameters."""
