"""The questions that a stored run answers, one a file."""
