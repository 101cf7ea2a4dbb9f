"""What can go wrong between recorded samples and a curve."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tts.errors import ConfigError, TTSError


class CurveError(TTSError, ValueError):
    """Numbers from which the curve, fit or read-out that was asked for cannot be made."""


class TooFewSamples(CurveError):
    """An estimate at k needs k samples of every problem, and some problem has fewer."""

    def __init__(self, estimator: str, k: int, problem: int, available: int) -> None:
        super().__init__(
            f"{estimator} at k={k} needs {k} samples of every problem, but problem {problem} "
            f"(counted from 0) has {available}: draw more of it, leave it out, or ask for k <= {available}"
        )
        self.k = k
        self.problem = problem
        self.available = available


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A file that cannot be written, or has nothing to be drawn in it, is a `ConfigError`: another one may do."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
    except CurveError as error:
        raise ConfigError(str(error)) from None
