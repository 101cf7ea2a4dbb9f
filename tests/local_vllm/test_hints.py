import sys
from pathlib import Path

import pytest

from tts.local_vllm import build_settings, hint_for, last_words, summed_metrics

EXPOSITION = """\
# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="a b"} 30.0
vllm:generation_tokens_total{engine="1",model_name="{x}"} 12.5
vllm:generation_tokens_created{engine="0"} 1.7e+09
vllm:num_requests_running 2.0
vllm:latency_seconds_bucket{le="0.5"} 3.0
vllm:latency_seconds_bucket{le="+Inf"} 4.0
vllm:latency_seconds_sum{engine="0"} 1.5e-02
"""


def test_metrics_are_summed_over_labels_without_buckets_and_creation_times():
    assert summed_metrics(EXPOSITION) == {
        "vllm:generation_tokens_total": 42.5,
        "vllm:num_requests_running": 2.0,
        "vllm:latency_seconds_sum": 0.015,
    }


@pytest.mark.parametrize(
    ("log", "status", "advice"),
    [
        ("OSError: [Errno 98] Address already in use", 1, "port"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate", 1, "Not enough memory"),
        ("ValueError: No available memory for the cache blocks.", 1, "Not enough memory"),
        ("ValueError: To serve at least one request, 8 GiB KV cache is needed, which is", 1, "--max-model-len"),
        ("OSError: nobody/nothing is not a valid model identifier", 1, "model was not found"),
        ("api_server.py: error: unrecognized arguments: --x", 2, "option"),
        ("INFO loading", 137, "ran out of memory"),
    ],
)
def test_known_causes_have_a_hint(log: str, status: int, advice: str):
    assert advice in hint_for(log, status)


def test_an_unknown_cause_has_no_hint():
    assert hint_for("ValueError: something else", 1) == ""


def test_the_first_error_precedes_a_tail_that_does_not_hold_it():
    lines = ["INFO start", "warning: `OSError: x` may follow", "(Worker) ERROR [core.py:1] ValueError: cause", "a", "b"]
    assert last_words(lines, 2) == ["(Worker) ERROR [core.py:1] ValueError: cause", "[...]", "a", "b"]
    assert last_words(lines, 3) == lines[2:]
    assert last_words(lines[:2], 1) == lines[1:2]


@pytest.mark.parametrize("place", ["openai", "launchers"])
@pytest.mark.parametrize("known", [True, False])
def test_cached_prompt_tokens_are_asked_for_where_the_installed_vllm_can_tell_them(
    tmp_path: Path, place: str, known: bool
):
    arguments = tmp_path / "vllm" / "entrypoints" / place / "cli_args.py"
    arguments.parent.mkdir(parents=True)
    arguments.write_text("enable_prompt_tokens_details: bool = False" if known else "")
    (tmp_path / "vllm" / "__init__.py").write_text("raise RuntimeError('it is not to be imported')")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    assert build_settings(str(python)) == (["--enable-prompt-tokens-details"] if known else [], {})
