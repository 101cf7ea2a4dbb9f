"""What every worker needs. The process that workers are forked from imports it once, for all of them."""

from tts.gateway import workers as workers
from tts.gateway.service import load_plugins

load_plugins()
