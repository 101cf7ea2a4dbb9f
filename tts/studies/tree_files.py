"""Trees of searches as SVG, which browsers and papers show, and as Mermaid, which Markdown pages draw."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape

from tts.studies.search_trees import SearchDrawing, SearchNode, shortened

BOX, GAP = (240, 48), (34, 10)
"""Width and height of a node, and the room between nodes; in pixels."""
LETTERS = 37
"""That fit into a box."""
STYLE = """
text { font: 10px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #1d2126 }
.title { font-size: 13px; font-weight: bold } .figures { fill: #5c646d } path { fill: none; stroke: #a9b0b7 }
rect { fill: #f1efe9; stroke: #a9b0b7 } .chosen > rect, path.chosen { stroke: #1769aa; stroke-width: 3 }
.pruned { opacity: .55 } .pruned > rect { stroke-dasharray: 4 3 }
"""
MERMAID_STYLE = (
    "  classDef chosen stroke:#1769aa,stroke-width:3px",
    "  classDef pruned opacity:0.55,stroke-dasharray:4 3",
)
UNDRAWABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML cannot hold."""


def svg(trees: Sequence[SearchDrawing]) -> str:
    """The trees one below the other, each from left to right; a node names its whole step when pointed at."""
    parts, top, width = [], 10, 0
    for tree in trees:
        depths, rows = _places(tree.nodes)
        parts.append(f'<text class="title" x="10" y="{top + 14}">{_text(tree.title)}</text>')
        places = [
            (10 + depth * (BOX[0] + GAP[0]), top + 26 + row * (BOX[1] + GAP[1]))
            for depth, row in zip(depths, rows, strict=True)
        ]
        parts += _ways(tree.nodes, places)
        parts += _boxes(tree, places)
        width = max([width, 10 + 8 * len(tree.title), *(x + BOX[0] for x, _ in places)])
        top = 40 + int(max((y + BOX[1] for _, y in places), default=top))
    size = f'width="{width + 10}" height="{top}" viewBox="0 0 {width + 10} {top}"'
    ground = f'<path d="M0 0H{width + 10}V{top}H0Z" style="fill: #fff; stroke: none"/>'
    body = "\n".join([f"<style>{STYLE}</style>", ground, *parts])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{body}\n</svg>\n'


def _places(nodes: Sequence[SearchNode]) -> tuple[list[int], list[float]]:
    """Depth and row of each node: leaves are below each other, and what they grew from is in their middle."""
    depths: list[int] = []
    below: list[list[float]] = [[] for _ in nodes]
    for node in nodes:
        depths.append(0 if node.above is None else depths[node.above] + 1)
    leaves = set(range(len(nodes))) - {node.above for node in nodes}
    row, rows = len(leaves), [0.0] * len(nodes)
    for place in reversed(range(len(nodes))):
        row -= place in leaves
        rows[place] = float(row) if place in leaves else (below[place][0] + below[place][-1]) / 2
        if (above := nodes[place].above) is not None:
            below[above].append(rows[place])
    return depths, rows


def _ways(nodes: Sequence[SearchNode], places: Sequence[tuple[float, float]]) -> Iterator[str]:
    for node, (x, y) in zip(nodes, places, strict=True):
        if node.above is not None:
            left, high = places[node.above][0] + BOX[0], places[node.above][1] + BOX[1] / 2
            middle, low = (left + x) / 2, y + BOX[1] / 2
            way = f"M{left} {high:g}C{middle} {high:g} {middle} {low:g} {x} {low:g}"
            yield f'<path class="{_kind(node)}" d="{way}"/>'


def _boxes(tree: SearchDrawing, places: Sequence[tuple[float, float]]) -> Iterator[str]:
    known = [node.reward for node in tree.nodes if node.reward is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    for i, (node, (x, y)) in enumerate(zip(tree.nodes, places, strict=True)):
        lines = [tree.heading(i), node.text, tree.tail(i)]
        fill = ""
        if node.reward is not None:
            fill = f' style="fill: {_colour((node.reward - low) / (high - low) if high > low else 1.0)}"'
        texts = "".join(
            f'<text class="{name}" x="8" y="{14 + 14 * row}">{_text(shortened(line, LETTERS))}</text>'
            for row, (name, line) in enumerate(zip(("heading", "step", "figures"), lines, strict=True))
        )
        yield (
            f'<svg class="node {_kind(node)}" x="{x}" y="{y:g}" width="{BOX[0]}" height="{BOX[1]}">'
            f'<title>{_text(chr(10).join(lines)[:2000])}</title><rect x="1" y="1" width="{BOX[0] - 2}" '
            f'height="{BOX[1] - 2}" rx="6"{fill}/>{texts}</svg>'
        )


def _kind(node: SearchNode) -> str:
    return "chosen" if node.chosen else "pruned" if node.pruned is not None else ""


def _colour(share: float) -> str:
    """From the lowest reward (orange) to the highest (blue), for all kinds of colour vision."""
    low, middle, high = (246, 199, 172), (241, 239, 233), (168, 207, 238)
    ends = (low, middle, share * 2) if share < 0.5 else (middle, high, share * 2 - 1)
    return "rgb({}, {}, {})".format(*(round(a + (b - a) * ends[2]) for a, b in zip(*ends[:2], strict=True)))


def _text(text: str) -> str:
    return escape(UNDRAWABLE.sub("\ufffd", text))


def mermaid(trees: Sequence[SearchDrawing]) -> str:
    """The trees as one flowchart."""
    lines = ["flowchart LR"]
    for number, tree in enumerate(trees):
        lines.append(f'  subgraph t{number}["{_label(shortened(tree.title, 200))}"]')
        for i, node in enumerate(tree.nodes):
            parts = (tree.heading(i), shortened(node.text, LETTERS), tree.tail(i))
            words = "<br/>".join(_label(part) for part in parts if part)
            lines.append(f'    t{number}n{i}["{words}"]' + (f":::{kind}" if (kind := _kind(node)) else ""))
            if node.above is not None:
                lines.append(f"    t{number}n{node.above} {'==>' if node.chosen else '-->'} t{number}n{i}")
        lines.append("  end")
    return "\n".join([*lines, *MERMAID_STYLE]) + "\n"


def _label(text: str) -> str:
    """`text` where nothing in it means anything to Mermaid."""
    return re.sub(r"[^\w .,:·…]|_|\.(?= )", lambda mark: f"#{ord(mark[0])};", UNDRAWABLE.sub("\ufffd", text))
