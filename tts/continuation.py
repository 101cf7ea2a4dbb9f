"""Answers that grow piece by piece: what step-wise strategies stand on.

    answer = await Continuation.start(session)            # nothing written yet
    answer = await answer.extend(tokens=200)              # one step further; answer.ended says why it is over, if it is
    four = await answer.branch(4, stop="\\n")              # four next lines, from one shared prefix
    candidate = four[0].candidate()

Where the server gives token ids (vLLM, llama.cpp), a partial answer is a list of ids that only ever grows: nothing is
tokenized twice or glued in between, and every step finds its prefix in the server's cache. Where it does not, or where
a strategy edits the text (`exact=False`), it is a text behind the rendered prompt, which the server tokenizes as a
whole.
Hosted chat APIs, which can do neither, are refused with `ConfigError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from tts.calls import digest
from tts.concurrency import Once
from tts.errors import BudgetSpent, ConfigError, SamplingFailed
from tts.sampler.parameters import merged, token_limit
from tts.sampler.scoring import TokenScores, detokenize, tokenize
from tts.session import Session
from tts.types import Candidate, Charge, Prompt, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """A partial answer, and what it cost. It is immutable: growing it makes new ones, which share their prefix."""

    session: Session = field(repr=False)
    heads: Mapping[str, Any] = field(repr=False)
    """By role: the prompt as its model reads it, in token ids or rendered as text."""
    rendered: bool = False
    """Whether the heads are texts in which the begin-of-text token stands already."""
    path: tuple[int, ...] = ()
    """Which branch of which branch it is."""
    text: str = ""
    ids: tuple[int, ...] | None = ()
    """Its tokens; None where it is carried as text."""
    samples: tuple[Sample, ...] = field(default=(), repr=False)
    """Its pieces, in order."""
    charges: frozenset[Charge] = field(default=frozenset(), repr=False)
    """What it cost beside its pieces: scores, verdicts, pieces taken back."""
    ended: str = ""
    """Why it is over: "stop", "length", "tool_calls", ... as a finish reason; empty while it can grow."""
    before: Continuation | None = field(default=None, repr=False)
    """What the last piece was added to."""
    longest: int | None = None
    """Most tokens that it may have in all; None: as many as there is room for."""

    @classmethod
    async def start(
        cls,
        session: Session,
        prompt: Prompt | None = None,
        *,
        roles: Sequence[str] = ("policy",),
        exact: bool = True,
    ) -> Continuation:
        """An empty answer to `prompt` (by default the problem's own) that the models of `roles` can write on.

        With several roles `exact` demands that their models have the same tokenizer; the caller must know. Raises
        `ConfigError`, before anything is generated, where a server can neither take token ids nor render its prompt.
        """
        prompt = session.problem.messages if prompt is None else prompt
        samplers = {role: session.sampler(role) for role in roles}
        for sampler in samplers.values():
            await sampler.identify()
        exact = exact and all(sampler.vllm or sampler.llama_cpp for sampler in samplers.values())
        if isinstance(prompt, str) and not exact:
            return cls(session=session, heads=dict.fromkeys(roles, prompt), ids=None, longest=session.longest)
        try:
            heads: dict[str, Any] = {role: await tokenize(sampler, prompt) for role, sampler in samplers.items()}
            if not exact:
                heads = {role: await detokenize(sampler, heads[role]) for role, sampler in samplers.items()}
        except ConfigError as error:
            raise ConfigError(
                f"{', '.join(roles)}: a partial answer to chat messages cannot be continued, for the server does not "
                f"render them ({error}). Serve the model with vLLM or llama.cpp, or give the problem as raw text"
            ) from error
        ids = () if exact else None
        return cls(session=session, heads=heads, rendered=not exact, ids=ids, longest=session.longest)

    @property
    def exact(self) -> bool:
        """Whether it is carried as token ids."""
        return self.ids is not None

    def prompt(self, role: str) -> Any:
        """All that the model of `role` reads: its head and the answer so far."""
        return self.heads[role] + (self.text if self.ids is None else list(self.ids))

    async def extend(
        self, *, role: str | None = None, tokens: int | None = None, stop: str | Sequence[str] = (), **params: Any
    ) -> Continuation:
        """One step further; see `branch`."""
        return (await self.branch(1, role=role, tokens=tokens, stop=stop, **params))[0]

    async def branch(
        self,
        n: int,
        *,
        role: str | None = None,
        tokens: int | None = None,
        stop: str | Sequence[str] = (),
        **params: Any,
    ) -> list[Continuation]:
        """Up to `n` different next steps by the model of `role` (by default the first), drawn from one shared prefix.

        A step ends with one of the strings `stop`, which it includes; after `tokens` tokens; or where the model ends
        the answer. `params` are sampling parameters. A server that fails, or a budget that ends, may give
        fewer than `n`; raises `SamplingFailed` or `BudgetSpent` where there are none.
        """
        role = role or next(iter(self.heads))
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        if (room := self._room()) is not None:
            if tokens is None:
                known = merged(self.session.sampler(role).endpoint.params, self.session.sampling, params)
                tokens = known.get(token_limit(known))
            tokens = room if tokens is None else min(tokens, room)
            if tokens <= 0:
                cut = tuple(replace(sample, finish_reason="length") for sample in self.samples[-1:])
                samples = (*self.samples[:-1], *cut)
                return [replace(self, path=(*self.path, 0), samples=samples, ended="length", before=self)]
        options = self._options(role, tokens, stops, params)
        samples = await self._drawn(await self._sent(role), n, role, options)
        return [await self._grown(sample, place, stops) for place, sample in enumerate(samples)]

    async def append(self, text: str) -> Continuation:
        """The answer with `text` put behind it, which no model wrote. What had ended goes on.

        Tokens are those of `text` by itself. An ended answer holds its end-of-text token, so that it can be appended to
        only where it is carried as text.
        """
        if self.ids is None:
            return replace(self, text=self.text + text, ended="")
        if self.ended:
            raise ConfigError("an answer that has ended can be continued as text only: Continuation.start(exact=False)")
        added = await tokenize(self.session.sampler(next(iter(self.heads))), text, special=False)
        return replace(self, text=self.text + text, ids=(*self.ids, *added))

    async def reopened(self) -> Continuation:
        """What it is without the token by which its model ended it, so that it can go on."""
        ids = self.ids
        if ids and self.ended and self.samples and (last := self.samples[-1]).token_ids:
            piece = await self._last_piece(last)
            if not piece or not last.text.endswith(piece):
                ids = ids[:-1]
        return replace(self, ids=ids, ended="")

    def back(self) -> Continuation:
        """What it was before the last piece, which is taken back; what that cost stays."""
        assert self.before is not None, "nothing has been written yet"
        return replace(self.before, charges=self.charges.union(self.samples[-1].charges))

    def charged(self, charges: Iterable[Charge]) -> Continuation:
        """With further costs, of a score or a verdict, which its descendants carry too."""
        return replace(self, charges=self.charges.union(charges))

    async def scores(self, role: str) -> TokenScores:
        """Log-probability of every token of the last piece under the model of `role`. Raises what `Session.score` does.

        What it costs is not yet in `charges`: see `charged`.
        """
        last, whole = self.samples[-1], self.prompt(role)
        piece = len(last.text) if self.ids is None else len(last.token_ids or ())
        cut = len(whole) - piece
        return await self.session.score(whole[:cut], whole[cut:], role=role, special=not self.rendered)

    def candidate(
        self, *, parents: Sequence[Candidate] = (), spawned: tuple[int, ...] | None = None, **notes: Any
    ) -> Candidate:
        """The answer as it stands, with all it cost. Its place is its path by default."""
        spawned = spawned or self.path or None
        return self.session.candidate(
            self.text, *self.samples, parents=parents, spawned=spawned, charges=self.charges, **notes
        )

    async def _sent(self, role: str) -> Any:
        """The prompt as the server of `role` must get it.

        llama.cpp puts a begin-of-text token before any text, so a rendered prompt, which has its own, goes as tokens.
        """
        sampler, prompt = self.session.sampler(role), self.prompt(role)
        return await tokenize(sampler, prompt, special=False) if self.rendered and sampler.llama_cpp else prompt

    def sample(self) -> Sample:
        """The sample that its pieces are together; one that can still grow counts as cut off."""
        pieces = self.samples

        def joined(name: str) -> tuple[Any, ...] | None:
            parts = [getattr(piece, name) for piece in pieces]
            return None if None in parts else tuple(chain.from_iterable(parts))

        numbers = {name: joined(name) for name in ("token_ids", "logprobs", "confidences")}
        charges = dict.fromkeys(charge for piece in pieces for charge in piece.charges)
        last, ended = pieces[-1] if pieces else Sample(""), self.ended or "budget"
        return replace(last, text=self.text, finish_reason=ended, charges=tuple(charges), index=0, **numbers)

    async def _drawn(self, prompt: Prompt, n: int, role: str, options: Mapping[str, Any]) -> list[Sample]:
        """Up to `n` samples in their order, and at least one; see `branch`."""
        if not (samples := await self._asked(prompt, n, role, options)):
            raise SamplingFailed(f"{role}: no continuation could be sampled")
        return samples

    async def _asked(self, prompt: Prompt, n: int, role: str, options: Mapping[str, Any]) -> list[Sample]:
        """As many of `n` samples as come, in their order; none where the server rejects the request."""
        samples: list[Sample] = []
        try:
            async for sample in self.session.sample(prompt, n=n, role=role, **options):
                samples.append(sample)  # noqa: PERF401 (they are kept when the budget ends the stream)
        except BudgetSpent:  # what it had room for is there; the next step will raise it again
            if not samples:
                raise
        return sorted(samples, key=lambda sample: sample.index)

    def _options(
        self, role: str, tokens: int | None, stops: Sequence[str], params: Mapping[str, Any]
    ) -> dict[str, Any]:
        known = {**self.session.sampler(role).endpoint.params, **self.session.sampling, **params}
        options: dict[str, Any] = {} if tokens is None else {"max_tokens": tokens}
        if self.exact:
            options["return_token_ids"] = True
        elif self.rendered:
            options["add_special_tokens"] = False
        if stops:
            options |= {"stop": list(stops), "include_stop_str_in_output": True}
        options |= params
        if (seed := known.get("seed")) is not None:  # answers must not share their noise
            options["seed"] = int.from_bytes(digest([seed, role, self.path])[:3], "big")
        return options

    def _room(self) -> int | None:
        """Tokens by which it may grow so that it is no longer than `longest`, and each model can still read it and say
        a word; None where unknown."""
        if self.ids is None:
            written = sum(charge.usage.completion_tokens for sample in self.samples for charge in sample.charges)
            return None if self.longest is None else self.longest - round(written)
        lengths = ((self.session.sampler(role).context_length, len(head)) for role, head in self.heads.items())
        rooms = [most - head - len(self.ids) - 1 for most, head in lengths if most is not None]
        return min([*rooms, *([] if self.longest is None else [self.longest - len(self.ids)])], default=None)

    async def _grown(self, sample: Sample, place: int, stops: Sequence[str]) -> Continuation:
        ids = None
        if self.ids is not None:
            if sample.token_ids is None and sample.text:
                raise ConfigError(f"{sample.model} returns no token ids; serve it with vLLM or llama.cpp")
            ids = (*self.ids, *(sample.token_ids or ()))
        stepped = bool(stops) and sample.text.endswith(tuple(stops))
        if stepped and sample.token_ids and (overhang := await self._overhang(sample)):
            sample = replace(sample, text=sample.text + overhang)
        goes_on = bool(sample.text or sample.token_ids) and (stepped or sample.finish_reason in ("length", "budget"))
        return replace(
            self,
            path=(*self.path, place),
            text=self.text + sample.text,
            ids=ids,
            samples=(*self.samples, sample),
            ended="" if goes_on else sample.finish_reason or "stop",
            before=self,
        )

    async def _overhang(self, sample: Sample) -> str:
        """What the last token holds behind the stop string: the server cuts it off the text, but not off the tokens."""
        piece = await self._last_piece(sample)
        cut = next((i for i in range(len(piece), 0, -1) if sample.text.endswith(piece[:i])), len(piece))
        return piece[cut:]

    async def _last_piece(self, sample: Sample) -> str:
        """The text of the last token."""
        assert sample.token_ids
        pieces = self.session.resources.get(_Pieces)
        key = (sample.model, sample.token_ids[-1])
        return (await pieces.get(key, lambda: detokenize(self.session.sampler(sample.role), [key[1]])))[0]


class _Pieces(Once[str]):
    """The texts of single tokens, by model and id."""

    def __init__(self) -> None:
        super().__init__(kept=1_000_000)
