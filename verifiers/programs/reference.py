"""What a reference solution returns: computed once for each problem, isolated as any program, and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from tts.errors import ConfigError
from tts.files import cache_folder, write_atomically
from tts.verifiers.programs.suite import TestSuite
from tts.verifiers.sandbox import Call, Job, Limits, Sandbox
from tts.verifiers.sandbox.codec import decode, encode, is_plain

LIMITS = Limits(cpu_seconds=120.0, memory_mb=4096, output_kb=256 << 10)


async def expected_values(
    sandbox: Sandbox, suite: TestSuite, isolation: Literal["required", "best_effort"] = "required"
) -> Sequence[Any]:
    """The reference's value for each of its inputs; nothing for a suite without one.

    Raises `ConfigError` when the reference fails on one of them.
    """
    reference = suite.reference
    if reference is None:
        return ()
    name = suite.entry_point or ""
    arguments = [encode(args) for args in reference.arguments]
    file = _file("\0".join([sandbox.version, suite.setup, reference.program, name, *arguments]))
    with suppress(OSError, ValueError):
        kept = decode(file.read_text())
        if isinstance(kept, list) and len(kept) == len(arguments):
            return kept
    cases = tuple((Call(name, text),) for text in arguments)
    program = f"{suite.setup}\n{reference.program}"
    result = await sandbox.run(Job(program, cases, limits=LIMITS, isolation=isolation))
    done = [result.loaded, *result.cases]
    failed = next((one for one in done if one.status != "ok"), None)
    values = [one.values[-1] for one in result.cases if one.values]
    if failed or len(values) != len(arguments):
        why = f"{failed.status}: {failed.error}" if failed else "it did not come to its end"
        raise ConfigError(f"the reference solution of {name} cannot be used: {why}")
    if not is_plain(values):
        raise ConfigError(f"the reference solution of {name} returns what is no plain data; give other tests")
    with suppress(OSError):  # a folder that cannot be written costs time, nothing else
        write_atomically(file, encode(values))
    return values


def _file(content: str) -> Path:
    digest = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
    return cache_folder() / "expected" / f"{digest}.json"
