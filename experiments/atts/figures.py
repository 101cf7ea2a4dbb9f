"""Tables and figures of what `measure` and `drift` find."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]


def markdown(rows: Sequence[Row]) -> str:
    """Everything that is compared as a table: accuracy and its paired difference to the target alone, cost, time."""
    lines = [
        "| samples | problems | | pass@1, % | majority, % | its difference to the target alone, points | coverage, % "
        "| target tokens | draft tokens | rejected, % | seconds | CPU seconds | tokens/s | draft server busy, % |",
        "|--:|---|---|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        accuracy, busy = row["accuracy"], {one["kind"]: one["busy"] for one in row["utilisation"]}
        cells = [
            row["samples"],
            row["order"],
            row["name"],
            "" if row["settled"] else percent(accuracy["pass@1"]),
            percent(accuracy["majority"]),
            "" if row["name"] == "target alone" else percent(row["difference"]["majority"], "+.1f"),
            "" if row["settled"] else percent(accuracy["coverage"]),
            f"{row['tokens'].get('target', 0):,.0f}",
            f"{row['tokens'].get('draft', 0):,.0f}",
            _maybe(row["rejected"], lambda share: f"{100 * share:.1f}"),
            _maybe(row["seconds"], lambda seconds: f"{seconds:.1f}"),
            _maybe(row["cpu seconds"], lambda seconds: f"{seconds:.1f}"),
            _maybe(row["tokens per second"], lambda speed: f"{speed:,.0f}"),
            _maybe(busy.get("draft"), lambda share: f"{100 * share:.0f}"),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def speedups(rows: Sequence[Row]) -> list[str]:
    """How much faster atts is than what waits; with an interval over problems where they came one at a time."""
    said = []
    for row in rows:
        peers = {one["name"]: one for one in rows if (one["samples"], one["order"]) == (row["samples"], row["order"])}
        if row["name"] not in ("atts", "atts, rewriting") or row["seconds"] is None:
            continue
        for name in (row["name"].replace("atts", "atts_sync"), "target alone"):
            peer = peers[name]
            if peer["seconds"] is None:
                continue
            ratio = f"{peer['seconds'] / row['seconds']:.2f}"
            if row["seconds by problem"]:
                logs = np.log(np.array(peer["seconds by problem"]) / np.array(row["seconds by problem"]))
                drawn = np.random.default_rng(0).choice(logs, size=(2000, len(logs))).mean(axis=1)
                low, high = np.exp(np.quantile(drawn, [0.025, 0.975]))
                ratio += f" (per problem {np.exp(logs.mean()):.2f}, {low:.2f} to {high:.2f})"
            said.append(f"{row['samples']} samples, {row['order']}: {row['name']} {ratio} x as fast as {name}")
    return said


def percent(values: Sequence[float], form: str = ".1f") -> str:
    """Mean and interval, in percent."""
    mean, low, high = (f"{100 * value:{form}}" for value in values)
    return f"{mean} ({low} to {high})"


def _maybe(value: float | None, say: Any) -> str:
    return "" if value is None else say(value)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Accuracy of the vote and of any sample, target tokens and seconds over the number of samples."""
    import matplotlib
    from matplotlib.figure import Figure

    from tts.curves.plot import COLOURS, MARKERS, STYLE

    panels = (
        ("majority, %", lambda row: [100 * value for value in row["accuracy"]["majority"]]),
        ("coverage, %", lambda row: [100 * value for value in row["accuracy"]["coverage"]]),
        ("target tokens per problem", lambda row: [row["tokens"].get("target", 0) / row["problems"]]),
        ("seconds, all problems", lambda row: [row["seconds"] or np.nan]),
    )
    names = list(dict.fromkeys(row["name"] for row in rows))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.2), layout="constrained")
        for axes, (title, value) in zip(figure.subplots(1, len(panels)), panels, strict=True):
            for i, name in enumerate(names):
                mine = [row for row in rows if row["name"] == name]
                x, points = (
                    [row["samples"] * 1.04 ** (i - (len(names) - 1) / 2) for row in mine],
                    [value(row) for row in mine],
                )
                style = {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 4, "label": name}
                y = [point[0] for point in points]
                if len(points[0]) == 3:
                    errors = [[p[0] - p[1] for p in points], [p[2] - p[0] for p in points]]
                    axes.errorbar(x, y, yerr=errors, **style)
                elif any(y):
                    axes.plot(x, y, **style)
            axes.set_xscale("log", base=2)
            if title.startswith(("target", "seconds")):
                axes.set_yscale("log")
            ticks = sorted({row["samples"] for row in rows})
            axes.set_xticks(ticks, map(str, ticks))
            axes.set_xlabel("samples")
            axes.set_title(title, loc="left", fontsize=9)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(names), frameon=False, fontsize=8)
        figure.savefig(path)


def draw_drift(found: dict[str, Any], path: Path) -> None:
    """The realised rejection rate of each way of calibrating over turns, beside the nominal one."""
    import matplotlib
    from matplotlib.figure import Figure

    from tts.curves.plot import COLOURS, MARKERS, STYLE

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for i, (name, run) in enumerate(found["runs"].items()):
            turns = run["turns"]
            y = np.array([turn["rate"] for turn in turns])
            x = np.array([turn["turn"] for turn in turns]) + 0.06 * (i - 2)
            errors = [100 * (y[:, 0] - y[:, 1]), 100 * (y[:, 2] - y[:, 0])]
            style = {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 4, "label": name}
            axes.errorbar(x, 100 * y[:, 0], yerr=errors, **style)
        axes.axhline(100 * found["nominal"], color="#999999", linewidth=0.8)
        axes.set_xlabel("turn")
        axes.set_ylabel("rejected, %")
        axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1))
        figure.savefig(path)
