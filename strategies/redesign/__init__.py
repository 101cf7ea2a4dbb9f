"""What prompt redesign is made of: the elements of verdicts, the prompts, and what is tried next."""
