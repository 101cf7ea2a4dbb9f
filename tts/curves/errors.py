"""What can go wrong between recorded samples and a curve."""

from __future__ import annotations

from tts.errors import TTSError


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
