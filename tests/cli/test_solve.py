"""`tts solve`: the answer on stdout, everything else on stderr, and an exit code that says how it went."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command, finished, start
from tests.support.acting import acting
from tests.support.double import Fault, FaultKind, ModelDouble
from tests.support.painter import Painter
from tests.support.scenes import measured, things
from tests.support.scripted import scripted
from tests.support.threaded import serving
from tests.support.vision import Vision
from tests.support.world import drawing_world, scenes
from tts.cli import SETTING
from tts.errors import ConfigError
from tts.prompting import problem_text

VOTE = "self_consistency:n=8,answer=numeric_answer"


def test_prints_the_answer_alone_and_the_summary_beside_it(tts: Command, double: ModelDouble):
    double.answer = lambda request, rng: "It is 42."
    ended = tts("solve", "What?", "--base-url", double.base_url)
    assert (ended.code, ended.out) == (0, "It is 42.\n")
    tokens = double.stats.prompt_tokens + double.stats.completion_tokens
    assert ended.err.startswith(f"1 candidate, {tokens} tokens (9 generated), 1 request, ")


def test_reads_the_prompt_from_stdin(tts: Command, double: ModelDouble):
    ended = tts("solve", "-", "--base-url", double.base_url, stdin="Piped\nquestion")
    assert ended.code == 0
    assert double.requests[-1].body["messages"] == [{"role": "user", "content": "Piped\nquestion"}]


def test_options_and_dotted_options_reach_the_server(tts: Command, double: ModelDouble):
    words = ["--temperature", 0.5, "--max-tokens", 70, "--system", "Be brief."]
    dotted = [
        "--sampling.seed",
        7,
        "--sampling.top_k",
        20,
        '--sampling.stop=["END"]',
        "--sampling.chat_template_kwargs.thinking",
        "false",
    ]
    tts("solve", *dotted, "What?", *words, "--base-url", double.base_url)
    body = double.requests[-1].body
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    given = {"temperature": 0.5, "max_tokens": 70, "seed": 7, "top_k": 20, "stop": ["END"]}
    assert body | given | {"chat_template_kwargs": {"thinking": False}} == body


def test_runs_a_strategy_with_n_samples(tts: Command, double: ModelDouble):
    ended = tts(
        "solve", "What?", "--strategy", VOTE, "-n", 5, "--no-stop-early", "--json", "--base-url", double.base_url
    )
    assert double.stats.choices == 5
    assert len(ended.json["candidates"]) == 5
    assert ended.json["strategy"].startswith("self_consistency:n=5")


def test_json_has_every_candidate_and_the_exact_cost(tts: Command, double: ModelDouble):
    result = tts("solve", "What?", "--strategy", VOTE, "--no-stop-early", "--json", "--base-url", double.base_url).json
    assert [c["content"] for c in result["candidates"] if c["selected"]] == [result["text"]]
    assert [c["notes"]["answer"] for c in result["candidates"] if c["selected"]] == [result["answer"]]
    assert result["usage"]["completion_tokens"] == double.stats.completion_tokens
    assert result["usage"]["requests"] == double.stats.received
    assert result["ended"] == "complete"


def test_a_budget_ends_it_with_the_best_so_far(tts: Command, double: ModelDouble):
    budget = ["--budget.requests", 3, "--models.policy.max_n", 1, "--max-tokens", 200]
    ended = tts("solve", "What?", "--strategy", VOTE, *budget, "--base-url", double.base_url)
    assert ended.code == 0
    assert double.stats.received == 3
    assert "budget spent" in ended.err


def test_abstaining_is_exit_code_3(tts: Command, double: ModelDouble):
    verifier = ["--verifier", "numeric_answer:reference=7"]
    ended = tts("solve", "What?", "--strategy", "first_pass:k=2", *verifier, "--base-url", double.base_url)
    assert (ended.code, ended.out) == (3, "")
    assert "2 candidates" in ended.err
    assert "no answer" in ended.err


def test_a_server_that_refuses_the_request_is_exit_code_1(tts: Command, double: ModelDouble):
    def refuse(request: object, rng: object) -> str:
        raise RuntimeError("unfit")

    double.answer = refuse
    ended = tts("solve", "What?", "--base-url", double.base_url)
    assert ended.code == 1
    assert "unfit" in ended.err


def test_a_server_that_is_not_there_is_exit_code_1_in_one_line(tts: Command):
    ended = tts("solve", "What?", "--model", "m", "--base-url", "http://127.0.0.1:9/v1")
    assert ended.code == 1
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1


def test_a_wrong_key_is_told_and_never_shown(tts: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with serving(api_key="another") as double:
        ended = tts("solve", "What?", "--base-url", double.base_url)
    assert ended.code == 1
    assert "API key" in ended.err
    assert "sk-secret" not in ended.err + ended.out


def test_a_further_role_is_given_by_dotted_options(tts: Command, double: ModelDouble):
    ended = tts("solve", "What?", "--models.judge.max_nn", 3, "--base-url", double.base_url)
    assert ended.code == 2
    assert "max_nn" in ended.err
    assert tts("solve", "What?", "--models.judge.max_n", 3, "--base-url", double.base_url).code == 0


def test_a_set_of_policies_is_asked_by_what_draws_from_it(tts: Command):
    with serving(models=["a", "b"], answer=lambda request, rng: f"I am {request['model']}") as double:
        words = [
            "--base-url",
            double.base_url,
            "--models.policies.small.model",
            "a",
            "--models.policies.large.model",
            "b",
        ]
        for name, model in (("small", "a"), ("large", "b")):
            ended = tts("solve", "Who?", "--strategy", f"single:policies={name}", "--max-tokens", 50, "--json", *words)
            found = json.loads(ended.out)
            assert found["answer"] == f"I am {model}"
            assert list(found["spent"]) == [f"policy.{name}"]
            assert double.requests[-1].body["max_tokens"] == 50
        ended = tts("solve", "Who?", *words)
        assert ended.code == 2
        assert "single:policies=small" in ended.err
        ended = tts("solve", "Who?", "--models.policies.small", "a", "--base-url", double.base_url)
        assert (ended.code, "--models.policies.small.model" in ended.err) == (2, True)
        ended = tts("solve", "Who?", "--models.max_concurrency", 5, "--base-url", double.base_url)
        assert (ended.code, "--models.policy.max_concurrency" in ended.err) == (2, True)


async def test_pictures_are_drawn_and_judged_by_the_models_of_their_roles(tts: Command, clean: Path):
    """Settings of roles are as in a run's file, without the name of the grid's model."""
    painter, (scene,) = Painter(fade=0.6), scenes(1)
    asked = ["solve", problem_text(scene), "--strategy", "prompt_redesign:n=4,images=true", "--no-stop-early"]
    async with drawing_world(painter, Vision()) as models:
        policy = ["--model", "policy", "--base-url", models["policy"].urls[0], "--models.judge.model", "judge"]
        image = ["--models.image.model", "painter", "--models.image.base_url", painter.base_url]
        drawn = await asyncio.to_thread(tts, *asked, *policy, *image)
        undrawn = await asyncio.to_thread(tts, *asked, *policy)
    assert drawn.code == 0, drawn.err
    assert things(problem_text(scene))[0] in measured((clean / drawn.out.strip()).read_bytes())
    assert len(painter.requests) == len(list((clean / "images").iterdir())) == 4
    assert undrawn.code == 2
    assert "--models.image.model" in undrawn.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["", "--model", "m"], "the prompt is empty"),
        (["What?", "--strategy", "nope"], "best_of_n"),
        (["What?", "--strategy", "best_of_n:m=3"], "Parameters: verifier, policies, n"),
        (["What?", "--strategy", "best_of_n"], "--verifier"),
        (["Write a function that adds.", "--strategy", "self_consistency"], "behaviour for programs"),
        (["What?", "--strategy", "self_consistency:n=2.5"], "n: must be a whole number, not 2.5"),
        (["What?", "--models.policy.base_url", "[3]"], "must be a URL"),
        (["What?", "-n", "4"], "single"),
        (["What?", "--budget.tokens", "4"], "completion_tokens"),
        (["What?", "--sample.top_k", "4"], "--sampling."),
        (["What?", "--sampling.top_k"], "--sampling.top_k VALUE"),
        (["What?", "--models.judge", "m"], "--models.judge.model"),
    ],
)
def test_what_the_user_must_put_right_is_exit_code_2_in_one_line(
    tts: Command, double: ModelDouble, words: list[str], named: str
):
    ended = tts("solve", *words, "--base-url", double.base_url)
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert named in ended.err
    assert double.stats.received == 0


def test_no_endpoint_at_all_is_told_with_the_ways_to_name_one(tts: Command):
    ended = tts("solve", "What?")
    assert ended.code == 2
    assert "--base-url" in ended.err
    assert "OPENAI_BASE_URL" in ended.err


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_settings_come_from_a_dotenv_file_unless_the_environment_has_them(
    tts: Command, clean: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
):
    with serving(models=["one", "two"], api_key="kept secret") as double:
        lines = [
            f"OPENAI_BASE_URL={double.base_url}  # here",
            "export OPENAI_API_KEY='kept secret'",
            "OPENAI_MODEL=one",
        ]
        (clean / ".env").write_text("\n".join(lines) + "\n\n# settings\nPRICE=$OPENAI_MODEL", encoding=encoding)
        monkeypatch.setenv("OPENAI_MODEL", "two")
        monkeypatch.setenv("PRICE", "")  # so that what the file adds is undone as well
        monkeypatch.delenv("PRICE")
        assert tts("solve", "What?").code == 0
        assert double.requests[-1].body["model"] == "two"
        assert os.environ["PRICE"] == "$OPENAI_MODEL"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        (" export A = b  # c", "b"),
        ("A=b#c", "b#c"),
        ("A='a#b'", "a#b"),
        ("A=\"it's\" # 'c'", "it's"),
        ("A=x=y", "x=y"),
        ("A= # c", ""),
        ("A=''", ""),
        ("# A=b", None),
        ("A", None),
    ],
)
def test_a_line_of_a_dotenv_file_is_read_as_elsewhere(line: str, value: str | None):
    found = SETTING.fullmatch(line)
    assert (found and (found["quoted"] or found["plain"] or "")) == value


def test_several_models_and_none_named_is_told_with_their_names(tts: Command):
    with serving(models=["one", "two"]) as double:
        ended = tts("solve", "What?", "--base-url", double.base_url)
        assert ended.code == 2
        assert "one, two" in ended.err
        assert double.stats.received == 0


def test_lost_samples_are_told_with_the_reason(tts: Command):
    strategy = ["--strategy", VOTE, "-n", 3, "--no-stop-early", "--models.policy.max_n", 1]
    with serving(faults=[Fault(FaultKind.BAD_REQUEST)]) as double:
        ended = tts("solve", "What?", *strategy, "--base-url", double.base_url)
    assert ended.code == 0
    assert "2 candidates" in ended.err
    assert "1 lost: policy: " in ended.err


def test_ctrl_c_aborts_the_request_at_the_server(double: ModelDouble, clean: Path):
    double.latency = 600.0
    process = start("solve", "What?", "--base-url", double.base_url, cwd=clean)
    while not double.stats.running:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    ended = finished(process)
    assert (ended.code, ended.out, ended.err) == (130, "", "interrupted\n")
    while double.stats.running:
        time.sleep(0.01)
    assert double.stats.cancelled == 1


def test_debug_shows_the_traceback(tts: Command):
    with pytest.raises(ConfigError):
        tts("solve", "", "--debug")


def test_json_values_keep_their_text(tts: Command, double: ModelDouble):
    double.answer = lambda request, rng: "Größe: 4²"
    ended = tts("solve", "What?", "--json", "--base-url", double.base_url)
    assert json.loads(ended.out)["answer"] == "Größe: 4²"
    assert "Größe" in ended.out


def test_warns_as_a_run_does(tts: Command, double: ModelDouble):
    double.answer = lambda request, rng: "well " * 20
    budget = ["--budget.completion_tokens", 130, "--max-tokens", 100]
    words = ["solve", "What?", "--strategy", "best_of_n:n=3,verifier=numeric_answer(reference=1)", *budget]
    ended = tts(*words, "--base-url", double.base_url)
    assert ended.err.splitlines()[1] == ("unfinished candidates, cut off by the budget or the strategy: 1 of 2")
    assert tts(*words, "--json", "--base-url", double.base_url).json["warnings"] == [ended.err.splitlines()[1]]


def test_says_what_a_strategy_warns_of(tts: Command, double: ModelDouble):
    double.answer = lambda request, rng: "Answer: 7"
    pair = [f"--models.{role}.base_url={double.base_url}" for role in ("draft", "target")]
    strategy = "atts:n=2,rejection_rate=0,answer=numeric_answer"
    ended = tts("solve", "What?", "--strategy", strategy, *pair, "--base-url", double.base_url)
    assert "drafts was rejected: the target wrote nothing" in ended.err


def test_a_vote_chooses_its_reader_from_the_prompt_and_says_which(tts: Command, double: ModelDouble):
    double.answer = lambda request, rng: "17 times 23 is 391.\n\nAnswer: 391."
    ended = tts("solve", "What is 17 * 23?", "--strategy", "self_consistency:n=3", "--base-url", double.base_url)
    assert (ended.code, ended.out) == (0, "391\n")
    assert "answers are read by numeric_answer, chosen from the prompt" in ended.err
    named = tts("solve", "What is 17 * 23?", "--strategy", VOTE, "--base-url", double.base_url)
    assert "chosen from the prompt" not in named.err
    lone = tts("solve", "What is 17 * 23?", "--json", "--base-url", double.base_url)
    assert lone.json["answer"] == lone.json["text"] == "17 times 23 is 391.\n\nAnswer: 391."
    assert lone.json["warnings"] == []


def test_a_seed_is_a_repetition_and_the_servers_seed_follows_it(tts: Command, double: ModelDouble):
    for seed in (0, 1):
        words = ["--seed", seed, "--sampling.seed", 5, "--base-url", double.base_url]
        assert tts("solve", "What?", *words).code == 0
    first, second = (request.body["seed"] for request in double.requests)
    assert first == 5
    assert second != first
    assert tts("solve", "What?", "--seed", 1, "--base-url", double.base_url).code == 0
    assert "seed" not in double.requests[-1].body


def test_a_model_acts_in_a_copy_of_a_folder_and_the_answer_is_a_patch(tts: Command, clean: Path):
    """The command that judges sees the folder of the workspace, and the folder itself stays as it is."""
    (clean / "shop").mkdir()
    (clean / "shop" / "price.py").write_text("PRICE = 2\n")
    repairs = iter(["PRICE = 4\n", "PRICE = 3\n"])

    def act(turns: list[dict[str, Any]], number: int) -> Any:
        done = any(turn["role"] == "tool" for turn in turns)
        return "Done." if done else ("write", {"path": "price.py", "content": next(repairs)})

    where = ["--environment", "workspace:folder=shop", "--verifier", "folder_command:command=grep -q 3 price.py"]
    with scripted(acting(act).respond) as server:
        ended = tts("solve", "Repair it.", *where, "--strategy", "first_pass:k=3", "--base-url", server.base_url)
    assert ended.code == 0
    assert ended.out == "--- a/price.py\n+++ b/price.py\n@@ -1,1 +1,1 @@\n-PRICE = 2\n+PRICE = 3\n\n"
    assert ended.err.startswith("2 candidates, ")
    assert (clean / "shop" / "price.py").read_text() == "PRICE = 2\n"


def test_an_environment_that_is_not_there_is_told(tts: Command, double: ModelDouble):
    ended = tts("solve", "What?", "--environment", "workspace:folder=nowhere", "--base-url", double.base_url)
    assert ended.code == 2
    assert "nowhere is no folder" in ended.err
    assert not double.requests
