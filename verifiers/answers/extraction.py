r"""Finds the final answer in a text, and reads numbers.

What is marked as thought is left out (`tts.prompting.without_thoughts`); an unclosed thought has no answer. These marks
announce an answer:

    \boxed{x}  \fbox{x}         with balanced braces
    <answer>x</answer>          up to the end of the text if it is not closed: servers cut stop strings off
    "answer": x                 the value in JSON
    #### x                      unless x is the words or the numbered words of a heading, before the text's last line
    Answer: x   Answer - x      also **Answer:** x, Final answer: x, and x on the next line; in many languages
    the answer is x             up to the end of the sentence; where the text has a box, that counts first

The last mark in the text counts, whatever its kind but the fifth. Where the text goes on with a question of its own
after an answer (`Question: ...`, `Q: ...`, a user's turn), it is read up to there, whatever the task: base models that
were shown examples write further ones.

Nothing here raises on any text. Time grows linearly with its length; of longer texts the last `LONGEST_TEXT` characters
are read.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from itertools import groupby
from json import JSONDecoder

from tts.prompting import last_thought, without_thoughts

LONGEST_TEXT = 20_000  # characters, the last ones without thoughts; in these the answer is looked for
LONGEST_ANSWER = 10_000  # characters; anything longer is not a final answer
LONGEST_STATEMENT = 1000  # characters in which a number is stated
LONGEST_NUMBER = 400  # digits, and the largest power of ten
MARKS_READ = 16  # the last ones of a text; earlier ones are ignored
DEEPEST_MARKS = 4  # marks within marks that are read

_WORD = (
    "answers?|ans\\.?(?=\\s?[:=])|正确选项|正確選項|antwort(?:en)?|r[ée]ponse|respuesta|risposta|resposta|ответ|відповідь|odpowiedź|odpověď|antwoord|svar|"
    "正解|vastaus|cevap|yanıt|válasz|răspuns|jawaban|đáp án|απάντηση|उत्तर|الإجابة|الجواب|答案|答え|解答|回答|答|"
    "정답|답변|답|คำตอบ"
)
_INITIALS = re.sub(r"\W", "", "".join({one[:1] for one in _WORD.split("|")}))  # where a word may begin, quickly seen
_IS = (
    "(?:is|are|was|equals|(?:would|should|must|will|has to) be|ist|sind|lautet|est|es|è|é|är|jest|olur)(?![^\\W\\d_])|"
    "(?:应该?|應該?)?(?:是|为|為|选|選)|は|는|은|هي|هو"
)
_MARK = re.compile(
    rf"(?P<box>\\(?:boxed|fbox|framebox)\s*\{{)|(?P<tag><(?:final[ _-]?)?answer(?:\s[^<>]{{0,99}})?>)"
    rf"|(?P<key>\"(?:final[ _]?)?answer\"[ \t]{{0,9}}:)|(?P<hashes>^[ \t]*\#{{4}}(?!\#))"
    rf"|^[ \t]{{0,3}}(?:\#{{1,6}}[ \t]|\*\*)(?:the[ \t])?final[ \t]answer[*_ \t]{{0,9}}\n\s*"
    rf"|(?:故选|故選|应选|應選)[:：]?|(?<![A-Za-zÀ-ɏ])(?=[{_INITIALS}])"
    rf"(?:{_WORD})[ \t*_`]{{0,4}}(?:\([^()\n]{{0,40}}\)[ \t*_`]{{0,4}})?"
    rf"(?:】[:：]?|=>|[-—=]?[-=]>|[:：=→⇒]|[ \t*_]{{0,3}}(?<=[\s*_])[-–—]{{1,2}}(?=\s)"
    rf"|[ \t]?[-–—](?=[A-Z]\b)|(?:[ \t]?(?:corr|final|الصحيح)\w{{0,9}}[ \t])?"
    rf"(?:[ \t](?:to|of|for)[ \t][^.:=\n]{{0,40}}?[ \t])?"
    rf"(?P<sentence>{_IS})[ \t]*(?P<colon>[:：])?)[\s*_:]*",
    re.IGNORECASE | re.MULTILINE,
)
_TAG_END = re.compile(r"</(?:final[ _-]?)?answer\s?>", re.IGNORECASE)
_HEADING = re.compile(r"[A-Za-z]|\d{1,3}[.)]\s+[A-Za-z]")
_QUESTION = (
    "(?:question|problem|exercise|example|q|human|user|instruction|frage|aufgabe|pregunta|domanda|вопрос|问题|題目|题目|"
    "問題|问|질문|문제)"
)
_NUMBERED = r"(?:[ \t]?#?\d{1,4}[ \t]{0,2})"
_ANOTHER = re.compile(
    rf"<\|(?:im_end|eot_id|endoftext|end_of_text|user|end)\|>|<(?:end_of_turn|eos)>|</s>|\[INST\]"
    rf"|^[ \t#*>]{{0,8}}(?:(?:next|another|new)[ \t])?{_QUESTION}"
    rf"(?:[ \t]?\d{{1,4}}[.)]|[ \t]?{_NUMBERED}?[*_]{{0,2}}[:：])"
    rf"|^[ \t]{{0,3}}(?:#{{1,6}}[ \t]|[*_]{{2}}){_QUESTION}[ \t]?{_NUMBERED}?[*_]{{0,2}}[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
_BROKEN_OFF = re.compile(r"(?:[^.!?。\s*_)\"'”]|\\\))[\s*_)\"'”]*\Z")
"""The end of a text that does not end like a sentence."""
LONG = 200  # characters from which a text without an answer may have been on its way to one
_CONCLUSION = re.compile(r"\\boxed\{[^?]*\Z")
_EMPTY = re.compile(
    r"(?:(?:indeed|clearly|obviously|also|thus|therefore|now|then|not|in)\s+)*(?:correct|right|wrong|incorrect|true|"
    r"verified|confirmed|valid|clear|obvious|consistent|reasonable|plausible|above|below|found|as follows|simple|easy|"
    r"boxed|(?:given|shown|stated|boxed) (?:above|below))\b",
    re.IGNORECASE,
)
_DENIED = re.compile(r"not\s+\W{0,4}(?:\d|[A-Z]\b)")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|sc|normal)?|math(?:rm|bf|it|sf|tt|cal|ord)?|bm|boldsymbol|pmb|emph|underline|mbox|hbox|"
    r"operatorname\*?|ensuremath|bold)\s*\{"
)
_SWITCH = re.compile(
    r"\{?\\(?:tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|displaystyle|textstyle|bf|rm|it|"
    r"bfseries|itshape|boldmath)(?![A-Za-z])\s*"
)
_SPACE = re.compile(r"(?:\\[ ,;:!>]|~|\\quad(?![A-Za-z])|\\qquad(?![A-Za-z]))+")


def final_answers(text: str) -> list[str] | None:
    """The announced answers, the one that counts first; empty if none is announced.

    None if the last mark is a box that never closes: the text was cut off inside its answer.
    """
    return _announced(own_part(text), DEEPEST_MARKS)


def final_answer(text: str) -> str:
    """The announced answer that counts; empty if there is none."""
    return (final_answers(text) or [""])[0]


def own_part(text: str) -> str:
    """Where the answer of `text` is: behind its thoughts, and before the questions that it goes on to ask itself.

    Where what is behind the thoughts breaks off without an answer, it is the end of the last thought, if that is a box
    without a question mark.
    """
    said = without_thoughts(text)[-LONGEST_TEXT:].translate(_PLAIN)
    first = _MARK.search(said)
    if (
        first is None
        and len(said.strip()) > LONG
        and _BROKEN_OFF.search(said.rstrip()[-20:])
        and _CONCLUSION.search(concluded := last_thought(text))
    ):
        return concluded
    other = _ANOTHER.search(said, first.end()) if first else None
    return said[: other.start()] if other else said


_PLAIN = dict.fromkeys((8203, 8204, 8205, 8206, 8207, 8288, 65279)) | {
    code: code - 0xFEE0 for first, last in ("０９", "ＡＺ", "ａｚ") for code in range(ord(first), ord(last) + 1)
}
"""Leaves out characters that cannot be seen, and makes wide letters and digits plain."""


def boxes(text: str) -> list[tuple[int, int, str]]:
    """The last closed boxes of `text`: where each begins, where it ends, and what is in it."""
    text = text[-LONGEST_ANSWER:]
    marks = deque((mark for mark in _MARK.finditer(text) if mark["box"]), maxlen=MARKS_READ)
    found = [(mark, content) for mark in marks if (content := _within_braces(text[mark.end() :])) is not None]
    return [(mark.start(), mark.end() + len(content) + 1, content) for mark, content in found]


def _announced(text: str, depth: int) -> list[str] | None:
    last_line = text.rstrip().rfind("\n") + 1
    found: list[tuple[bool, bool, int, str]] = []
    marks = list(deque(_MARK.finditer(text), maxlen=MARKS_READ))
    boxed, covered = False, -1
    for i, mark in enumerate(marks):
        if mark.start() < covered:  # inside the box or the tag before it, where it is read with that
            continue
        rest = text[mark.end() : mark.end() + LONGEST_ANSWER]
        framed = bool(mark["box"] or mark["tag"] or mark["key"])
        if mark["box"]:
            content = _within_braces(rest)
            if content is None:
                if i == len(marks) - 1:
                    return None
                continue
        elif mark["key"]:
            content = _json_value(rest.lstrip())
        elif mark["tag"]:
            content = _TAG_END.split(rest, maxsplit=1)[0]
        else:
            content = rest.partition("\n")[0]
            if mark["hashes"] and mark.start() < last_line and _HEADING.match(content.strip(" \t*_")):
                continue
            content = _in_its_group(content)
            if mark["sentence"] and _DENIED.match(content):
                content = content.partition(" but ")[2]
            if mark["sentence"]:
                content = first_sentence(content)
            elif i + 1 < len(marks) and (gap := marks[i + 1].start() - mark.end()) < len(content):
                content = _whole_sentences(content, gap)
        if framed:
            covered = mark.end() + len(content)
            boxed = True
            if depth and (inner := _announced(content, depth - 1)):
                content = inner[0]
        boxed = boxed or bool(mark["hashes"])
        if answer := clean(content):
            sentence = bool(mark["sentence"]) and not mark["colon"]
            found.append((sentence and bool(_EMPTY.match(answer)), sentence, -mark.start(), answer))
    return [one[-1] for one in sorted(found, key=lambda one: (one[0], one[1] and boxed, one[2]))]


def _json_value(text: str) -> str:
    """The string or the number that `text` begins with in JSON, or else its line."""
    with suppress(ValueError):
        if text.startswith('"'):
            return JSONDecoder().raw_decode(text)[0]
    return re.split(r"[,}\n]", text, maxsplit=1)[0]


def _in_its_group(text: str) -> str:
    r"""What belongs to a mark inside a command: `12` of `\textbf{Answer: } 12` and of `\textbf{Answer: 12} m`."""
    text = text.lstrip("} \t*_")
    closed = _within_braces(text)
    return text if closed is None else closed


def _whole_sentences(text: str, length: int) -> str:
    """`text` without the sentence in which the next mark is, at `length`."""
    end = max(text.rfind(stop, 0, length) for stop in (". ", "! ", "? ", "。"))
    return text[:end] if end > 0 else text


def clean(answer: str) -> str:
    r"""`answer` without emphasis, quotes, dollar signs, `\text{}` and full stop around it, and with single spaces."""
    answer = " ".join(answer[:LONGEST_ANSWER].split())
    for _ in range(DEEPEST_MARKS):
        before = answer
        answer = answer.removesuffix("。").removesuffix(".").strip()
        for opening, closing in ((r"\(", r"\)"), (r"\[", r"\]")):
            answer = answer.removeprefix(opening).removesuffix(closing) if answer.startswith(opening) else answer
        answer = answer.removesuffix(r"\)").removesuffix(r"\]") if not re.search(r"\\[(\[]", answer) else answer
        answer = answer.lstrip(" *_`\"'$“”「【").rstrip(" *_`\"'$.“”」】")
        if (space := _SPACE.match(answer)) and space.end() < len(answer):
            answer = answer[space.end() :]
        while answer.endswith(("\\", "\\,", "\\;", "\\!", "~")) and not answer.endswith("\\\\"):
            answer = answer.rstrip("\\,;!~ ")
        if switch := _SWITCH.match(answer):
            opened = switch[0].startswith("{")
            answer = answer[switch.end() :]
            answer = answer.removesuffix("}") if opened else answer
        if (wrapper := _WRAPPER.match(answer)) and answer.endswith("}"):
            inside = _within_braces(answer[wrapper.end() :])
            if inside is not None and wrapper.end() + len(inside) + 1 == len(answer):
                answer = inside
        if answer == before:
            break
    return answer.strip()


def first_sentence(text: str) -> str:
    """`text` up to the first full stop that is followed by space."""
    return re.split(r"(?<!\bSt)(?<!\b[DM]rs)(?<!\b[DM][rst])(?<!\bapprox)\.\s|。", text, maxsplit=1)[0]


def _within_braces(text: str) -> str | None:
    """The part of `text` before the brace that closes one opened just before it."""
    depth = 1
    for match in _BRACE.finditer(text):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[: match.start()]
    return None


# -- numbers -------------------------------------------------------------------------------------------------------

_MAGNITUDES = {
    2: "hundreds?|hundert|cien|cent", 3: "thousands?|tausend|mille|mil|тыс(?:яч[аи]?)?|千|천",
    4: "万|萬|만", 5: "lakhs?",
    6: "millions?|millionen|mio|mln|mill[óo]n(?:es)?|milh(?:ão|ões)|milion[ei]|миллион(?:а|ов)?|млн",
    7: "crores?", 8: "亿|億|억", 9: "billions?|bn|milliarden?|milliards?|miliard[io]|mrd|миллиард(?:а|ов)?|млрд",
    12: "trillions?|трлн",
}  # fmt: skip
_MAGNITUDE = re.compile(
    f"(?:{'|'.join(f'(?P<e{power}>{words})' for power, words in _MAGNITUDES.items())})(?![A-Za-z])", re.IGNORECASE
)
_IN_MAGNITUDES = "|".join(_MAGNITUDES.values())


def _plain_number(space: str) -> str:
    """Digits with separators of thousands as any country writes them, `space` among them, and decimals."""
    groups = rf"\d{{1,3}}(?:[{space}\u00a0\u202f\u2009'’]\d{{3}}(?!\d))+"
    return (
        rf"(?:\d{{1,3}}(?:\.\d{{3}}(?!\d)){{2,}}(?:,\d+)?|\d{{1,3}}(?:\.\d{{3}}(?!\d))+,\d+|{groups}(?:[.,]\d+)?"
        r"|(?:\d{1,3}(?:,\d{2}(?!\d))+,\d{3}(?!\d)|\d{1,3}(?:,\d{3}(?!\d))+|\d+(?:_\d+)*)(?:\.\d+)?|(?<!\.)\.\d+)"
    )


def _number_pattern(space: str) -> re.Pattern[str]:
    plain = _plain_number(space)
    simple = r"-?(?:\d+(?:,\d{3}(?!\d))*(?:\.\d+)?|\.\d+)"
    return re.compile(
        rf"""
        (?P<sign>(?<![\w)}}\]])[-+])?
        (?: (?:(?P<whole>\d+)\s*)?
            \\[dtc]?frac\s*(?:\{{\s*(?P<over>{simple})\s*\}}|(?P<over1>\d))
                           \s*(?:\{{\s*(?P<under>{simple})\s*\}}|(?P<under1>\d))
          | (?P<base>\d{{1,9}})\s?(?:\^|\*\*)\s?[{{(]?\s?(?P<raised>[-+]?\d+)\s?[)}}]?
          | (?P<units>\d+)\s+(?P<part>\d{{1,9}})\s*[/⁄]\s*(?P<parts>\d{{1,9}})
          | (?P<plain>{plain}) (?:[eE](?P<power>[-+]?\d+))?
            (?:\s*(?:\\times|\\cdot|[×x*·⋅])\s*10\s*(?:\^|\*\*)\s*[{{(]?\s*(?P<ten>[-+]?\d+)\s*[)}}]?)?
            (?:\s*[/⁄]\s*(?P<divisor>{plain}))?
            (?P<magnitude>(?:[\s-]{{0,3}}(?:{_IN_MAGNITUDES})(?![A-Za-z])){{1,2}})?
        )
        | \^\s*\{{?[-+]?\w*\}}? | \\?[^\W\d]\w*     # exponents and words: digits in them are not numbers
        """,
        re.VERBOSE | re.IGNORECASE,
    )


_NUMBER = _number_pattern(r"\ ")
_NUMBER_IN_PROSE = _number_pattern("")  # in which numbers may follow each other
_EXPRESSION = re.compile(r"\\(?:sqrt|pi|infty|log|ln|sin|cos|tan|pm)\b|[√π∞±]|\d:\d|\b0x[0-9a-f]", re.IGNORECASE)
_NOISE = re.compile(r"(?:\bUS|\bA|\bC)?\\?[$€£¥₹]|\\[,!; ]|[*_`]{2,}|\^\s?\{?\s?\\circ\s?\}?|°")
_ORDINAL = re.compile(r"(?<=\d)\s?\^\s?\{?\s?(?:st|nd|rd|th)\b\s?\}?")
_IN_WORDS = re.compile(r"\\(?:text(?:bf|it|rm)?|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_CHARACTERS = str.maketrans(
    {"−": "-", "–": "-", "‒": "-", "‐": "-", "‑": "-", "﹣": "-", "－": "-", "—": "-",
     "，": ",", "．": ".", "٫": ".", "٬": ",",
     "＋": "+", "～": "~"}
)  # fmt: skip
_OTHER_SIGNS = re.compile(r"[^\x00-\x7f]+")
_MINUS = re.compile(r"(?:-|minus|negative|negativo|moins|menos|минус|负|負)\s*(?=[\d.\\])", re.IGNORECASE)
_REMARK = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
_LISTED = re.compile(
    r"\s*(?:(?:[,;&/-]|(?:,\s?)?(?:and|or|und|et|y|to)\b|\\text\s?\{[^{}]*\})[^\w\n]*\d|(?<=\s)\d"
    r"|(?:\+|\*|×|x\b|\\(?:times|cdot|pm)|\^)[^\n]*\d)"
)
_STRONG = re.compile(r"\*\*([^*\n]{1,100})\*\*")
_CLAUSE = re.compile(
    r"[,;:]\s|\s[-–—(]\s?|\s(?:because|since|as|which|where|so|after|for|per|at|of|from|out)\s", re.IGNORECASE
)


def parse_number(text: str) -> Fraction | None:
    r"""The one number that `text` states; None if there is none, or several, or a formula.

    Reads separators of thousands (1,234  1.234.567  1 234  1'234  1,00,000), mixed numbers, currencies, trailing units
    and magnitudes (1.5 million), a percent sign (dropped: 50 % reads as 50), a/b, \frac{a}{b}, 1.5e3, 1.5 \times 10^3,
    and the digits and signs of Unicode; of `x = 3` or `3 + 4 = 7` what follows the last equals sign.
    """
    if text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER:  # most are, and are quickly read
        return Fraction(int(text))
    found = _only(_sides(text)[-1])
    return None if found is None or found["base"] else _value(found)


def _sides(text: str) -> list[str]:
    """What stands between the equals signs of the first sentence."""
    return re.split(r"=|≈|\\approx\b", first_sentence(_plain(text[:LONGEST_STATEMENT])))


def _only(text: str) -> re.Match[str] | None:
    """The only number in `text`, which is no formula."""
    text = _MINUS.sub("-", text, count=1) if _MINUS.match(text := text.strip()) else text
    found = [] if _EXPRESSION.search(text) else list(_numbers(_NUMBER, text))
    return found[0] if len(found) == 1 and not text[found[0].end() :].lstrip().startswith("^") else None


def stated_number(text: str) -> Fraction | None:
    """The number that an announced answer states, whatever other numbers explain it; None if it does not say which.

    `18 (eggs sold: 9 x 2)`, `18, since 9 x 2 = 18` and `in 3 hours **18** eggs` state 18; `3 and 4` and `9 x 2` none.
    """
    text = text[:LONGEST_STATEMENT]
    if (number := parse_number(text)) is not None:
        return number
    bold = _STRONG.findall(text)
    tries = [_REMARK.sub(" ", text), *(bold if len(bold) == 1 else ())]
    clause = _CLAUSE.split(_REMARK.sub(" ", text), maxsplit=1)[0]
    for one in [*tries, *([clause] if not _LISTED.match(text, _end_of_first(text)) else ())]:
        if (number := parse_number(one)) is not None:
            return number
    sides = _sides(_REMARK.sub(" ", text))
    stating = [number for side in reversed(sides) if (number := _only(side))]
    if len(sides) > 1 or stating:  # 18 = 9 x 2, and 10^6
        return _value(stating[0]) if stating else None
    plain = _plain(_REMARK.sub(" ", text))
    first = next(_numbers(_NUMBER, plain), None)
    if first is None or _EXPRESSION.search(plain) or "=" in plain or _LISTED.match(plain, first.end()):
        return None
    return _value(first)


def _end_of_first(text: str) -> int:
    first = next(_numbers(_NUMBER, text), None)
    return first.end() if first else 0


def last_number(text: str) -> Fraction | None:
    """The last number anywhere in `text`."""
    found = deque(_numbers(_NUMBER_IN_PROSE, _plain(text[-LONGEST_ANSWER:])), maxlen=1)
    return _value(found[0]) if found else None


def has_digits(text: str) -> bool:
    """Whether any number is in `text`."""
    return any(map(str.isdigit, text))


def canonical(number: Fraction) -> str:
    """18 for a whole number, else the shortest decimal that reads back as the same double."""
    if number.denominator == 1:
        return str(number.numerator)
    try:
        nearest = float(number)
    except OverflowError:
        return str(number.numerator // number.denominator)
    if nearest and abs(nearest) >= sys.float_info.min:
        return repr(nearest)
    with localcontext(Context(prec=17, Emin=-9999)):
        return str(Decimal(number.numerator) / Decimal(number.denominator))


def _plain(text: str) -> str:
    if not text.isascii():
        text = in_ascii(text.translate(_CHARACTERS))
    text = _IN_WORDS.sub(r" \1 ", text.replace("{,}", ","))
    return _NOISE.sub("", _ORDINAL.sub("", text).replace("~", " "))


def in_ascii(text: str) -> str:
    """`text` with raised, lowered, styled and wide characters, fractions and foreign digits as LaTeX has them."""
    return _OTHER_SIGNS.sub(lambda m: "".join(_as_latex(*one) for one in groupby(m[0], _style)), text)


def _style(sign: str) -> str:
    return "" if sign in "ªº" else unicodedata.decomposition(sign).partition(" ")[0]


def _as_latex(style: str, signs: Iterator[str]) -> str:
    text = "".join(signs)
    plain = unicodedata.normalize("NFKC", text).replace("−", "-")
    if style in ("<super>", "<sub>"):
        return f"{'^' if style == '<super>' else '_'}{{{plain}}}"
    if style == "<fraction>":
        return "".join(r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", one).split("⁄")) for one in text)
    if style in ("<font>", "<wide>", "<noBreak>", "<compat>"):
        return plain
    return "".join(str(unicodedata.decimal(sign, sign)) for sign in text)


def _numbers(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    return (m for m in pattern.finditer(text) if m["plain"] or m["over"] or m["over1"] or m["units"] or m["base"])


def _value(match: re.Match[str]) -> Fraction | None:
    if base := match["base"]:
        exponent = int(match["raised"][:9])
        if len(base) * abs(exponent) > LONGEST_NUMBER or int(base) == 0:
            return None
        return Fraction(int(base)) ** exponent * (-1 if match["sign"] == "-" else 1)
    over = match["plain"] or match["over"] or match["over1"] or match["part"]
    under = match["divisor"] or match["under"] or match["under1"] or match["parts"] or "1"
    powers = [match["power"] or "0", match["ten"] or "0"]
    powers += [str(one.lastgroup)[1:] for one in _MAGNITUDE.finditer(match["magnitude"] or "")]
    whole = match["whole"] or match["units"] or "0"
    if len(over) + len(under) + len(whole) > LONGEST_NUMBER or any(len(power) > 4 for power in powers):
        return None
    power = sum(map(int, powers))
    numerator, denominator = _decimal(over), _decimal(under)
    if denominator == 0 or abs(power) > LONGEST_NUMBER:
        return None
    size = (int(whole) + numerator / denominator) * Fraction(10) ** power
    return -size if match["sign"] == "-" else size


def _decimal(digits: str) -> Fraction:
    """The number that is written with any separators."""
    digits = re.sub(r"[\s'’_]", "", digits) if (spaced := re.search(r"[\s'’_]", digits)) else digits
    if re.fullmatch(r"\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?|\d{1,3}(?:\.\d{3})+,\d+", digits):
        digits = digits.replace(".", "").replace(",", ".")
    elif spaced and digits.count(",") == 1 and "." not in digits:
        digits = digits.replace(",", ".")
    return Fraction(digits.replace(",", ""))
