"""The contracts that a plug-in implements: `Strategy`, `Verifier`, `AnswerVerifier`.

Each is a frozen pydantic model whose fields are its parameters; the string under a field documents it on the command
line. See `tts.registry` for how plug-ins are found.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from time import thread_time
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, PlainSerializer

from tts import registry
from tts.concurrency import LARGE, aside, timed
from tts.errors import ConfigError, NoReader
from tts.policies import PolicyNames
from tts.registry import Plugin
from tts.resources import Resources
from tts.session import Session
from tts.types import Candidate, Problem, Scale, Verdict

Estimator = Literal["replay", "best_of_k", "majority"]


class Verifier(Plugin):
    """Judges one candidate. Override `check` (plain function) or `verify` (asynchronous, may sample)."""

    roles: ClassVar[frozenset[str]] = frozenset()
    """Roles that it samples from."""
    sampling: ClassVar[Mapping[str, Any]] = {}
    """Parameters that the policy's samples must be drawn with to be judged: `{"logprobs": True}`."""
    runs_code: ClassVar[bool] = False
    """Whether it runs programs that models or requests wrote. (It must do so in the sandbox.)"""
    rates_partial: ClassVar[bool] = False
    """Whether it can rate an answer that is not finished (`Candidate.partial`), for searches over steps."""
    scale: ClassVar[Scale | None] = None
    """What its scores are, `positive`, `logprob`, `reward` or `order`, and so how they weigh votes (see
    `tts.types.Scale`). None: unsaid; they count as they are, and those below 0 do not vote."""

    @property
    def relative(self) -> bool:
        """Whether its ratings depend on which other candidates there are."""
        return type(self).among is not Verifier.among

    @property
    def tells_elements(self) -> bool:
        """Whether `details["elements"]` of its verdicts has what is asked for, piece by piece: the `text` of each, its
        `kind` (core or extra), whether it is `met`, and `why`."""
        return False

    def ready(self, problem: Problem) -> None:
        """Raise `ConfigError` if it cannot judge candidates for `problem`; asked before anything is spent."""

    async def vet(self, resources: Resources) -> None:
        """Raise `ConfigError` for parameters that take long to check, found out where they hold nobody up.

        Asked before anything is spent, of a verifier that a stranger's spec made (see `tts.registry.trusted`).
        """

    def among(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """The verified `candidates` (in spawned order) with the verdicts that they have in each other's company.

        Pure: a vote share or a rank follows from what `verify` put into each verdict's `details`, so that the rating
        within any prefix can be replayed. By default each keeps its own verdict.
        """
        return candidates

    async def foresee(self, problem: Problem, candidates: Sequence[Candidate], session: Session) -> None:
        """Ask for what rating `candidates` needs in one request, where the server can; by default nothing."""

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Rate `candidate`. Every call through `session` is charged to the verdict."""
        verdict, seconds = await aside(len(candidate.content), timed, self.check, problem, candidate)
        if isinstance(verdict, Verdict):
            return verdict
        return Verdict(float(verdict), verdict if isinstance(verdict, bool) else None, cpu_seconds=seconds)

    def check(self, problem: Problem, candidate: Candidate) -> Verdict | bool | float:
        """The plain form: a verdict, accepted or not, or a score. It must be quick: it runs on the loop, or for a large
        answer in a thread."""
        raise NotImplementedError(f"{type(self).__name__} must define check() or verify()")


class ScoreVerifier(Verifier):
    """Judges by a number, and accepts or refuses only where it is told from which number on."""

    accept: float | None = None
    """The score from which a candidate is accepted; below it is refused. None: it only ranks."""

    def rated(self, score: float, feedback: str = "", **details: Any) -> Verdict:
        """The verdict that `score` makes."""
        return Verdict(score, None if self.accept is None else score >= self.accept, feedback, details)

    def rescored(self, candidate: Candidate, score: float) -> Candidate:
        """`candidate` with its verdict's score replaced, for `among`."""
        assert candidate.verdict is not None
        passed = self.rated(score).passed
        return replace(candidate, verdict=replace(candidate.verdict, score=score, passed=passed))


class AnswerVerifier(Verifier):
    """Compares a final answer with a reference; the same code parses and groups answers for votes."""

    scale: ClassVar[Scale | None] = "positive"

    reference: str | None = None
    """The right answer. None: it can only parse and compare, for votes."""

    def parse(self, text: str) -> str | None:
        """The final answer in `text` in canonical form; None when there is none."""
        raise NotImplementedError

    def same(self, one: str, other: str) -> bool:
        """Whether two parsed answers mean the same."""
        return one == other

    async def read(self, text: str, session: Session) -> str | None:
        """`parse`, for what takes too long to hold up the loop; what that costs is charged to `session`."""
        answer, seconds = await aside(len(text), timed, self.parse, text)
        if len(text) > LARGE:
            session.pay_verifier(seconds, seconds)
        return answer

    async def equal(self, one: str, other: str, session: Session) -> bool:
        """`same`, for what takes too long to hold up the loop; what that costs is charged to `session`."""
        return self.same(one, other)

    def ready(self, problem: Problem) -> None:
        """It judges by comparing with a reference."""
        if self.reference is None:
            raise ConfigError(
                f"{self.name} has nothing to compare with: {self.name}:reference=..., or use it for votes"
            )

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Accepted iff the answer is the reference's; no answer is a wrong one."""
        if self.reference is None:
            raise ConfigError(f"{self.name} has no reference to compare with")
        begin = thread_time()
        answer = await self.read(candidate.content, session)
        reference = await self.read(self.reference, session) or self.reference
        parsing = thread_time() - begin
        passed = answer is not None and (answer == reference or await self.equal(answer, reference, session))
        feedback = "" if passed else "no final answer found" if answer is None else "wrong answer"
        return Verdict(float(passed), passed, feedback, {"answer": answer}, parsing)


def made_from_spec(group: registry.Group) -> BeforeValidator:
    """Lets a field of a model be given as a spec."""
    return BeforeValidator(lambda value: registry.make(group, value) if isinstance(value, str | dict) else value)


as_config: PlainSerializer = PlainSerializer(lambda plugin: plugin.config())


VerifierField = Annotated[Verifier, made_from_spec("verifiers"), as_config]
"""A parameter that is a verifier: an object, a spec such as `unit_tests:timeout=5`, or its `config()`."""

AnswerField = Annotated[AnswerVerifier, made_from_spec("verifiers"), as_config]


def answer_reader(problem: Problem, named: AnswerVerifier | None = None) -> AnswerVerifier:
    """What parses and compares the answers to `problem`: the one that is `named`, else the problem's own."""
    if named is not None:
        return named
    if problem.answer is None:
        names = "say exact_answer, or behaviour for programs"
        raise NoReader(f"{problem.id} does not say how its answers are read; set answer=, {names}")
    return registry.make("verifiers", problem.answer)


def of(path: str) -> Any:
    """A property or method of a plug-in that is another's: `of("then.ready")` is that of the one in `then`."""
    return property(attrgetter(path))


class Strategy(Plugin):
    """Searches for candidates, and selects one from any prefix of them."""

    stated: ClassVar[frozenset[str]] = frozenset(
        {"n", "k", "simulations", "nodes", "waits"}
    )  # a curve that does not say how many tells nothing

    roles: ClassVar[frozenset[str]] = frozenset({"policy"})
    """Roles that it samples from."""
    several: ClassVar[bool] = False
    """Whether it can draw from several policies, `Session.policies`; any other draws from one of a set."""
    needs_verifier: ClassVar[bool] = False
    """Whether it cannot work without a verifier."""
    rates_steps: ClassVar[bool] = False
    """Whether it has answers rated before they are finished."""
    independent: ClassVar[bool] = False
    """Whether candidates are drawn independently of each other. Coverage (pass@k) is then exact over all subsets."""
    estimator: ClassVar[Estimator] = "replay"
    """How the curve of what it selects is made: in closed form over all subsets (`best_of_k`, `majority`; only where
    candidates are independent), or by replaying `select` prefix by prefix."""
    in_pieces: ClassVar[bool] = False
    """Whether its answers are written piece by piece, so that they cannot be tool calls or follow a response format."""
    by_turns: ClassVar[bool] = False
    """Whether the pieces may be turns of a trajectory, in an environment that can be copied (`Episode.fork`)."""
    gains: ClassVar[Literal["votes", "verdicts", "rates", "arms"] | None] = None
    """What a sample adds to: by this a total budget is shared out among problems, if the search draws its samples by
    `tts.stopping.drawn`, or asks `Session.turn` with which of its `n` arms. None: it does not."""
    exhaustive: ClassVar[bool] = False
    """Whether it goes on whatever the verdicts are. A replayed strategy then has a curve of coverage too: the share of
    problems that any candidate of the prefix solves."""
    # A strategy in which one of these depends on its parameters defines it as a property.

    verifier: VerifierField | None = None
    """Overrides the verifier of the run or the problem."""
    policies: PolicyNames = ()
    """The policies of a set that it draws from, in this order; by default all of them, if it can draw from several."""

    @property
    def weighs_votes(self) -> bool:
        """Whether the verifier's scores weigh its votes, or whatever else it weighs: its parameter `weighted`, if it
        has one. A verifier whose scores are an `order` is then refused."""
        return getattr(self, "weighted", False)

    @property
    def most_samples(self) -> int | None:
        """The most samples of the policies that it draws for a problem; None where its parameters do not tell."""
        return getattr(self, "n", None) or getattr(self, "k", None)

    def ready(self, problem: Problem) -> None:
        """Raise `ConfigError` if it cannot work on `problem`; asked before anything is spent."""

    def taught(self, training: Plugin) -> Self:
        """Itself with the examples of the task `training`, if it shows some and nobody has said which."""
        return self

    def check_policies(self, policies: Mapping[str, str]) -> None:
        """Raise `ConfigError` if it cannot choose among `policies` (models by role); asked before anything is spent."""

    def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        """The candidates as they are made: an async generator, or a stream of the session returned as it is.

        Leaving it stops all its work. A candidate that is yielded again (same `id`) replaces itself: its verdict came
        later.
        """
        raise NotImplementedError

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The answer among `candidates` (in spawned order); None abstains. Pure.

        It is not given what the budget cut off where there is anything else (`selectable`).
        By default the best verdict: accepted before unknown before refused, then by score; the earliest wins ties.
        """
        return best(candidates)

    def warning(self, candidates: Iterable[Candidate]) -> str:
        """What all the candidates of a run say of it that its user should know; summaries show it. Empty: nothing.

        By default: that negative scores of unknown scale did not vote.
        """
        if not self.weighs_votes:
            return ""
        verdicts = (candidate.verdict for candidate in candidates)
        lost = sum(one is not None and one.score is not None and one.weight is None for one in verdicts)
        return f"negative scores did not vote: {lost:,}. Say by the verifier's scale what they are" if lost else ""

    def settled(self, candidates: Sequence[Candidate]) -> bool:
        """Whether to end the search early. Pure. By default a candidate that the verifier accepted is good enough."""
        return any(candidate.passed for candidate in candidates)


StrategyField = Annotated[Strategy, made_from_spec("strategies"), as_config]


def selectable(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those of `candidates` among which a strategy selects: none that the budget cut off, unless it cut off all."""
    return [candidate for candidate in candidates if not candidate.cut_off] or list(candidates)


def best(candidates: Sequence[Candidate]) -> Candidate | None:
    """The candidate with the best verdict, the first among equals; None where there are none."""
    return max(candidates, key=rank, default=None)


Weight = Callable[[Candidate], float | None]
"""What a candidate's vote counts; None: it does not vote."""


def each_alike(candidate: Candidate) -> float:
    """One voter, one vote."""
    return 1.0


def by_verdict(candidate: Candidate) -> float | None:
    """The weight of the verdict; without a score there is no vote."""
    return None if candidate.verdict is None else candidate.verdict.weight


def tally(candidates: Sequence[Candidate], weight: Weight = each_alike) -> dict[str, float]:
    """The votes for each class of answers (see `answer_classes`), classes in spawned order.

    `weight` says what a candidate's vote counts, by default one; None, or no answer, is no vote.
    """
    votes: dict[str, float] = {}
    for answer, counts, _ in _ballots(candidates, weight):
        votes[answer] = votes.get(answer, 0.0) + counts
    return votes


def majority(candidates: Sequence[Candidate], weight: Weight = each_alike) -> Candidate | None:
    """The first spawned voter of the class with the most votes, the earliest class among equals; None without votes."""
    votes, first = dict[str, float](), dict[str, Candidate]()
    for answer, counts, voter in _ballots(candidates, weight):
        votes[answer] = votes.get(answer, 0.0) + counts
        first.setdefault(answer, voter)
    return first[max(votes, key=votes.__getitem__)] if votes else None


def _ballots(candidates: Sequence[Candidate], weight: Weight) -> Iterator[tuple[str, float, Candidate]]:
    """Class, weight and voter, in spawned order."""
    ordered = sorted(candidates, key=lambda candidate: candidate.spawned)
    counted = [(one, counts) for one in ordered if (counts := weight(one)) is not None]
    for (candidate, counts), answer in zip(counted, answer_classes([one.notes for one, _ in counted]), strict=True):
        if answer is not None:
            yield answer, counts, candidate


def answer_classes(notes: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """The class of each answer among the others, named by its first member; None where there is no answer.

    `notes` is what `Session.compared` found out about each. Two answers are in one class if they mean the same, or if
    others among them link them: what is equal to an equal is equal, also where a comparison could not tell. So the
    classes are those of the set of answers, in whatever order they came.
    """
    said = [one.get("said", one.get("answer")) for one in notes]
    if not any("alike" in one for one in notes):
        return said
    parent: dict[str, str] = {answer: answer for answer in said if answer is not None}

    def root(answer: str) -> str:
        while parent[answer] != answer:
            parent[answer] = answer = parent[parent[answer]]
        return answer

    for answer, one in zip(said, notes, strict=True):
        for other in one.get("alike", ()):
            if answer is not None and other in parent:
                parent[root(other)] = root(answer)
    first: dict[str, str] = {}
    return [None if answer is None else first.setdefault(root(answer), answer) for answer in said]


def decided(candidates: Sequence[Candidate], n: int, weight: Weight = each_alike) -> bool:
    """Whether the votes still to come, of `n` in all and each counting one at most, cannot change the majority.

    They can join the other classes into one (see `answer_classes`), so the first must have more votes than all others.
    """
    if 2 * len(candidates) <= n:  # even if all agree
        return False
    votes = tally(candidates, weight).values()
    return 2 * max(votes, default=0) - sum(votes) > n - len(candidates)


def rank(candidate: Candidate) -> tuple[int, float]:
    """Sort key of a candidate by its verdict; unrated candidates come last."""
    return standing(candidate.verdict)


def standing(verdict: Verdict | None) -> tuple[int, float]:
    """Sort key of a verdict: accepted, unknown, refused, none; then by score."""
    if verdict is None or (verdict.score is None and verdict.passed is None):
        return (-1, 0.0)
    level = {True: 2, None: 1, False: 0}[verdict.passed]
    return (level, verdict.score if verdict.score is not None else float("-inf"))
