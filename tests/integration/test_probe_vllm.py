"""The probe against real vLLM: it finds what that server can do, and its own cost is what the server counted."""

import pytest

from tests.integration.test_main_job import counted
from tts import Endpoint, LocalVLLM, Sampler
from tts.sampler.probe import probe

pytestmark = pytest.mark.vllm


async def test_finds_what_vllm_can_do_and_what_it_was_not_started_for(vllm_server: LocalVLLM):
    async with Sampler(Endpoint(model=vllm_server.name, base_url=vllm_server.base_url)) as sampler:
        found = await probe(sampler)
    assert found.server.startswith("vLLM 0.")
    assert found.models == (vllm_server.name,)
    assert {name for name, finding in found.as_dict().items() if finding.ok is False} == {"tools"}
    assert "--enable-auto-tool-choice" in found.tools.why


async def test_its_cost_is_the_growth_of_the_servers_counters(vllm_server: LocalVLLM):
    _, before, _ = await counted(vllm_server)
    async with Sampler(Endpoint(model=vllm_server.name, base_url=vllm_server.base_url)) as sampler:
        found = await probe(sampler)
    _, after, _ = await counted(vllm_server)
    assert found.cost.completion_tokens == after - before > 0
