"""One-sample problems of inspect's own mock model through its whole runner. Argument: how many (2000)."""

import sys
import tempfile

import tiktoken  # pyright: ignore[reportMissingImports] - the peer's environment
from _measure import measured, report
from inspect_ai import Task, __version__, eval  # pyright: ignore[reportMissingImports] - the peer's environment
from inspect_ai.dataset import MemoryDataset, Sample  # pyright: ignore[reportMissingImports]
from inspect_ai.model import ModelOutput, get_model  # pyright: ignore[reportMissingImports]
from inspect_ai.scorer import match  # pyright: ignore[reportMissingImports]
from inspect_ai.solver import generate  # pyright: ignore[reportMissingImports]


class Bytes:
    """Counts bytes; the table that inspect counts its mock's tokens with would be downloaded."""

    def encode(self, text: str, **_: object) -> bytes:
        """One token for each byte."""
        return text.encode()


tiktoken.get_encoding = tiktoken.encoding_for_model = lambda *_: Bytes()
count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
samples = [Sample(input=f"Problem {number}: six times seven?", target="42") for number in range(count)]
outputs = [ModelOutput.from_content("mockllm/model", "Answer: 42") for _ in range(count)]
with tempfile.TemporaryDirectory() as folder:
    with measured() as spent:
        (log,) = eval(
            Task(dataset=MemoryDataset(samples), solver=generate(), scorer=match()),
            model=get_model("mockllm/model", custom_outputs=outputs),
            log_dir=folder,
            display="none",
            log_realtime=False,
        )
    assert log.status == "success"
    assert len(log.samples or ()) == count
report(f"inspect {__version__}, mock model, whole runner", count, spent)
