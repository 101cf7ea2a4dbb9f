"""Fetches a model, serves it until Ctrl-C, and says how to ask it.

python -m experiments.models NAME [--engine llama.cpp|vllm] [--in-flight 16] [--context 1536]

NAME is a GGUF file, a model folder, or one of the models of `fetch.MODELS`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from experiments.models.serve import check, served
from tts.errors import TTSError
from tts.lab.public_models import MODELS, located, sha256_of


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help=f"a GGUF file, a model folder, or one of: {', '.join(MODELS)}")
    parser.add_argument("--engine", choices=("llama.cpp", "vllm"))
    parser.add_argument("--in-flight", type=int, default=16, help="sequences at once")
    parser.add_argument("--context", type=int, default=1536, help="tokens of each, prompt included")
    options = parser.parse_args()
    model = located(options.name)
    print(f"{model}" + (f" (sha256 {sha256_of(model)})" if model.is_file() else ""))
    async with served(
        options.name, engine=options.engine, in_flight=options.in_flight, context=options.context
    ) as endpoint:
        print(f"asked for the capital of France, it says: {await check(endpoint)}")
        print(f'tts solve "..." --base-url {endpoint.base_url} --model {endpoint.model}')
        await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
    except TTSError as error:
        sys.exit(f"error: {error}")
