"""Environments: where policies act (see `tts.trajectories` for what one is)."""
