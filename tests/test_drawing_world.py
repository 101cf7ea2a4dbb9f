"""The drawing world itself: what is painted is what is measured."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as some

from tests.support.painter import STRESS, Painter
from tests.support.scenes import any_scene, measured, painted, things


@settings(max_examples=60, deadline=None)
@given(some.integers(0, 10_000), some.integers(1, 9))
def test_what_is_painted_is_what_is_measured_from_the_pixels(seed: int, size: int):
    rng = np.random.default_rng(seed)
    scene = any_scene(rng, size)
    assert things(f"Draw {', '.join(map(str, scene))}.") == scene
    assert sorted(measured(painted(scene, rng))) == sorted(scene)


def test_late_things_are_forgotten_unless_they_are_stressed():
    painter, scene = Painter(fade=0.6), any_scene(np.random.default_rng(0), 6)
    prompt = f"Draw {', '.join(map(str, scene))}."
    stress = f"{STRESS}{scene[4]} and {scene[5]}. {prompt}"
    shares = {words: [0] * 6 for words in (prompt, stress)}
    for words, share in shares.items():
        for seed in range(100):
            there = measured(painter.paint(words, seed))
            for i, thing in enumerate(scene):
                share[i] += thing in there
    assert shares[prompt][0] == 100
    assert shares[prompt][5] < 20
    assert min(shares[stress][4:]) > 85
