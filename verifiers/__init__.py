"""Ways to judge a candidate: one file a verifier."""
