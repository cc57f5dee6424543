"""What loading costs in memory, read from the kernel in a fresh process. Linux only."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.checkpoints import make_checkpoint

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc/self/status")

MIB = 2**20

MEASURE = """
import json, re, sys
from pathlib import Path
import torch
from quernel.model.config import Qwen3Config
from quernel.model.heads import load_score_row
from quernel.model.weights import load_model

folder, what = Path(sys.argv[1]), sys.argv[2]

def memory():
    status = Path("/proc/self/status").read_text()
    names = ("RssAnon", "RssFile", "VmHWM")
    return {name: int(re.search(rf"{name}:\\s+(\\d+) kB", status)[1]) * 1024 for name in names}

def reset_peak():
    Path("/proc/self/clear_refs").write_text("5")

config = Qwen3Config.load(folder)
load_model(Path(sys.argv[3]), Qwen3Config.load(Path(sys.argv[3])), dtype=torch.float32, device=torch.device("cpu"))
reset_peak()
before = memory()
if what == "row":
    row = load_score_row(folder, config, 3, 150_000)
    assert row.tolist() == [-2.0] * config.hidden_size
else:
    model = load_model(folder, config, dtype=getattr(torch, what), device=torch.device("cpu"))
after = memory()
print(json.dumps({
    "anonymous": after["RssAnon"] - before["RssAnon"],
    "peak": after["VmHWM"] - before["RssAnon"] - before["RssFile"],
}))
"""


def measure(folder, what, warm_up):
    """Bytes that loading takes: anonymous memory that remains, and the peak of all resident memory."""
    command = [sys.executable, "-c", MEASURE, str(folder), what, str(warm_up)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Loaded first, so that what torch allocates once is not counted."""
    return make_checkpoint(tmp_path_factory.mktemp("small") / "model", layers=1)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Half a dozen shards in bfloat16: 38 MiB, and 77 MiB in float32."""
    folder = tmp_path_factory.mktemp("large") / "model"
    return make_checkpoint(folder, dtype=torch.bfloat16, vocab=20_000, hidden_size=512, mlp=1536, layers=4, shards=6)


def test_weights_in_their_stored_type_stay_in_the_memory_map(large, small):
    used = measure(large, "bfloat16", small)
    print(f"anonymous {used['anonymous'] / MIB:.1f} MiB")
    assert used["anonymous"] < 3 * MIB


def test_converting_weights_does_not_hold_them_twice(large, small):
    stored = sum(file.stat().st_size for file in large.glob("*.safetensors"))
    largest = max(file.stat().st_size for file in large.glob("*.safetensors"))
    used = measure(large, "float32", small)
    print(f"stored {stored / MIB:.1f} MiB, largest shard {largest / MIB:.1f} MiB, peak {used['peak'] / MIB:.1f} MiB")
    assert used["peak"] < 2 * stored + largest + 3 * MIB


def test_of_a_large_head_only_two_rows_are_read(tmp_path, small):
    """A head of the size of Reranker-8B's, 1.2 GB, in a shard of its own; a sparse file, so that it costs no disk."""
    folder = make_checkpoint(tmp_path / "model", kind="reranker", tied=False, shards=2, layers=1)
    rows, columns = 151_669, 4096
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": rows, "hidden_size": columns}
    (folder / "config.json").write_text(json.dumps(config))
    num_bytes = rows * columns * 2
    header = {"lm_head.weight": {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [0, num_bytes]}}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    start = 8 + len(encoded)
    with (folder / "model-00002-of-00002.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(start + num_bytes)
        for row, value in ((3, 1.0), (150_000, 3.0)):
            file.seek(start + row * columns * 2)
            file.write(bytes(torch.full((columns,), value, dtype=torch.bfloat16).view(torch.uint8).tolist()))
    used = measure(folder, "row", small)
    print(f"peak {used['peak'] / MIB:.2f} MiB of {num_bytes / MIB:.0f}")
    assert used["peak"] < 4 * MIB
