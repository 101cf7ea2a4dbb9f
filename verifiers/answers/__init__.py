"""What verifiers of answers share: finding the answer in a text, and comparing two answers."""
