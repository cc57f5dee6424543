"""`benchmarks/gpu.py` runs from end to end on a toy, so that time on a GPU is not spent on finding that it does not."""

import re
import runpy
from pathlib import Path

import pytest
import torch

MAIN = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "gpu.py"))["main"]


def test_the_toy_runs_and_agrees_with_float32_and_sentence_transformers(capsys):
    MAIN(["--device", "cpu", "--tiny", "--layers", "2", "--repetitions", "1", "--compare"])
    out = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("| W")]
    assert len(rows) == 5
    assert all(float(row[3].replace(",", "")) > 0 and float(row[6]) > 0 for row in rows)
    cosines = [float(cosine) for cosine in re.findall(r"([\d.]+) to (?:float32|sentence)", out)]
    assert len(cosines) == 6
    assert min(cosines) > 0.999


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so():
    with pytest.raises(SystemExit, match="no CUDA device"):
        MAIN([])
