"""What strategies share that make one attempt after another."""
