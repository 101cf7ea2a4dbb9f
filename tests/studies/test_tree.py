"""A search is drawn as it was: its steps and what became of them are those that the run has stored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.searched import BEAM, DVTS, ROLLED, searching
from tts.runs import Run
from tts.studies.search_trees import SearchDrawing, SearchNode, search_tree
from tts.studies.tree import SearchTree
from tts.studies.tree_files import mermaid, svg
from tts.types import Candidate

HOSTILE = '</text><script>alert(1)</script> & "]\n  end\x00\ud800 `x` #35; %% <br/>'
FILTER = "particle_filter:n=6"


def drawn(run: Run) -> Iterator[tuple[SearchDrawing, list[Candidate], Any]]:
    """The tree, candidates and row of every cell."""
    for track in run.tracks:
        for row, correct in zip(track.rows, track.correct, strict=True):
            yield SearchDrawing.of(track.label, track, row, correct), track.candidates(row), row


@pytest.mark.parametrize("strategy", [BEAM, DVTS, ROLLED, FILTER, "beam_search:n=4,width=2,lookahead=1"])
async def test_the_nodes_are_those_that_the_search_took_in(tmp_path: Path, strategy: str):
    run = await searching(strategy).run(tmp_path / "run")
    for tree, candidates, row in drawn(run):
        records = {one["node"]: one for candidate in candidates for one in candidate.notes["tree"]}
        nodes = {node.name: node for node in tree.nodes if node.kind != "part"}
        assert nodes.keys() == records.keys()
        for name, node in nodes.items():
            known = records[name]
            assert (node.text, node.turn, node.reward) == (known["text"], known["turn"], known["reward"])
            below = [one for other, one in records.items() if other == name or other.startswith(f"{name}.")]
            assert node.branch_tokens == sum(one["tokens"] + one.get("aside", 0) for one in below)
            assert node.visits == len({one["turn"] for one in below})
            above = None if node.above is None else tree.nodes[node.above]
            assert name.startswith(above.name if above else "")
        assert sum(node.branch_tokens for node in tree.nodes if node.above is None) == sum(
            usage.completion_tokens for account in (row.spent, row.reused) for usage in account.values()
        )
        assert sorted(i for node in tree.nodes for i in node.answers) == list(range(len(candidates)))
        way = candidates[row.selected].notes["node"]
        assert [node.name for node in tree.nodes if node.chosen] == [
            one.name for one in tree.nodes if f"{way}.".startswith(f"{one.name}.")
        ]


async def test_what_a_beam_passed_over_is_said_with_the_turn(tmp_path: Path):
    run = await searching(BEAM).run(tmp_path / "run")
    for tree, _, _ in drawn(run):
        for place, node in enumerate(tree.nodes):
            grew = any(other.above == place for other in tree.nodes)
            assert node.turn is not None
            assert node.pruned == (None if grew or node.ended else node.turn + 1)
            assert not node.open


def made_up(*records: tuple[str, int], ended: str = "", stopped: str = "", given: str = "") -> list[SearchNode]:
    """The tree of a search that took in `records`: names and turns."""
    rows: list[dict[str, Any]] = [
        {"node": name, "turn": turn, "text": name, "tokens": 1, "reward": 0.5} for name, turn in records
    ]
    rows = [one | ({"ended": "stop"} if one["node"] == ended else {}) for one in rows]
    rows += [{"node": stopped, "stopped": "the budget"}] if stopped else []
    return search_tree([Candidate(id=7, content="x", spawned=(0,), notes={"tree": rows, "node": given})])


def states(nodes: list[SearchNode]) -> dict[str, Any]:
    return {node.name: "open" if node.open else node.stopped or node.pruned for node in nodes if node.name}


def test_a_step_is_passed_over_once_others_of_its_turn_have_gone_on_for_good():
    found = made_up(("0", 0), ("1", 0), ("2", 0), ("1.0", 1), ("1.1", 1), ("2.0", 2), given="1.0")
    assert states(found) == {"0": 1, "1": None, "2": None, "1.0": "open", "1.1": "open", "2.0": "open"}


def test_what_could_not_go_on_was_not_passed_over():
    found = made_up(("0", 0), ("1", 0), ("2", 0), ("3", 0), ("1.0", 1), stopped="0", ended="2", given="2")
    assert states(found) == {"0": "the budget", "1": None, "2": None, "3": 1, "1.0": "open"}


def test_independent_parts_count_turns_of_their_own_and_roll_outs_are_no_next_steps():
    found = made_up(("0.0", 0), ("0.1", 0), ("1.0", 0), ("1.1", 0), ("0.0.0", 1), ("1.0.-1.0", 0), given="0.0.0")
    assert states(found) == {
        "0": None, "0.0": None, "0.1": 1, "0.0.0": "open", "1": None, "1.0": "open", "1.1": "open", "1.0.-1.0": None,
    }  # fmt: skip
    kinds = {node.name: node.kind for node in found}
    assert [kinds[name] for name in ("0", "1", "0.0", "1.0.-1.0")] == ["part", "part", "step", "rollout"]
    assert {node.name: node.visits for node in found}["0"] == 2


async def test_a_budget_and_a_server_that_fails_are_named_where_they_stopped_the_search(tmp_path: Path):
    run = await searching(DVTS, budget={"completion_tokens": 9}).run(tmp_path / "budget")
    assert {"the budget"} == {node.stopped for tree, _, _ in drawn(run) for node in tree.nodes if node.stopped}

    def failing(request: dict[str, Any]) -> None:
        if re.fullmatch("Digits:\n[678]\n\n", request["prompt"]):
            raise ConnectionError("the cable was cut")

    run = await searching(BEAM, before=failing).run(tmp_path / "failing")
    stopped = [(node, row) for tree, _, row in drawn(run) for node in tree.nodes if node.stopped]
    assert stopped
    for node, row in stopped:
        assert node.pruned is None
        assert any(node.name in one and node.stopped in one for one in row.failures)


def test_candidates_stand_below_those_they_were_made_from():
    notes = {"lineage": [["plan", "add"], ["sketch", "x + 1"]]}
    parts = [((), notes), ((), notes), ((0,), {}), ((2, 0), {}), ((9,), {})]
    made = [
        Candidate(id=i, content="x", spawned=(i,), parents=parents, notes=notes)
        for i, (parents, notes) in enumerate(parts)
    ]
    found = search_tree(made, 3, tokens=[5, 4, 3, 2, 1])
    assert [(node.kind, node.above, node.answers, node.visits, node.branch_tokens, node.chosen) for node in found] == [
        ("plan", None, [], 4, 14, True),
        ("sketch", 0, [], 4, 14, True),
        ("answer", 1, [0], 3, 10, True),
        ("answer", 2, [2], 2, 5, True),
        ("answer", 3, [3], 1, 2, True),
        ("answer", 1, [1], 1, 4, False),
        ("answer", None, [4], 1, 1, False),
    ]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 59))
def test_what_is_shown_is_a_tree_with_the_way_to_the_answer_and_tells_what_is_not(ups: list[int], most: int, at: int):
    made = [Candidate(id=i, content="x", spawned=(i,), parents=(up,) if up < i else ()) for i, up in enumerate(ups)]
    nodes = search_tree(made, at)
    whole = SearchDrawing(title="", about={}, outcomes=[""] * len(made), nodes=nodes, hidden=[0] * len(nodes))
    cut = whole.cut(most)
    assert len(cut.nodes) == min(most, len(nodes))
    assert all(node.above is None or node.above < i for i, node in enumerate(cut.nodes))
    beside = re.search("([0-9]+) more beside", cut.title)
    assert len(nodes) == len(cut.nodes) + sum(cut.hidden) + (int(beside[1]) if beside else 0)
    assert sum(node.chosen for node in cut.nodes) == min(most, sum(node.chosen for node in nodes))


async def test_files_are_well_formed_and_have_every_node_that_is_shown(tmp_path: Path):
    run = await searching(BEAM, DVTS, ROLLED, remark=HOSTILE).run(tmp_path / "run")
    file = tmp_path / "tree.svg"
    for strategy, most in (("", 300), ("dvts", 300), ("beam_search", 5)):
        found = SearchTree(strategy=strategy, out=file, most=most).findings({"": run})
        assert found.files == [file]
        assert all(strategy in one["track"] for one in found.data)
        shown = sum(min(most, len(one["nodes"])) for one in found.data)
        root = ElementTree.fromstring(file.read_text())
        names = [one.get("class", "") for one in root.iter("{http://www.w3.org/2000/svg}svg")]
        assert sum(name.startswith("node") for name in names) == shown
        assert not list(root.iter("{http://www.w3.org/2000/svg}script"))
        boxes = [
            (float(one.get("x", 0)), float(one.get("y", 0))) for one in root.iter("{http://www.w3.org/2000/svg}svg")
        ]
        assert len(set(boxes[1:])) == shown

        SearchTree(strategy=strategy, out=tmp_path / "tree.mmd", most=most).findings({"": run})
        lines = (tmp_path / "tree.mmd").read_text().splitlines()
        labels = [line for line in lines if re.search(r't\d+n\d+\["', line)]
        assert len(labels) == shown
        assert all(re.fullmatch(r' *t\d+n\d+\["(?:<br/>|#\d+;|[\w .,:·…+-])*"\](?::::\w+)?', line) for line in labels)
        assert lines.count("  end") == len(found.data)


def test_a_refinement_stands_below_the_step_that_it_refines_and_other_notes_are_left_alone():
    told = [{"node": "0", "turn": 0, "text": "x", "tokens": 1, "reward": 1.0, "ended": "stop"}]
    step = Candidate(id=3, content="x", spawned=(0,), notes={"tree": told, "node": "0"})
    others = [
        Candidate(id=5 + i, content="y", spawned=(1 + i,), parents=(3,), notes=notes)
        for i, notes in enumerate(({"tree": "oak"}, {"tree": 7, "node": ["a"]}, {"tree": [1, {"leaf": 2}]}))
    ]
    found = search_tree([step, *others])
    assert [(node.kind, node.answers, node.above) for node in found] == [
        ("step", [0], None), ("answer", [1], 0), ("answer", [2], 0), ("answer", [3], 0),
    ]  # fmt: skip


def test_an_empty_search_is_drawn_as_such():
    empty = SearchDrawing(title="nothing", about={}, outcomes=[], nodes=[], hidden=[])
    assert "nothing" in svg([empty.cut(5)])
    assert "nothing" in mermaid([empty.cut(5)])
