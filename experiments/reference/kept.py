"""The runs behind the table, as they are kept here: without log-probabilities, and compressed.

python -m experiments.reference.kept pack FOLDER      # runs below FOLDER, finished or going on, into runs/
python -m experiments.reference.kept unpack FOLDER    # and back: `tts report FOLDER/humaneval` then reads them
"""

from __future__ import annotations

import json
import sys
import tarfile
import tempfile
from pathlib import Path

from tts.files import write_atomically
from tts.runs.damage import CHECKED
from tts.runs.database import connect

KEPT = Path(__file__).parent / "runs"
LEDGER = "ledger.json"
"""Beside a run: what each session of `run.py` took, and what the server counted meanwhile."""
BULKY = ("logprobs", "confidences", "top_logprobs", "token_ids")


def pack(run: Path, kept: Path = KEPT) -> Path:
    """Write the archive of a run; returns where."""
    target = kept / f"{run.name}.tar.xz"
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / run.name
        copy.mkdir()
        record = json.loads((run / "run.json").read_text())
        record["command"] = ["python", "-m", "experiments.reference.run", run.name]
        (copy / "run.json").write_text(json.dumps(record, indent=1))
        if (run / LEDGER).exists():
            (copy / LEDGER).write_bytes((run / LEDGER).read_bytes())
        source, lean = connect(run / "run.sqlite", read_only=True), connect(copy / "run.sqlite")
        source.backup(lean)
        paths = ", ".join(f"'$.{field}'" for field in BULKY)
        lean.execute(f"UPDATE samples SET data = json_remove(data, {paths})")
        lean.execute(f"UPDATE samples SET checksum = checksum({CHECKED['samples']})")
        for words in ("PRAGMA journal_mode=DELETE", "VACUUM"):
            lean.execute(words)
        for database in (source, lean):
            database.close()
        packed = Path(name) / target.name
        with tarfile.open(packed, "w:xz", preset=9) as archive:
            archive.add(copy, run.name)
        kept.mkdir(exist_ok=True)
        write_atomically(target, packed.read_bytes())
    return target


def unpack(folder: Path, kept: Path = KEPT) -> list[Path]:
    """Unpack all runs below `folder`; returns their folders."""
    archives = sorted(kept.glob("*.tar.xz"))
    for path in archives:
        with tarfile.open(path) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and later
            archive.extractall(folder)
    return [folder / path.name.removesuffix(".tar.xz") for path in archives]


def main(what: str, folder: Path) -> None:
    if what == "pack":
        for path in map(pack, sorted(path.parent for path in folder.glob("*/run.json"))):
            print(f"{path.stat().st_size:9,} bytes  {path.name}")
    else:
        print(*unpack(folder), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
