"""`rank_fusion`: scores on different scales are fused by their ranks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts import Experiment, MockModel, registry, solve
from tts.base import Verifier
from tts.errors import ConfigError
from tts.types import Candidate, Problem, Verdict

SCORES = {"a": (0.9, 10.0), "b": (0.88, 90.0), "c": (0.1, 100.0), "d": (0.85, 80.0)}


class Field(Verifier):
    """The number at a place of the text's row in `SCORES`."""

    place: int = 0

    def check(self, problem: Problem, candidate: Candidate) -> float:
        return SCORES[candidate.content][self.place]


registry.register("verifiers", Field)
SPEC = "rank_fusion:n=4,verifiers=[field,field(place=1)]"


@pytest.mark.parametrize(("weights", "answer"), [("", "b"), (",weights=[3,1]", "a"), (",weights=[0,1]", "c")])
async def test_the_lowest_sum_of_weighted_ranks_wins(weights: str, answer: str):
    answers = list(SCORES)
    result = await solve("Which?", SPEC + weights, MockModel(lambda request: answers.pop()))
    assert len(result.candidates) == 4
    assert result.answer == answer


verdict = st.tuples(st.none() | st.integers(0, 3), st.sampled_from([True, False, None]))


@given(
    rows=st.lists(st.tuples(verdict, verdict), min_size=1, max_size=6),
    weights=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_ranks_count_who_is_better_and_half_of_who_is_equal(
    rows: Sequence[tuple[tuple[int | None, bool | None], ...]], weights: tuple[int, int]
):
    strategy = registry.make("strategies", {**registry.make("strategies", SPEC).config(), "weights": weights})
    candidates = [
        Candidate(
            id=i,
            content=str(i),
            spawned=(i,),
            verdict=Verdict(0.0, details={"parts": [{"score": score, "passed": passed} for score, passed in row]}),
        )
        for i, row in enumerate(rows)
    ]

    def key(part: tuple[int | None, bool | None]) -> tuple[int, float]:
        score, passed = part
        if score is None and passed is None:
            return (-1, 0.0)
        return ({True: 2, None: 1, False: 0}[passed], float("-inf") if score is None else score)

    def fused(row: tuple[tuple[int | None, bool | None], ...]) -> float:
        ranks = [
            1
            + sum(key(other[i]) > key(row[i]) for other in rows)
            + (sum(key(o[i]) == key(row[i]) for o in rows) - 1) / 2
            for i in range(2)
        ]
        return sum(weight * rank for weight, rank in zip(weights, ranks, strict=True))

    assert strategy.select(candidates).id == min(range(len(rows)), key=lambda i: fused(rows[i]))


async def test_a_stored_run_is_selected_from_again(tmp_path: Path):
    (tmp_path / "t.jsonl").write_text(json.dumps({"prompt": "Which?", "answer": "b"}))
    answers = list(SCORES)
    model = MockModel(lambda request: answers.pop())
    grid = Experiment.parse({"task": f"jsonl:path={tmp_path}/t.jsonl", "strategies": [SPEC], "models": model})
    run = await grid.run(tmp_path / "run")
    (track,) = run.tracks
    (row,) = track.rows
    chosen = track.method.select(track.candidates(row))
    assert chosen is not None
    assert chosen.spawned[0] == row.selected


def test_parameters_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="as many weights"):
        registry.make("strategies", SPEC + ",weights=[1]")
    with pytest.raises(ConfigError, match="verifiers"):
        registry.make("strategies", "rank_fusion")
