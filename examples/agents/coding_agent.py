"""A coding agent that fills in the functions of a module, with the official `openai` client and a `tts` gateway.

    tts serve --base-url embedded://lab-target --run-code
    export OPENAI_BASE_URL=http://127.0.0.1:8080/v1
    python examples/agents/coding_agent.py examples/agents/unfinished.py --model lab-target

The loop is that of any agent: ask, write, run the tests, show the model what failed, ask again. But each request
carries the examples in the function's docstring, and the gateway samples until a program passes them in its sandbox, so
most functions are right by the time they reach the file.

The model's functions also run here, by `python -m doctest`, so use it only on files of your own.
"""

from __future__ import annotations

import argparse
import ast
import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any

from openai import APIStatusError, OpenAI


def unfinished(source: str) -> list[ast.FunctionDef]:
    """The functions of a module that consist of a docstring alone."""
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return [function for function in functions if ast.get_docstring(function) and len(function.body) == 1]


def examples(function: ast.FunctionDef) -> list[str]:
    """The examples in its docstring, as assertions."""
    shown = doctest.DocTestParser().get_examples(ast.get_docstring(function) or "")
    return [f"assert ({one.source.strip()}) == ({one.want.strip()})" for one in shown if one.want]


def failures(path: Path, name: str) -> str:
    """The reports of the failed examples of one function of the module; empty if all pass."""
    done = subprocess.run([sys.executable, "-m", "doctest", str(path)], capture_output=True, text=True, timeout=60)
    if done.stderr:  # the module cannot even be imported
        return done.stderr
    reports = done.stdout.split("*" * 70 + "\n")
    return "".join(report for report in reports if report.partition("\n")[0].endswith(f"in {path.stem}.{name}"))


def without_fences(answer: str) -> str:
    """The code in an answer."""
    _, fence, rest = answer.partition("```")
    return (rest.partition("\n")[2].partition("```")[0] if fence else answer).strip("\n")


def complete(client: OpenAI, model: str, path: Path, name: str, *, samples: int, turns: int) -> bool:
    """Write the function `name` into the file at `path`; whether its examples pass in the end."""
    source = path.read_text()
    function = next(one for one in unfinished(source) if one.name == name)
    lines = source.splitlines()
    stub = "\n".join(lines[function.lineno - 1 : function.end_lineno])
    messages: list[Any] = [{"role": "user", "content": stub}]
    search = {"strategy": f"first_pass:k={samples}", "tests": {"prompt": stub, "asserts": examples(function)}}
    for _ in range(turns):
        try:
            answer = client.chat.completions.create(model=model, messages=messages, extra_body={"tts": search})
        except APIStatusError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return False
        said = answer.choices[0].message.content or ""
        program = without_fences(said)
        body = program if f"def {name}" in program else f"{stub}\n{program}"
        written = [*lines[: function.lineno - 1], body, *lines[function.end_lineno :]]
        path.write_text("\n".join(written) + "\n")
        wrong = failures(path, name)
        tokens = answer.usage.total_tokens if answer.usage else 0
        print(f"{name}: {'fails' if wrong else 'done'}, {tokens} tokens")
        if not wrong:
            return True
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": wrong[-2000:]}]
    path.write_text(source)  # leaves no wrong function behind
    return False


def main() -> None:
    """Complete the module named on the command line."""
    parser = argparse.ArgumentParser(description="Fill in the functions of a module that consist of a docstring alone.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", required=True, help="one that the gateway serves")
    parser.add_argument("--samples", type=int, default=32, help="programs tried for a function, at most")
    parser.add_argument("--turns", type=int, default=2, help="requests for a function, at most")
    options = parser.parse_args()
    names = [function.name for function in unfinished(options.file.read_text())]
    with OpenAI() as client:
        done = [
            complete(client, options.model, options.file, name, samples=options.samples, turns=options.turns)
            for name in names
        ]
    print(f"{sum(done)} of {len(names)} functions written to {options.file}")
    sys.exit(not all(done))


if __name__ == "__main__":
    main()
