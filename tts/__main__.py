"""The command `tts`, which is `python -m tts`. Ctrl-C ends it without a traceback from the beginning."""

import os
import signal


def main() -> None:
    """Run the command line. Outside of its commands, while it loads or ends, Ctrl-C has nothing to put in order."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored in what shells start with `&`
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from tts.cli import main as command

    command()


if __name__ == "__main__":
    main()
