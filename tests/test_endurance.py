"""benchmarks/endurance.py: that it finds nothing where nothing is, and something where something is."""

import random
import sys

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import endurance

if not hasattr(endurance.os, "fork"):
    pytest.skip("this system cannot fork", allow_module_level=True)


@pytest.fixture(scope="module")
def trial(data_file, tmp_path_factory):
    return endurance.Trial(data_file, tmp_path_factory.mktemp("runs"))


def test_kills_and_full_disks_change_nothing(trial):
    assert endurance.kills(trial, 2, random.Random(0)) == 0
    assert endurance.full_disks(trial, 2, random.Random(0)) == 0


def test_a_run_that_is_another_one_is_found(trial, monkeypatch):
    monkeypatch.setattr(endurance, "FLAGS", [*endurance.FLAGS, "--seed", "1"])
    assert not trial.is_exact(trial.new_folder())


def test_a_full_disk_that_nobody_tells_is_found(trial, monkeypatch):
    monkeypatch.setattr(trial, "writes", 10**6)
    assert endurance.full_disks(trial, 1, random.Random(1)) == 1


@pytest.mark.parametrize(
    ("sizes", "growth"), [([300, 310, 309, 312] + [311] * 36, -1), ([300.0] * 20 + [340] * 20, 40)]
)
def test_growth_counts_after_the_first_tenth(sizes, growth):
    assert endurance.growth_of(sizes) == growth


def test_texts_are_written():
    assert len(endurance.write_texts(2)) == 2
