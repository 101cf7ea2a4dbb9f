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
FUSED = "rank_fusion(verifiers=[field,field(place=1)]{})"
SPEC = f"best_of_n:n=4,verifier={FUSED}"


@pytest.mark.parametrize(("weights", "answer"), [("", "b"), (",weights=[3,1]", "a"), (",weights=[0,1]", "c")])
async def test_the_lowest_sum_of_weighted_ranks_wins(weights: str, answer: str):
    answers = list(SCORES)
    result = await solve("Which?", SPEC.format(weights), MockModel(lambda request: answers.pop()))
    assert len(result.candidates) == 4
    assert result.text == answer


verdict = st.tuples(st.none() | st.integers(0, 3), st.sampled_from([True, False, None]))


@given(
    rows=st.lists(st.tuples(verdict, verdict), min_size=1, max_size=6),
    weights=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_ranks_count_who_is_better_and_half_of_who_is_equal(
    rows: Sequence[tuple[tuple[int | None, bool | None], ...]], weights: tuple[int, int]
):
    strategy = registry.make("strategies", SPEC.format(f",weights=[{weights[0]},{weights[1]}]"))
    assert strategy.verifier is not None
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

    assert strategy.select(strategy.verifier.among(candidates)).id == min(
        range(len(rows)), key=lambda i: fused(rows[i])
    )


async def test_a_stored_run_is_selected_from_again(tmp_path: Path):
    (tmp_path / "t.jsonl").write_text(json.dumps({"prompt": "Which?", "answer": "b"}))
    answers = list(SCORES)
    model = MockModel(lambda request: answers.pop())
    grid = Experiment.parse(
        {"task": f"jsonl:path={tmp_path}/t.jsonl", "strategies": [SPEC.format("")], "models": model}
    )
    run = await grid.run(tmp_path / "run")
    (track,) = run.tracks
    (row,) = track.rows
    assert track.verifier is not None
    chosen = track.method.select(track.verifier.among(track.candidates(row)))
    assert chosen is not None
    assert chosen.spawned[0] == row.selected


@pytest.mark.parametrize(
    ("kind", "weight", "answer"), [("rank_fusion", 2, "7"), ("rank_fusion", 0.1, "8"), ("weighted", 4, "7")]
)
async def test_ratings_in_company_are_fused_as_they_are_in_that_company(kind: str, weight: float, answer: str):
    answers = ["Answer: 7", "Answer: 7.0", "Answer: 8", "no idea"]
    problem = Problem.from_prompt("?", answer="numeric_answer")
    spec = f'best_of_n:n=4,verifier={kind}(verifiers=[agreement,regex(pattern="8")],weights=[{weight},1])'
    result = await solve(problem, spec, MockModel(lambda request: answers.pop()))
    assert result.text is not None
    assert answer in result.text
    votes = [c.verdict.details["parts"][0]["score"] for c in result.candidates if c.verdict]
    assert sorted(vote or 0 for vote in votes) == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3])


@pytest.mark.parametrize("spec", ["cascade:verifiers=[agreement,field]", "noisy:verifier=agreement"])
def test_what_judges_each_candidate_when_it_comes_refuses_ratings_in_company(spec: str):
    problem = Problem.from_prompt("?", answer="numeric_answer")
    with pytest.raises(ConfigError, match="agreement rates candidates by each other"):
        registry.make("verifiers", spec).ready(problem)
    registry.make("verifiers", "cached:verifier=agreement").ready(problem)


def test_parameters_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="as many weights"):
        registry.make("verifiers", "rank_fusion:verifiers=[field],weights=[1,2]")
    with pytest.raises(ConfigError, match="verifiers"):
        registry.make("verifiers", "rank_fusion")
