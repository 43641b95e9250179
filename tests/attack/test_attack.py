"""Attack suite: hostile inputs, damage, kills, races and full disks, and how every command takes them.

    scripts/attack [--seed N] [--size X]

A case must end with the correct result, or exit code 2 and one line, within 30 seconds and 2 GB, and without a file
outside its output. harness.py runs and judges cases; the other modules are families of them, whose random ones are
drawn from a seed. The table at the end counts the cases of each family. A failed test lists its violations, each
with a command that repeats it.
"""

import pytest

from attack import disk, documents, flips, kills, names, options, pictures, races, videos, weights
from attack.harness import Attack

pytestmark = pytest.mark.slow


def test_pictures(attack: Attack) -> None:
    attack.run(pictures.cases(attack.material, attack.runner, attack.random, attack.count(10)))
    attack.conclude()


def test_weights(attack: Attack) -> None:
    attack.run(weights.cases(attack.material, attack.runner, attack.random, attack.count(10)))
    attack.conclude()


def test_yaml(attack: Attack) -> None:
    attack.run(documents.yaml_cases(attack.material, attack.random, attack.count(10)))
    attack.conclude()


def test_json(attack: Attack) -> None:
    attack.run(documents.json_cases(attack.material, attack.random, attack.count(10)))
    attack.conclude()


def test_options(attack: Attack) -> None:
    attack.run(options.cases(attack.material))
    attack.conclude()


def test_names(attack: Attack) -> None:
    attack.run(names.cases(attack.material, attack.random))
    attack.conclude()


def test_videos(attack: Attack) -> None:
    attack.run(videos.cases(attack.material, attack.runner, attack.random, attack.count(10)))
    attack.conclude()


def test_flips(attack: Attack) -> None:
    attack.run(flips.cases(attack.material, attack.runner, attack.random, attack.count(3)))
    attack.conclude()


def test_kills(attack: Attack) -> None:
    kills.run(attack, attack.count(6))
    attack.conclude()


def test_races(attack: Attack) -> None:
    races.run(attack, attack.count(4))
    attack.conclude()


def test_disk(attack: Attack) -> None:
    attack.run(disk.cases(attack.material, attack.runner, attack.random, attack.count(4)))
    attack.conclude()
