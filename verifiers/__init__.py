"""Ways to judge a candidate: one file per verifier with its variants, and folders for what families share."""
