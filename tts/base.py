"""What a plug-in is: a frozen pydantic model whose fields are its parameters, found by name.

`Strategy` and `Verifier` are the two contracts that third parties implement; see `tts.registry` for how they
are found. A parameter's documentation is the string under its field.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Sequence
from time import thread_time
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from tts import registry
from tts.errors import ConfigError
from tts.types import Candidate, Problem, Verdict

if TYPE_CHECKING:
    from tts.session import Session

Estimator = Literal["replay", "best_of_k", "majority"]


class Plugin(BaseModel):
    """A named, immutable, serialisable set of parameters."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        coerce_numbers_to_str=True,  # a spec reads reference=42 as a number
    )

    name: ClassVar[str] = ""
    """The name it is found by: the class name in snake case unless set."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def config(self) -> dict[str, Any]:
        """Name and all parameters as plain data; `registry.make` builds an equal object from it."""
        return {"name": self.name, **self.model_dump(mode="json")}

    @property
    def spec(self) -> str:
        """Short text form with the parameters that are not default: `best_of_n:n=32`."""
        arguments = _arguments(self)
        return f"{self.name}:{arguments}" if arguments else self.name


def _arguments(plugin: Plugin) -> str:
    """The parameters that are not default, plug-ins last, as they are written in a spec."""
    changed = plugin.model_dump(mode="json", exclude_defaults=True)

    def text(key: str, value: Any) -> str:
        inner = getattr(plugin, key)
        if isinstance(inner, Plugin):
            arguments = _arguments(inner)
            return f"{inner.name}({arguments})" if arguments else inner.name
        if isinstance(value, str) and re.fullmatch(r"[\w.@/+-]+", value):
            reads_back = registry.parse_spec(f"_:value={value}")[1] == {"value": value}
            return value if reads_back else json.dumps(value)  # "42" stays a text
        return json.dumps(value)

    last = sorted(changed, key=lambda key: isinstance(getattr(plugin, key), Plugin))
    return ",".join(f"{key}={text(key, changed[key])}" for key in last)


class Verifier(Plugin):
    """Judges one candidate. Override `check` (plain function) or `verify` (asynchronous, may sample)."""

    roles: ClassVar[frozenset[str]] = frozenset()
    """Roles that it samples from."""

    def ready(self, problem: Problem) -> None:
        """Raise `ConfigError` if it cannot judge candidates for `problem`; asked before anything is spent."""

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Rate `candidate`. Every call through `session` is charged to the verdict."""
        begin = thread_time()
        verdict = self.check(problem, candidate)
        if isinstance(verdict, Verdict):
            return verdict
        accepted = verdict if isinstance(verdict, bool) else None
        return Verdict(float(verdict), accepted, cpu_seconds=thread_time() - begin)

    def check(self, problem: Problem, candidate: Candidate) -> Verdict | bool | float:
        """The plain form: a verdict, accepted or not, or a score. It must be quick: it runs on the loop."""
        raise NotImplementedError(f"{type(self).__name__} must define check() or verify()")


class AnswerVerifier(Verifier):
    """Compares a final answer with a reference; the same code parses and groups answers for votes."""

    reference: str | None = None
    """The right answer. None: it can only parse and compare, for votes."""

    def parse(self, text: str) -> str | None:
        """The final answer in `text` in canonical form; None when there is none."""
        raise NotImplementedError

    def same(self, one: str, other: str) -> bool:
        """Whether two parsed answers mean the same."""
        return one == other

    def class_of(self, answer: str | None, known: list[str]) -> str | None:
        """The one of the `known` answers that means the same as `answer`; a new one is added to them."""
        if answer is None:
            return None
        for other in known:
            if answer == other or self.same(answer, other):
                return other
        known.append(answer)
        return answer

    def ready(self, problem: Problem) -> None:
        """It judges by comparing with a reference."""
        if self.reference is None:
            raise ConfigError(
                f"{self.name} has nothing to compare with: {self.name}:reference=..., or use it for votes"
            )

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        """Accepted iff the answer is the reference's; no answer is a wrong one."""
        if self.reference is None:
            raise ConfigError(f"{self.name} has no reference to compare with")
        begin = thread_time()
        answer = self.parse(candidate.content)
        reference = self.parse(self.reference) or self.reference
        passed = answer is not None and self.same(answer, reference)
        feedback = "" if passed else "no final answer found" if answer is None else "wrong answer"
        return Verdict(float(passed), passed, feedback, {"answer": answer}, thread_time() - begin)


def made_from_spec(group: registry.Group) -> BeforeValidator:
    """Lets a field of a model be given as a spec."""
    return BeforeValidator(lambda value: registry.make(group, value) if isinstance(value, str | dict) else value)


as_config = PlainSerializer(lambda plugin: plugin.config())


VerifierField = Annotated[Verifier, made_from_spec("verifiers"), as_config]
"""A parameter that is a verifier: an object, a spec such as `unit_tests:timeout=5`, or its `config()`."""

AnswerField = Annotated[AnswerVerifier, made_from_spec("verifiers"), as_config]


class Strategy(Plugin):
    """Searches for candidates, and selects one from any prefix of them."""

    roles: ClassVar[frozenset[str]] = frozenset({"policy"})
    """Roles that it samples from."""
    needs_verifier: ClassVar[bool] = False
    """Whether it makes no sense without a verifier."""
    estimator: ClassVar[Estimator] = "replay"
    """How its curve is made. Candidates drawn independently of each other allow a closed form over all subsets
    (`best_of_k`, `majority`); any other strategy is replayed prefix by prefix through `select`."""

    verifier: VerifierField | None = None
    """Overrides the verifier of the run or the problem."""

    def ready(self, problem: Problem) -> None:
        """Raise `ConfigError` if it cannot work on `problem`; asked before anything is spent."""

    def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        """Yield candidates as they are made (an async generator). Closing it stops all its work."""
        raise NotImplementedError

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The answer among `candidates` (in spawned order); None abstains. Pure.

        By default the best verdict: accepted before unknown before refused, then by score; the earliest wins ties.
        """
        return max(candidates, key=rank, default=None)

    def settled(self, candidates: Sequence[Candidate]) -> bool:
        """Whether to end the search early. Pure. By default a candidate that the verifier accepted is good enough."""
        return any(candidate.passed for candidate in candidates)


def rank(candidate: Candidate) -> tuple[int, float]:
    """Sort key of a candidate by its verdict; unrated candidates come last."""
    verdict = candidate.verdict
    if verdict is None or (verdict.score is None and verdict.passed is None):
        return (-1, 0.0)
    level = {True: 2, None: 1, False: 0}[verdict.passed]
    return (level, verdict.score if verdict.score is not None else float("-inf"))
