"""What checking a result element by element takes."""
