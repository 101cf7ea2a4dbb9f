"""What the models are asked in a redesign: a set of prompts, each of which can be replaced."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import ConfigDict

from tts.prompting import by_name, template
from tts.settings import Documented

REWRITE = """\
A generative model was given this prompt several times.

<prompt>
$prompt
</prompt>

Its best results have this in common: they mostly miss

<missed>
$missed
</missed>

and mostly meet

<met>
$met
</met>

Rewrite the prompt such that what is missed can no longer be overlooked: say it early, explicitly and concretely, and
say what to do instead of what went wrong. Keep everything that is met, and every other demand, as it is; ask for
nothing new. Reply with the rewritten prompt alone."""

PARAPHRASE = """\
A generative model was given this prompt several times.

<prompt>
$prompt
</prompt>

Say the same in other words and another order, so that it may understand it differently. Keep every demand; ask for
nothing new. Reply with the new prompt alone."""

EXPAND = """\
Expand this prompt for a generative model: make everything in it explicit, concrete and vivid, so that nothing has to
be guessed. Keep every demand; contradict none.

<prompt>
$prompt
</prompt>

Reply with the expanded prompt alone."""

DRAFT = """\
$prompt

Start from this earlier attempt. Keep what is good in it, and correct it wherever it does not do what is asked above;
then give the whole answer anew, without a word on the changes.

<attempt>
$draft
</attempt>"""


class RedesignPrompts(Documented):
    """`$prompt` is the wording so far. The verifier never sees a rewritten one. A `draft` without `$draft` uses
    nothing of the earlier attempt."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    rewrite: Annotated[str, template("prompt", "missed", "met")] = REWRITE
    """Asks for a prompt that says what is missed, given lists of the elements that most miss and that most meet."""
    element: Annotated[str, template("text", "met", "why", "instead")] = "- $text (met by $met$instead)"
    """An element in these lists. `$met` is `1 of 4`; `$why` is what a candidate that misses it has instead, where
    that is known, and `$instead` the same as a clause."""
    paraphrase: Annotated[str, template("prompt")] = PARAPHRASE
    """Asks for another wording where nothing is missed in common."""
    expand: Annotated[str, template("prompt")] = EXPAND
    """Asks for the expanded prompt."""
    draft: Annotated[str, template("prompt", "draft")] = DRAFT
    """Asks for an answer that starts from an earlier one."""


LAB = RedesignPrompts(
    rewrite="$prompt\n\nOften wrong:\n$missed\n\nRewrite.",
    element="- $why",
    paraphrase="$prompt\n\nOften wrong:\n\n\nRewrite.",
    expand="$prompt\n\nOften wrong:\n\n\nRewrite.",
    draft="$prompt",
)
"""For the lab models, which were trained on exactly these: programs with examples, judged by their tests."""

SETS = {"lab": LAB}


RedesignPromptsField = Annotated[RedesignPrompts, *by_name(SETS)]
"""Prompts that replace the usual ones, or a set by its name: `lab`."""
