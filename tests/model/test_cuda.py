"""The CUDA fast path put together on a CPU: plain functions for its kernels, and recordings that call again."""

import logging

import pytest
import torch

from quernel.engine.runner import ModelRunner
from quernel.model.config import Qwen3Config
from quernel.model.cuda import enable_fast_path, use_parts
from quernel.model.cuda_check import graphs_agree
from quernel.model.cuda_graphs import GraphedForward
from quernel.model.weights import load_model
from tests.model.test_cuda_attention import loop_kernel
from tests.model.test_cuda_check import RIGHT
from tests.support.checkpoints import make_checkpoint

CPU = torch.device("cpu")
INSTRUCTION = tuple(range(30, 42))
PATHS = [(INSTRUCTION, (1, 2, 3)), (INSTRUCTION, (4,)), ((7, 8, 9, 10, 11),), (INSTRUCTION, (1, 2, 3))]


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setattr("quernel.model.cuda_attention.flash_kernel", loop_kernel)
    folder = make_checkpoint(tmp_path / "model")
    return load_model(folder, Qwen3Config.load(folder), dtype=torch.float32, device=CPU)


@pytest.fixture
def expected(model):
    return ModelRunner(model).run(PATHS)


def close(ours, theirs):
    return abs(ours - theirs).max() < 1e-5


def test_a_model_computes_the_same_by_all_parts(model, expected):
    runs = []

    def counted(name):
        def part(*arguments):
            runs.append(name)
            return RIGHT[name](*arguments)

        return part

    use_parts(model, {name: counted(name) for name in RIGHT})
    assert close(ModelRunner(model).run(PATHS), expected)
    assert {"rms_norm", "norm_and_rotate", "silu_and_multiply"} == set(runs)
    assert model.has_varlen_kernel
    cached = ModelRunner(model, prefix_cache_bytes=1 << 20)
    assert close(cached.run(PATHS), expected)
    assert close(cached.run(PATHS), expected)
    assert cached.statistics.num_prefix_hits


def test_a_few_short_prompts_go_by_a_recording(model, expected):
    use_parts(model, RIGHT)
    graphs = GraphedForward(model.texts, device=CPU, capture=lambda run: run)
    runner = ModelRunner(model, graphs=graphs)
    assert close(runner.run(PATHS), expected)
    assert runner.statistics.num_tokens == sum(len(run) for path in PATHS for run in path)
    many = PATHS * 20
    assert graphs.bucket([sum(map(len, path)) for path in many]) is None
    assert close(runner.run(many)[:4], expected)


def test_recordings_are_checked_against_the_model(model, caplog):
    use_parts(model, RIGHT)
    assert graphs_agree(GraphedForward(model.texts, device=CPU, capture=lambda run: run), model)

    def record_once(run):
        output = run()
        return lambda: output

    with caplog.at_level(logging.WARNING):
        assert not graphs_agree(GraphedForward(model.texts, device=CPU, capture=record_once), model)
    assert "wrong" in caplog.text


def test_on_a_cpu_nothing_is_turned_on(model):
    assert enable_fast_path(model) is None
    assert not model.has_varlen_kernel
