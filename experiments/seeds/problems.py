"""Problems for a small instruct model: labels without a meaning, facts of towns that do not exist, odd ones out.

python -m experiments.seeds.problems FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from random import Random

ANIMALS, THINGS, SYLLABLES, BUILDINGS = (
    line.split()
    for line in (
        """otter badger heron falcon lizard salmon beetle donkey rabbit squirrel panther giraffe walrus pigeon sparrow
        turtle weasel hamster leopard dolphin ostrich lobster spider camel zebra monkey tiger whale goose parrot ferret
        moose hyena jackal lemur mole newt owl pelican quail raven shrew swan toad trout vulture wasp wolf yak seal""",
        """hammer ladder kettle bucket needle wrench shovel candle pillow carpet mirror basket bottle pencil hinge
        anchor trumpet lantern scissors blanket compass drawer faucet goblet helmet jacket keyboard magnet notebook oven
        paddle quilt ruler saddle teapot umbrella violin wallet zipper axe broom chisel dagger easel funnel gavel hook
        iron jar kite""",
        "dol va ne mar tis ho ren ka lu bri sto fel gan ody pra wen zil tho",
        "lighthouse bridge school mill",
    )
)
ASK = "End with a line of the form\nAnswer: x"


def labels(rng: Random) -> Iterable[tuple[str, dict[str, str]]]:
    """Words with labels that only examples explain: 40 to show, 60 to ask."""
    words = [(word, "dax") for word in ANIMALS] + [(word, "wug") for word in THINGS]
    for i, (word, label) in enumerate(rng.sample(words, 100)):
        prompt = f"Label this word: {word}\n{ASK}"
        yield ("labels_train" if i < 40 else "labels"), {"prompt": prompt, "answer": label}


def facts(rng: Random) -> Iterable[tuple[str, dict[str, str]]]:
    """When buildings of 60 towns were built, as passages, and a question about each town."""
    towns: set[str] = set()
    while len(towns) < 60:
        towns.add("".join(rng.sample(SYLLABLES, 3)).title())
    for town in sorted(towns):
        years = {building: str(rng.randint(1500, 1990)) for building in BUILDINGS}
        for building, year in years.items():
            yield "corpus", {"text": f"The {building} of {town} was built in {year}."}
        building = rng.choice(BUILDINGS)
        prompt = f"In which year was the {building} of {town} built? {ASK}"
        yield "facts", {"prompt": prompt, "answer": years[building]}


def odd_ones(rng: Random) -> Iterable[tuple[str, dict[str, str]]]:
    """Three of a kind and one of another."""
    for i in range(100):
        many, few = (ANIMALS, THINGS) if i % 2 else (THINGS, ANIMALS)
        place, words = rng.randrange(4), rng.sample(many, 4)
        words[place] = rng.choice(few)
        options = "\n".join(f"({letter}) {word}" for letter, word in zip("ABCD", words, strict=True))
        prompt = f"Which of these words does not belong with the others?\n\n{options}\n\n{ASK}, the letter alone."
        yield "odd", {"prompt": prompt, "answer": "ABCD"[place]}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {}
    for kind in (labels, facts, odd_ones):
        for name, record in kind(Random(kind.__name__)):
            lines.setdefault(name, []).append(json.dumps(record) + "\n")
    for name, found in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(found))


if __name__ == "__main__":
    main()
