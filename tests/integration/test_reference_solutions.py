"""The reference solutions of HumanEval+ on all of its inputs, which take a minute."""

from __future__ import annotations

from tests.tasks.test_code_tasks import RealData, all_pass, resources
from tts.resources import Resources
from tts.tasks.humaneval import HumanEvalPlus
from tts.tasks.loading import read_jsonl

__all__ = ["resources"]


async def test_every_reference_solution_of_humaneval_plus_passes(real_data: RealData, resources: Resources):
    path = real_data("HumanEvalPlus.jsonl.gz")
    solutions = {line.fields["task_id"]: line.fields["canonical_solution"] for line in read_jsonl(path)}
    examples = list(HumanEvalPlus(path=path).examples())
    assert len(examples) == 164
    assert sum(len(example.truth.tests) for example in examples) == 124_253  # type: ignore[attr-defined]
    assert await all_pass(examples, solutions, resources) == []
