"""Which addresses may be stored."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tts.runs.database import Database
from tts.runs.store import Addresses, Store
from tts.types import Sample

KEYS = st.binary(min_size=16, max_size=16)


@given(st.lists(KEYS), st.lists(KEYS))
def test_what_was_added_is_found_whenever_it_was(before: list[bytes], since: list[bytes]):
    addresses = Addresses(before)
    for key in since:
        addresses.add(key)
    assert all(key in addresses for key in before + since)


def test_few_others_are_found():
    addresses = Addresses(os.urandom(16) for _ in range(20_000))
    assert sum(os.urandom(16) in addresses for _ in range(20_000)) < 20


async def test_only_what_may_be_stored_is_looked_up(tmp_path: Path, monkeypatch):
    old, new = os.urandom(16), os.urandom(16)
    async with Store(tmp_path / "run.sqlite") as store:
        await store.put(old, Sample("old"))
    async with Store(tmp_path / "run.sqlite") as store:
        assert (await store.get(old, [0]))[0].text == "old"
        jobs: list[object] = []
        monkeypatch.setattr(Database, "run", lambda self, job, run=Database.run: (jobs.append(job), run(self, job))[1])
        assert await store.get(new, [0]) == {}
        assert not jobs
        await store.put(new, Sample("new"))
        assert (await store.get(new, [0]))[0].text == "new"
        assert len(jobs) == 2
