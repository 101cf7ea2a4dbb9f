"""What every worker needs. The process that workers are forked from imports it once, for all of them."""

import signal

from tts.gateway import workers as workers
from tts.gateway.service import load_plugins

load_plugins()
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the parent decides for all
