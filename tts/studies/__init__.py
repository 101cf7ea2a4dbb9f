"""The questions that stored runs answer, one a file; nothing is sampled again.

`Study` is the contract, which third parties implement too; `tts.registry` finds studies by name, and
`tts report RUN --study NAME:parameter=value` prints what they find.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator

from tts.base import Plugin
from tts.files import check_writable
from tts.runs import Run
from tts.runs.analysis import prefixed
from tts.runs.run import Track
from tts.tables import Table, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["Study", "StudyFindings", "Table", "TrackReport", "labelled_tracks", "reports_on", "write_figure"]


@dataclass(frozen=True)
class StudyFindings:
    """What a study has found."""

    data: Any
    """Plain data, for `--json`."""
    shown: Sequence[RenderableType] = ()
    """What people read, in order: sentences, `Table`s, anything else that rich prints."""
    files: Sequence[Path] = ()
    """The files that were written."""


class Study(Plugin):
    """A question that stored runs answer; its fields are its parameters."""

    def findings(self, runs: Mapping[str, Run]) -> StudyFindings | Coroutine[Any, Any, StudyFindings]:
        """Answer it for `runs`, which are named by their labels (empty for a run alone). It may be `async`.

        Raises `ConfigError`, which says what it takes, for runs that cannot answer it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define findings()")


@dataclass(frozen=True)
class TrackReport:
    """What a study has found of one strategy with one model."""

    track: str
    """The label of the strategy and model."""

    def sentences(self) -> Iterator[str]:
        """The result in plain sentences, where there are any."""
        yield from ()

    @property
    def findings(self) -> list[str]:
        """The `sentences` as a list."""
        return list(self.sentences())

    def in_words(self, label: str) -> str:
        """The findings as a paragraph under `label`."""
        return "\n  ".join([f"{label}:", *self.findings])

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, with its findings."""
        return {**plain(asdict(self)), "findings": self.findings}


R = TypeVar("R", bound=TrackReport)


def reports_on(
    runs: Mapping[str, Run], analyse: Callable[[Run], Iterable[R]]
) -> tuple[list[tuple[str, R]], list[dict[str, Any]]]:
    """`analyse` of every run: its reports under their tracks' full labels, and all of them as plain data."""
    found = [(run, prefixed(label, one.track), one) for label, run in runs.items() for one in analyse(run)]
    return [(label, one) for _, label, one in found], [{"run": str(run.path), **one.as_dict()} for run, _, one in found]


def labelled_tracks(runs: Mapping[str, Run]) -> Iterator[tuple[str, Track]]:
    """Every track of every run under its full label."""
    return ((prefixed(label, track.label), track) for label, run in runs.items() for track in run.tracks)


def written_as(*formats: str) -> AfterValidator:
    """For a parameter that names a file to write: one that cannot be written is refused before any work."""

    def check(path: Path | None) -> Path | None:
        if path is not None:
            check_writable(path, formats)
        return path

    return AfterValidator(check)


def _can_be_drawn(path: Path | None) -> Path | None:
    from tts.curves.plot import drawing

    if path is not None:
        with drawing("figures"):
            pass
    return path


FigureFile = Annotated[Path | None, written_as("svg", "png", "pdf"), AfterValidator(_can_be_drawn)]
"""A figure that a study may draw."""


def write_figure(figure: Figure, path: Path) -> None:
    """Save a figure. Raises `ConfigError` where its format is unknown or the file cannot be written."""
    from tts.curves.plot import save_figure, writing

    with writing(path):
        save_figure(figure, path)
