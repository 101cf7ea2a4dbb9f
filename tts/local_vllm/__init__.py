"""A vLLM server of your own: started as a child process, ready when entered, gone when left.

async with LocalVLLM("meta-llama/Llama-3.2-1B-Instruct") as server:
    ...  # an OpenAI-compatible endpoint at server.base_url, its model called server.name
"""

from tts.local_vllm.server import LocalVLLM, LocalVLLMError, serve

__all__ = ["LocalVLLM", "LocalVLLMError", "serve"]
