"""LiveCodeBench's tests (Jain et al. 2024, arXiv 2403.07974) as suites: a problem's record has public and private
ones, each for standard input or for a function. The private ones may be packed: base64 of zlib of a pickled text.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from tts.errors import ConfigError
from tts.verifiers.programs.suite import Call, InputOutput, TestSuite


def livecodebench_suites(record: Mapping[str, Any]) -> tuple[TestSuite, TestSuite]:
    """The public suite, and the truth: all tests, public and private.

    Raises `ConfigError` for a record that does not have LiveCodeBench's form.
    """
    try:
        metadata = record.get("metadata") or {}
        name = (json.loads(metadata) if isinstance(metadata, str) else metadata).get("func_name")
        public, private = _tests(record["public_test_cases"]), _tests(record.get("private_test_cases") or "[]")
        return _suite(public, name), _suite([*public, *private], name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"not a record of LiveCodeBench: {type(error).__name__}: {error}") from error


def _tests(packed: str | Sequence[Mapping[str, str]]) -> Sequence[Mapping[str, str]]:
    if not isinstance(packed, str):
        return packed
    try:
        return json.loads(packed)
    except ValueError:
        pass
    try:
        text = _TextOnly(io.BytesIO(zlib.decompress(base64.b64decode(packed)))).load()
        return json.loads(text)
    except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"the private tests cannot be unpacked: {error}") from error


class _TextOnly(pickle.Unpickler):
    """Reads pickles of plain data: one that names any class or function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"a pickle that needs {module}.{name}")


def _suite(tests: Sequence[Mapping[str, str]], name: str | None) -> TestSuite:
    kinds = {test["testtype"] for test in tests}
    if kinds <= {"stdin"}:
        scripts = tuple(InputOutput(input=test["input"], output=test["output"]) for test in tests)
        return TestSuite(stdin=scripts, output="numbers", tolerance=0.0)
    if kinds != {"functional"} or not name:
        raise ValueError("tests must be all 'stdin', or all 'functional' with metadata.func_name")
    calls = tuple(
        Call(args=tuple(map(json.loads, test["input"].splitlines())), expected=json.loads(test["output"]))
        for test in tests
    )
    return TestSuite(entry_point=name, container="Solution", calls=calls)
