"""Ways to spend compute at inference time: one file a strategy."""
