"""Reports read cells side by side: what they say is what the candidates themselves say, one by one."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.conftest import made
from tts.base import best, by_verdict, majority, selectable
from tts.errors import StoreError
from tts.runs import Run, damage
from tts.runs.analysis import summary
from tts.runs.columns import ranked
from tts.runs.estimates import best_so_far, voted_so_far
from tts.studies.verifiers import verifier_report
from tts.types import Candidate, Sample, Verdict

verdicts = st.builds(
    Verdict, st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, 2.0])), st.sampled_from([None, True, False])
)
pools = st.lists(
    st.tuples(verdicts, st.sampled_from([None, "a", "b", "c"]), st.booleans(), st.booleans()), min_size=1, max_size=12
)


def candidates_of(pool: list[tuple[Verdict, str | None, bool, bool]]) -> list[Candidate]:
    return [
        Candidate(
            id=i,
            content="",
            spawned=(i,),
            verdict=verdict,
            notes={"answer": answer},
            samples=(Sample("", "budget" if cut else "stop"),),
        )
        for i, (verdict, answer, cut, _) in enumerate(pool)
    ]


def rightness(chosen: Candidate | None, pool: list[tuple[Verdict, str | None, bool, bool]]) -> float:
    return float(chosen is not None and pool[chosen.id][3])


@given(pools, st.booleans())
def test_the_best_of_every_prefix_is_what_selecting_from_each_finds(
    pool: list[tuple[Verdict, str | None, bool, bool]], latest: bool
) -> None:
    candidates = candidates_of(pool)
    scores = np.array([[one.score, one.passed] for one, *_ in pool], dtype=np.float64).T
    found = best_so_far(
        np.array([float(right) for *_, right in pool]),
        ranked(*scores),
        np.array([cut for _, _, cut, _ in pool]),
        latest,
    )
    prefixes = [selectable(candidates[: k + 1]) for k in range(len(pool))]
    assert found.tolist() == [rightness(best(part[::-1] if latest else part), pool) for part in prefixes]


@given(pools)
def test_the_weighted_vote_of_every_prefix_is_what_voting_in_each_finds(
    pool: list[tuple[Verdict, str | None, bool, bool]],
) -> None:
    candidates = candidates_of(pool)
    weights = np.array([verdict.weight for verdict, *_ in pool], dtype=np.float64)
    classes = np.array([-1 if answer is None else "cab".index(answer) for _, answer, *_ in pool])
    found = voted_so_far(np.array([float(right) for *_, right in pool]), classes, weights)
    prefixes = [candidates[: k + 1] for k in range(len(pool))]
    assert found.tolist() == [rightness(majority(part, by_verdict), pool) for part in prefixes]


async def test_a_run_that_was_stored_without_columns_reads_the_same(tmp_path: Path) -> None:
    def said(run: Run) -> str:
        return repr((summary(run), run.curves("flops"), [one.as_dict() for one in verifier_report(run)]))

    run = await made(tmp_path).run(tmp_path / "run")
    before = said(run)
    run.db.close()
    with closing(sqlite3.connect(run.path / "run.sqlite", isolation_level=None)) as db:
        db.execute("DROP TABLE columns")
    assert said(Run(run.path)) == before


async def test_a_closed_file_is_sealed_and_asked_row_by_row_only_when_it_is_not_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage, "LARGE", 0)
    run = await made(tmp_path).run(tmp_path / "run")
    run.db.close()
    path, asked = tmp_path / "run" / "run.sqlite", list[str]()
    whole = path.read_bytes()

    def rows_asked() -> bool:
        asked.clear()
        found = Run(tmp_path / "run", checked=False)
        found.db.set_trace_callback(asked.append)
        try:
            damage.check(found.db, path)
        finally:
            found.db.close()
        return any("intact(" in query for query in asked)

    assert not rows_asked()
    place = whole.index(b"Answer: 45")
    path.write_bytes(whole[:place] + b"Answer: 46" + whole[place + 10 :])
    with pytest.raises(StoreError, match="damaged"):
        rows_asked()
    path.write_bytes(whole)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TABLE of_somebody_else (x)")
    assert rows_asked()
    await made(tmp_path, problems=7).run(tmp_path / "run", resume=True)
    assert not rows_asked()
    seal, said = path.with_suffix(".seal"), path.stat().st_mtime_ns
    os.utime(seal, ns=(said + 1, said + 1))
    await made(tmp_path, problems=7).run(tmp_path / "run", resume=True)  # which writes nothing
    assert seal.stat().st_mtime_ns == said + 1
