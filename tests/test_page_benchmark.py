"""benchmarks/page.py: that it measures what it says."""

import re
import sys

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import page
from handwriting.program import ResultError


def test_a_page_and_a_data_set_are_written_and_the_stages_are_the_whole(capsys):
    page.main(["--quick"])
    rows = dict(re.findall(r"^\| (.*?) \| ([\d.]+)", capsys.readouterr().out, flags=re.MULTILINE))
    seconds = {name: float(number) for name, number in rows.items()}
    whole = seconds.pop("the same with the network in memory")
    stages = [number for name, number in seconds.items() if name.startswith("of that")]
    assert len(stages) == 4 and sum(stages) == pytest.approx(whole, abs=0.1)
    assert [name for name in seconds if "a data set of 3 lines" in name and " GB" in name]


def test_a_command_that_fails_is_no_figure(tmp_path):
    with pytest.raises(ResultError, match=r"status 2.*no text"):
        page.run_generate(tmp_path, "--output", "a.pdf")
