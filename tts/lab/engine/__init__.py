"""Small models that run in this process: an engine in numpy behind vLLM's protocol, at `embedded://NAME`."""
