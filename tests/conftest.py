"""Settings of all tests."""

from hypothesis import settings

settings.register_profile("tts", deadline=None)  # how busy the machine is decides no test
settings.load_profile("tts")
