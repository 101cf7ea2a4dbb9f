"""What strategies that make one attempt after another share."""
