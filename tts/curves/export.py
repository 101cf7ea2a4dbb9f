"""Curves as tables: one row per point."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from tts.curves.curve import Curve
from tts.errors import MissingExtra

COLUMNS: tuple[str, ...] = (
    "label", "estimator", "problems", "level", "x_name", "x_unit", "k", "x", "accuracy", "low", "high",
)  # fmt: skip


def curve_rows(curves: Iterable[Curve]) -> list[dict[str, str | int | float]]:
    """One mapping per point, in `COLUMNS`' order, of plain Python values (also good for JSON)."""
    rows = []
    for curve in curves:
        shared = (curve.label, curve.estimator, curve.problems, curve.level, curve.x_name, curve.x_unit)
        points = zip(curve.k.tolist(), *(v.tolist() for v in (curve.x, curve.y, curve.low, curve.high)), strict=True)
        rows.extend(dict(zip(COLUMNS, (*shared, *point), strict=True)) for point in points)
    return rows


def write_csv(curves: Iterable[Curve], path: str | Path) -> None:
    """Write curves as CSV with a header; numbers keep full precision."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(curve_rows(curves))


def write_parquet(curves: Iterable[Curve], path: str | Path) -> None:
    """Write curves as Parquet. Raises `MissingExtra` without the extra `data`."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtra("data", "writing Parquet") from error
    types = {"problems": pa.int64(), "k": pa.int64()} | dict.fromkeys(
        ("label", "estimator", "x_name", "x_unit"), pa.string()
    )
    schema = pa.schema([(name, types.get(name, pa.float64())) for name in COLUMNS])
    pq.write_table(pa.Table.from_pylist(curve_rows(curves), schema=schema), path)
