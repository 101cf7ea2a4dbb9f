"""Repair tasks: small repositories with a fault, and a test that fails because of it.

In the manner of SWE-bench (Jimenez et al. 2023, arXiv 2310.06770), but small, and offline: a package of a few modules,
one of which has a fault of some kind, sometimes not where the test fails. The tests in the repository are shown; more
inputs grade, judged outside the program's reach.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

from tts.environments.folder import difference
from tts.tasks import Example
from tts.tasks.building import Procedural
from tts.types import Problem
from tts.verifiers.folder_tests import FolderTests
from tts.verifiers.unit_tests import Call, TestSuite

PACKAGES = ("shop", "tools", "desk", "ledger", "harbour", "atlas", "mill", "garden")
PROMPT = """\
This repository has a fault: tests/test_{module}.py fails. Find the fault in the package `{package}` and repair it, so \
that the functions do what their docstrings say in all cases, also in those that no test shows. Do not change the tests.

    python -m unittest -q"""
TEST = '''\
"""Tests of {package}.{module}."""

import unittest

from {package}.{module} import {function}


class Test{name}(unittest.TestCase):
{cases}


if __name__ == "__main__":
    unittest.main()
'''
CASE = """\
    def test_{number}(self):
        self.assertEqual({function}({arguments}), {expected})
"""


@cache
def modules() -> Mapping[str, Mapping[str, Any]]:
    """The modules that repositories are made of."""
    return tomllib.loads(files("tts.tasks").joinpath("repair_tasks.toml").read_text(encoding="utf-8"))


class RepairTasks(Procedural):
    """Repositories with a fault of one of a dozen kinds; the answer is a patch, made in the environment `workspace`."""

    each: int = 1
    """Repositories of each fault; they differ in what else is there, and in the tests that are shown."""
    shown: int = 4
    """Tests in the repository of the module that fails."""

    def difficulties(self) -> Iterable[tuple[str, int]]:
        most = max(len(module["faults"]) for module in modules().values())
        for number in range(most):
            yield from ((name, number) for name, module in modules().items() if number < len(module["faults"]))

    def make(self, id: str, rng: Random, difficulty: tuple[Any, ...]) -> Example:
        name, number = difficulty
        kind, right, wrong = modules()[name]["faults"][number]
        where, _, right = right.rpartition(": ") if kind == "elsewhere" else (name, "", right)
        package, module = rng.choice(PACKAGES), modules()[name]
        others = rng.sample(sorted(set(modules()) - {name, *module.get("needs", ())}), 2)
        needed = [one for each in (name, *others) for one in modules()[each].get("needs", ())]
        sources = {one: source_of(one, package) for one in (name, *others, *needed)}
        faulty = {**sources, where: sources[where].replace(right, wrong)}
        calls = [Call(args=args, expected=value) for args, value in answers(name, sources)]
        failing = [i for i, (_, value) in enumerate(answers(name, faulty)) if value != calls[i].expected]
        rest = [i for i in range(len(calls)) if i not in failing[:1]]
        seen = sorted([rng.choice(failing), *rng.sample(rest, min(self.shown - 1, len(rest)))])
        repository = {f"{package}/__init__.py": f'"""The package {package}."""\n'}
        repository |= {f"{package}/{one}.py": text for one, text in faulty.items()}
        repository["tests/__init__.py"] = ""
        repository[f"tests/test_{name}.py"] = shown_tests(name, package, [calls[i] for i in dict.fromkeys(seen)])
        for other in others:
            known = [Call(args=args, expected=value) for args, value in answers(other, sources)]
            repository[f"tests/test_{other}.py"] = shown_tests(other, package, known[:3])
        function = module["function"]
        suite = TestSuite(entry_point=function, setup=f"from {package}.{name} import {function}", calls=tuple(calls))
        public = suite.model_copy(update={"calls": tuple(calls[i] for i in dict.fromkeys(seen))})
        problem = Problem.from_prompt(
            PROMPT.format(module=name, package=package),
            id=id,
            tests=public.model_dump(mode="json", exclude_defaults=True),
            verifier=FolderTests.name,
            answer="patch",
            environment="workspace",
            metadata={"files": dict(sorted(repository.items())), "kind": kind, "module": where},
        )
        return Example(problem, FolderTests(tests=suite, stop_at_failure=True))


def source_of(name: str, package: str) -> str:
    """A module's right text."""
    return modules()[name]["source"].strip("\n").replace("$package", package) + "\n"


def answers(name: str, sources: Mapping[str, str]) -> list[tuple[tuple[Any, ...], Any]]:
    """The arguments to try a module with, and what it gives; an exception is given as its name."""
    module, given = modules()[name], list[tuple[tuple[Any, ...], Any]]()
    lines = [
        line
        for one in (*module.get("needs", ()), name)  # all in one space, without the imports between them
        for line in sources[one].split("\n")
        if not line.startswith("from ")
    ]
    code = compile("\n".join(lines), name, "exec")
    for text in module["inputs"]:
        space: dict[str, Any] = {"__name__": name}
        exec(code, space)
        try:
            value = space[module["function"]](*json.loads(text, strict=False))
        except Exception as error:
            value = type(error).__name__
        given.append((tuple(json.loads(text, strict=False)), value))
    return given


def shown_tests(name: str, package: str, calls: Iterable[Call]) -> str:
    """The test file of a module."""
    function, cases = modules()[name]["function"], list[str]()
    for number, call in enumerate(calls, 1):
        arguments = ", ".join(map(repr, call.args))
        cases.append(CASE.format(number=number, function=function, arguments=arguments, expected=repr(call.expected)))
    return TEST.format(
        package=package, module=name, function=function, name=name.title(), cases="\n".join(cases).rstrip()
    )


def solution(problem: Problem) -> str:
    """The patch that repairs a problem of this task: the faulty module as it was meant."""
    given = problem.metadata["files"]
    path = next(path for path in given if path.endswith(f"/{problem.metadata['module']}.py"))
    package, before = path.partition("/")[0], {path: text.encode() for path, text in given.items()}
    right = source_of(problem.metadata["module"], package).encode()
    return difference(before, {**before, path: right})[0]
