"""`tts calibrate`: from a run to the file by which later runs decide: what to reject (`atts`), whom to ask (`route`,
`cascade`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tts.cli.common import plugin_option, say
from tts.errors import ConfigError
from tts.text import counted

if TYPE_CHECKING:
    from tts.runs import Run
    from tts.runs.run import Track

EPILOG = """\
\b
Examples, each over problems that are set aside for it:
  tts run calibrate.toml --out runs/calibration          # atts
  tts calibrate runs/calibration calibration.json
  tts run --strategy atts:calibration=calibration.json,by=turn ...

\b
  tts run set.toml --strategy single:policies=small --strategy single:policies=large --out runs/both
  tts calibrate runs/both both.json
  tts run set.toml --strategy route:calibration=both.json,accuracy=0.9 ...
"""


def calibrate(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Directory of a run of atts, or of a strategy on each policy.")
    ],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; must not exist.")],
    strategy: Annotated[
        str | None,
        plugin_option("strategies", "Use only this strategy of the run; of policies, as it is without policies=."),
    ] = None,
) -> None:
    """Write the file by which later runs reject, route or escalate.

    It has the scores of drafts, or how each policy did on each problem, for a strategy's `calibration=FILE`.
    """
    from tts.runs import Run

    found = Run(run)
    if sets := _by_strategy(found, strategy):
        say(f"wrote {out}: {write_profile(found, out, sets)}")
    else:
        say(f"wrote {out}: {counted(write_calibration(found, out, strategy=strategy), 'score')}")


def _by_strategy(run: Run, strategy: str | None) -> dict[str, dict[str, Track]]:
    """For each strategy that the run has on several policies: the track of each, in the order of the set."""
    from tts.policies import policies_of, short

    found: dict[str, dict[str, Track]] = defaultdict(dict)
    for track in run.tracks:
        if len(named := track.method.policies) == 1:
            spec = track.method.model_copy(update={"policies": ()}).spec
            if strategy in (None, spec):
                found[spec][named[0]] = track
    order = [short(role) for model in run.record["config"]["models"] for role in policies_of(run.roles(model))]
    return {
        spec: {name: tracks[name] for name in dict.fromkeys(order) if name in tracks}
        for spec, tracks in found.items()
        if len(tracks) > 1
    }


def write_profile(run: Run, path: Path, sets: dict[str, dict[str, Track]]) -> str:
    """Write how each policy did on each problem (`tts.strategies.routing.Profile`); returns it in words.

    Raises `ConfigError` where the run has several strategies to choose from, or no problem that all policies have done.
    """
    from tts import registry
    from tts.base import selectable
    from tts.files import write_calibration_file
    from tts.prompting import problem_text
    from tts.runs.measures import usual_measure
    from tts.strategies.routing import digest_of, sureness

    if len(sets) > 1:
        raise ConfigError(f"{run.path} has several strategies; choose one with --strategy: {', '.join(sets)}")
    ((spec, tracks),) = sets.items()
    problems = {one.problem.id: one.problem for one in registry.make("tasks", run.record["config"]["task"]).examples()}
    measure = usual_measure(list(tracks.values()))
    found: dict[tuple[str, int], dict[str, tuple[float, ...]]] = defaultdict(dict)
    for name, track in tracks.items():
        for row, costs, flags in zip(track.rows, track.cost(measure), track.correct, strict=True):
            candidates = selectable(track.candidates(row))
            selected = next((one for one in candidates if one.spawned[0] == row.selected), None)
            solved = 0.0 if row.selected is None else float(flags[row.selected])
            if solved == solved and row.problem in problems:  # it could be graded
                sure = sureness(candidates, selected)
                found[row.problem, row.seed][name] = (solved, float(costs[-1]), sure["agreement"], sure["score"])
    whole = {key: by_policy for key, by_policy in found.items() if len(by_policy) == len(tracks)}
    if not whole:
        raise ConfigError(f"{run.path} has no problem that all of {', '.join(tracks)} have done")
    asked = [problems[problem] for problem, _ in whole]
    content: dict[str, Any] = {
        "strategy": spec,
        "measure": measure,
        "models": {name: run.roles(track.model)[f"policy.{name}"]["model"] for name, track in tracks.items()},
        "digests": sorted({digest_of(problem) for problem in asked}),
        "texts": [problem_text(problem) for problem in asked],
    }
    for place, field in enumerate(("solved", "cost", "agreement", "score")):
        rows = ([by_policy[name][place] for name in tracks] for by_policy in whole.values())
        content[field] = [[value if value > float("-inf") else None for value in row] for row in rows]
    write_calibration_file(path, content)
    return f"{', '.join(tracks)} on {counted(len(whole), 'problem')}, costs in {measure}"


def write_calibration(run: Run, path: Path, *, strategy: str | None = None) -> int:
    """Write the scores of all drafts of a run, of one `strategy` or of all, to `path`; returns how many there are.

    The drafts of later turns follow on what was rejected before, so run the problems set aside for calibration at the
    rejection rate it is for. Raises `ConfigError` when there are no scores, when the drafts were made with different
    models or settings, and when `path` exists.
    """
    from tts.strategies.speculation.conformal import Scored, save

    query = """SELECT problem, json_extract(details, '$.notes') FROM cells JOIN candidates ON candidates.cell = cells.id
               WHERE ? IS NULL OR strategy = ? ORDER BY cells.id, position"""
    scored, settings = [], {}
    for problem, text in run.db.execute(query, (strategy, strategy)):
        notes = json.loads(text or "{}")
        if made_with := notes.get("made_with"):
            settings[json.dumps(made_with, sort_keys=True)] = made_with
        scored += [
            Scored(turn["score"], problem, number, turn["tokens"])
            for number, turn in enumerate(notes.get("turns", ()))
            if "score" in turn
        ]
    if not scored or not settings:
        raise ConfigError(
            f"{run.path} has no scored drafts; run atts, or one strategy on each policy of a set, on the problems to "
            "calibrate with"
        )
    if len(settings) > 1:
        raise ConfigError(f"{run.path} has drafts made with different models or chunk sizes; choose one --strategy")
    save(path, scored, better="higher", made_with=next(iter(settings.values())))
    return len(scored)
