"""Asks a model with replaceable prompts, and reads its answers strictly.

A prompt is a text with `$names` (`template`, `fill`). `ask` samples answers and yields those that can be read; `insist`
asks until one can be read. What cannot be read is recorded and dropped, never guessed. Readers: `prose` for plain words
and `json_of` for JSON that fits a model, with `constrained` as the request for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import cache
from string import Template as _Template
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, PlainSerializer, ValidationError

from tts.concurrency import LARGE, aside
from tts.errors import ConfigError, SamplingFailed, TTSError
from tts.files import pictures_in
from tts.sampler.parameters import Dispensable
from tts.sampler.protocol import prompt_size
from tts.session import Session
from tts.text import size_of
from tts.trajectories import in_words, shortened
from tts.types import Candidate, Message, Problem, Prompt, Sample

T = TypeVar("T")
Form = TypeVar("Form", bound=BaseModel)

# -- prompts -------------------------------------------------------------------------------------------------------


def template(*names: str) -> AfterValidator:
    """Makes a field a prompt in which `$name` stands for any of `names`; others are refused, and `$$` is a dollar sign.

    prompt: Annotated[str, template("problem", "answer")] = "Is $answer right?"
    """

    def check(text: str) -> str:
        found = _Template(text)
        wrong = sorted(set(found.get_identifiers()) - set(names)) if found.is_valid() else [" alone"]
        if wrong:
            raise ValueError(f"the prompt has {_listed(wrong)}; it can have {_listed(names)}, and $$ for a dollar")
        return text

    return AfterValidator(check)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"${name}" for name in names)


Plain = Annotated[str, template()]
"""A prompt without names."""


def fill(text: str, /, **values: object) -> str:
    """A template with its names replaced; dollar signs in the values are kept as they are."""
    return _Template(text).substitute(values)


async def filled(text: str, /, **values: object) -> str:
    """`fill` for what may be large and many do at once, without holding up the event loop.

    A problem stands for its text, a candidate for its answer.
    """

    def work() -> str:
        return fill(text, **{name: _text_of(value) for name, value in values.items()})

    return await aside(sum(map(_size_of, values.values())), work)


def _text_of(value: object) -> object:
    if isinstance(value, Problem):
        return problem_text(value)
    return answer_of(value) if isinstance(value, Candidate) else value


def _size_of(value: object) -> int:
    if isinstance(value, Problem):
        return prompt_size(value.messages)
    if isinstance(value, Candidate):
        return len(value.content) + size_of(value.tool_calls, LARGE, 16)
    return len(value) if isinstance(value, str) else 0


def by_name(sets: Mapping[str, BaseModel]) -> tuple[BeforeValidator, PlainSerializer]:
    """Makes a field one of `sets` by its name, also with some prompts replaced (`code(sketch="...")`), or a new set.

    PromptsField = Annotated[Prompts, *by_name({"code": CODE, "general": GENERAL})]
    """

    def read(value: Any) -> Any:
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict) or "name" not in value:
            return value
        if (base := sets.get(value["name"])) is None:
            raise ValueError(f"no prompts called '{value['name']}'; there are: {', '.join(sets)}")
        changes = {key: prompt for key, prompt in value.items() if key != "name"}
        return {**base.model_dump(), **changes} if changes else base

    def written(prompts: BaseModel) -> str | dict[str, Any]:
        named = next((name for name, known in sets.items() if known == prompts), None)
        return named or prompts.model_dump(exclude_defaults=True)

    return BeforeValidator(read), PlainSerializer(written)


def plain_text(content: Any) -> str | None:
    """The text of a message's content, given as such or in parts; None if there is more than text."""
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        found = [text for text in texts if isinstance(text, str)]
        return "".join(found) if len(found) == len(texts) else None
    return content if isinstance(content, str) else None


def problem_text(problem: Problem) -> str:
    """What `problem` asks: its messages joined, with their roles if one is the assistant's.

    Raises `ConfigError` if it has more than text.
    """
    if isinstance(problem.messages, str):
        return problem.messages
    said = [(message.get("role", "user"), plain_text(message.get("content") or "")) for message in problem.messages]
    if any(text is None for _, text in said):
        raise ConfigError(f"{problem.id} has more than text in it; this works on texts only")
    turns = any(role == "assistant" for role, _ in said)
    return "\n\n".join(f"[{role}]\n{text}" if turns else text for role, text in said if text)


def reworded(problem: Problem, change: Callable[[str], str], *, last: bool = False) -> Problem:
    """`problem` with `change` made to what its users say, or to the `last` thing they say; pictures stay as they are.

    Of a message in parts it is the last text that changes.
    """
    if isinstance(problem.messages, str):
        return problem.model_copy(update={"messages": change(problem.messages)})

    def changed(content: Any) -> Any:
        if not isinstance(content, list):
            return change(content or "")
        texts = [i for i, part in enumerate(content) if part.get("type") == "text"]
        return [{**part, "text": change(part["text"])} if i in texts[-1:] else part for i, part in enumerate(content)]

    turns = problem.turns
    said = [i for i, turn in enumerate(turns) if turn.get("role", "user") == "user"]
    for i in said[-1:] if last else said:
        turns[i] = {**turns[i], "content": changed(turns[i].get("content"))}
    return problem.model_copy(update={"messages": tuple(turns)})


_KINDS = r"think(?:ing)?|thoughts?|reason(?:ing)?|reflections?|scratch_?pad|analysis"
_THOUGHT = re.compile(
    rf"<(?P<end>/?)(?:\w{{1,20}}:)?(?P<tag>{_KINDS})(?:\s[^<>]{{0,200}})?>"
    r"|\[(?P<end2>/?)(?P<tag2>think)\]|◁(?P<end3>/?)(?P<tag3>think)▷"
    r"|<\|(?P<begin4>begin)?(?P<end4>end)?_of_(?P<tag4>thought)\|>"
    r"|<\|channel\|>\s{0,9}(?:(?P<tag5>analysis|commentary)|(?P<end5>final))[^<>]{0,99}<\|message\|>",
    re.IGNORECASE,
)
"""Marks that begin and end thoughts: XML tags, Mistral's, Kimi's, Sky's, and the channels of gpt-oss."""
_ENDS = ("end", "end2", "end3", "end4", "end5")
_LOOKED_THROUGH = 40_000  # characters; what comes before them is searched for the commonest tags alone
_COMMONEST = ("think", "thinking", "thought", "reasoning")


def without_thoughts(text: str) -> str:
    """`text` without what is marked as thoughts, such as `<think>...</think>`.

    A thought whose beginning is missing (it was in the prompt) begins the text; one without an end goes on to the end
    of the text, which has no answer then.
    """
    head, text = text[:-_LOOKED_THROUGH], text[-_LOOKED_THROUGH:]
    within, head = _left_open(head)
    kept, place = [head], 0
    for mark in _THOUGHT.finditer(text):
        kind = _kind(next((mark[tag] for tag in ("tag", "tag2", "tag3", "tag4", "tag5") if mark[tag]), "analysis"))
        ends = any(mark[end] for end in _ENDS)
        if not within:
            kept = [] if ends else [*kept, text[place : mark.start()]]
            within, place = "" if ends else kind, mark.end()
        elif ends and kind == within:
            within, place = "", mark.end()
    return "".join(kept if within else [*kept, text[place:]])


def last_thought(text: str) -> str:
    """The end of the last thought that is closed: up to 400 characters; empty if there is none."""
    text = text[-_LOOKED_THROUGH:]
    ends = [mark.start() for mark in _THOUGHT.finditer(text) if any(mark[end] for end in _ENDS)]
    return text[max(0, ends[-1] - 400) : ends[-1]] if ends else ""


def _kind(tag: str) -> str:
    """What ends a thought: `</thinking>` does what `<think>` began."""
    return tag[:2].lower()


def _left_open(text: str) -> tuple[str, str]:
    """The kind of the thought in which `text` ends, empty if in none, and what follows its thoughts."""
    begun = {tag: text.rfind(f"<{tag}>") for tag in _COMMONEST}
    ended = {tag: text.rfind(f"</{tag}>") for tag in _COMMONEST}
    last = max(_COMMONEST, key=lambda tag: max(begun[tag], ended[tag]))
    if begun[last] > ended[last]:
        return _kind(last), ""
    return "", text[ended[last] :].partition(">")[2] if ended[last] >= 0 else text


def answer_of(candidate: Candidate) -> str:
    """The candidate's answer as text: without thoughts (unless there is nothing else), tool calls as JSON.

    What a trajectory has left behind, a patch say, is no one's words: what looks like thoughts in it stays.
    """
    if candidate.notes.get("trajectory", {}).get("end_state"):
        return candidate.content
    text = without_thoughts(candidate.content).strip() or candidate.content
    calls = [json.dumps(call.get("function", call)) for call in candidate.tool_calls]
    return "\n".join([text, *calls] if text else calls)


async def way_of(candidate: Candidate, most: int) -> Candidate | str:
    """What those read who judge a trajectory: the way to the answer, and the answer, in `most` characters.

    The answer is whole as far as three quarters of them allow. Of the turns, tool outputs are cut first, then messages,
    each in its middle, and then turns from the middle are left out. A candidate that is no trajectory stays itself.
    """
    trajectory = candidate.notes.get("trajectory")
    if not most or trajectory is None:
        return candidate
    turns = trajectory["turns"]
    return await aside(size_of(turns, LARGE, 16), _way, turns, candidate.content, most)


def _way(turns: Sequence[Message], answer: str, most: int) -> str:
    end = f"This is the answer that it has come to:\n\n{shortened(answer or '(nothing)', most * 3 // 4)}"
    begin, gap = "This is how an agent has worked on the task:\n\n", "[... some messages ...]\n\n"
    room, each = most - len(begin) - len(end), most
    turns = [{**turn, "content": _without(turn.get("content"))} for turn in turns]
    while sum(map(len, parts := [in_words([turn], each) for turn in turns])) > room and each > 200:
        each = each * 3 // 4
    if sum(map(len, parts)) <= room:
        return begin + "".join(parts) + end
    kept, left = 0, room - len(gap)  # from both ends
    while (left := left - len(parts[kept // 2 if kept % 2 == 0 else -1 - kept // 2])) >= 0:
        kept += 1
    parts[kept - kept // 2 : len(parts) - kept // 2] = [gap]
    return begin + "".join(parts) + end if kept else end


def _without(content: Any) -> Any:
    """A message without thoughts, unless there is nothing else in it."""
    return without_thoughts(content).strip() or content if isinstance(content, str) else content


async def shown(session: Session, prompt: str, candidate: Candidate | str, **values: object) -> Any:
    """The content of a message: `prompt` with `$answer` and `values` filled in, and the candidate's pictures."""
    pictures = () if isinstance(candidate, str) else pictures_in(candidate.content)
    if not pictures:
        return await filled(prompt, answer=candidate, **values)
    told = "the picture that comes" if len(pictures) == 1 else f"the {len(pictures)} pictures, in order, that come"
    urls = [await session.images.inline(name) for name in pictures]
    words = {"type": "text", "text": await filled(prompt, answer=f"({told} with this message)", **values)}
    return [words, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]


# -- asking --------------------------------------------------------------------------------------------------------


class NoAnswer(TTSError):
    """A model gave no usable answer; the ledger says what was wrong."""


async def ask(
    session: Session, prompt: Prompt, read: Callable[[str], T], *, role: str, n: int = 1, **params: Any
) -> AsyncGenerator[tuple[Sample, T], None]:
    """`n` answers to `prompt` as they complete, each with what `read` made of its text.

    An answer that was cut off, or for which `read` raises `ValueError`, is left out and recorded in
    `session.ledger.failures`; it has been paid for. Raises what `Session.sample` does.
    """
    async with aclosing(session.sample(prompt, n=n, role=role, inner=True, **params)) as samples:
        async for sample in samples:
            try:
                yield sample, await aside(len(sample.text), _whole, sample, read)
            except ValueError as error:
                _note(session, role, error)


async def insist(
    session: Session,
    prompt: Prompt,
    read: Callable[[str], T],
    *,
    role: str,
    tries: Sequence[Mapping[str, Any]] = ({},),
) -> tuple[tuple[Sample, ...], T]:
    """The first answer to `prompt` that can be read, asked for once with each of `tries` as parameters.

    Returns all samples that were paid for, the answer last, and what `read` made of it. Answers that are cut off or
    make `read` raise `ValueError` are recorded in `session.ledger.failures`. Raises `NoAnswer` if no try succeeds or
    the server fails.
    """
    paid: list[Sample] = []
    for params in tries:
        try:
            async with aclosing(session.sample(prompt, role=role, inner=True, **params)) as samples:
                async for sample in samples:
                    paid.append(sample)
                    return tuple(paid), await aside(len(sample.text), _whole, sample, read)
        except ValueError as error:
            _note(session, role, error)
        except SamplingFailed as error:  # the sampler has retried and recorded it
            raise NoAnswer(str(error)) from error
    raise NoAnswer(f"no answer of the {role} can be used")


async def reply(
    session: Session, prompt: str | Sequence[Message], read: Callable[[str], T], *, role: str, **params: Any
) -> T:
    """What `read` makes of the first of two answers that it can read. Raises `NoAnswer`."""
    messages = [{"role": "user", "content": prompt}]
    return (await insist(session, messages, read, role=role, tries=[params, params]))[1]


def _whole(sample: Sample, read: Callable[[str], T]) -> T:
    if sample.finish_reason in ("length", "budget", "content_filter"):
        raise ValueError(f"it was cut off ({sample.finish_reason})")
    return read(sample.text)


def _note(session: Session, role: str, error: ValueError) -> None:
    session.ledger.failures.append(f"an answer of the {role} is not in form: {error}"[:500])


# -- readers -------------------------------------------------------------------------------------------------------

_REFUSAL = re.compile(
    r"(?:i['’]m sorry|i am sorry|sorry\b|i apologi[sz]e|i(?: can(?:no|['’])t| am unable| am not able))", re.I
)


def prose(text: str) -> str:
    """Reads `text` without its thoughts. Raises `ValueError` if that is empty, or short and worded as a refusal."""
    text = without_thoughts(text).strip()
    if not text:
        raise ValueError("it is empty")
    if len(text) < 400 and _REFUSAL.match(text):
        raise ValueError("it refuses")
    return text


_LONGEST_REPLY = 20_000  # characters, the last ones, in which an object is looked for
_FALSE_STARTS = 100  # braces that may open no object before the rest is given up
_OBJECT = re.compile(r"\{\s*[\"}]")
_QUOTES = "`\"'“”‘’«»"


def json_of(form: type[Form]) -> Callable[[str], Form]:
    """A reader of the JSON object in a text as a `form`, whatever prose and fences surround it.

    Of several objects those count that are not in quotes or backticks (they are somebody else's), of those the ones
    with most fields of the form, then those on lines of their own, then those that begin a sentence or follow a colon.

    The reader raises `ValueError` if there is none, if it does not fit, or if two that count equally say different
    things.
    """
    fields = {field.alias or name for name, field in form.model_fields.items()}

    def read(text: str) -> Form:
        found = list(_objects(without_thoughts(text)))
        if not found:
            raise ValueError("there is no JSON object in it")
        ranks = [(not quoted, len(fields & value.keys()), place) for value, quoted, place in found]
        highest = max(ranks)
        best = [value for (value, _, _), rank in zip(found, ranks, strict=True) if rank == highest]
        if any(value != best[0] for value in best):
            raise ValueError("it has several JSON objects that differ")
        try:
            made = form.model_validate(best[-1])
        except ValidationError as error:
            raise ValueError(f"{error.error_count()} wrong fields, the first: {error.errors()[0]['msg']}") from None
        if not _as_true(best[-1], made.model_dump(by_alias=True)):
            raise ValueError("true or false is given for something else")
        return made

    return read


def _objects(text: str) -> Iterator[tuple[dict[str, Any], bool, int]]:
    """The outermost JSON objects in a text: each with whether it is quoted, and where it is.

    That is 2 on lines of its own, 1 at the beginning of a sentence or behind a colon, else 0.
    """
    text = text[-_LONGEST_REPLY:]
    decoder, place, failures = json.JSONDecoder(object_pairs_hook=_without_repeats), 0, 0
    while failures < _FALSE_STARTS and (start := _OBJECT.search(text, place)):
        begin = start.start()
        try:
            value, place = decoder.raw_decode(text, begin)
        except (ValueError, RecursionError):
            failures, place = failures + 1, begin + 1
            continue
        before, after = text[max(0, begin - 200) : begin], text[place : place + 200]
        quoted = before[-1:] in _QUOTES and after[:1] in _QUOTES if before and after else False
        ends = before.rpartition("\n")[2].strip("`* \t"), after.partition("\n")[0].strip("`* \t")
        begins = not ends[0] or ends[0][-1] in ":.!?：。"
        yield value, quoted, 2 if ends == ("", "") else int(begins)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def _as_true(value: Any, made: Any) -> bool:
    """Whether true and false in `value` stayed what they are, and did not become numbers."""
    if isinstance(value, bool):
        return isinstance(made, bool) or not isinstance(made, int | float)
    if isinstance(value, dict) and isinstance(made, dict):
        return all(_as_true(value[key], made[key]) for key in value.keys() & made.keys())
    if isinstance(value, list) and isinstance(made, list | tuple):
        return all(map(_as_true, value, made))
    return True


@cache
def constrained(form: type[BaseModel]) -> Mapping[str, Any]:
    """The request parameters that make a capable server return JSON of this form, with every field given."""
    schema = {"name": form.__name__, "schema": _strict(form.model_json_schema()), "strict": True}
    return {"response_format": Dispensable(type="json_schema", json_schema=schema)}


def _strict(schema: Any) -> Any:
    """The schema as strict servers require it: no field may be added, omitted or left to a default."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items() if key != "default"}
    if "properties" in strict:
        strict |= {"additionalProperties": False, "required": list(strict["properties"])}
    return strict
