"""What verifiers made of other verifiers share."""
