import logging
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from quernel.model.config import Qwen3Config
from quernel.model.cuda_check import fast_parts, verify_fast_path
from tests.model.test_cuda_attention import loop_kernel

CPU = torch.device("cpu")
CONFIG = Qwen3Config(
    vocab_size=50,
    hidden_size=96,
    intermediate_size=160,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=64,
)


def rms_norm(x, weight, eps):
    return F.rms_norm(x, weight.shape, weight, eps)


def norm_and_rotate(x, weight, cos, sin, eps):
    first, second = rms_norm(x, weight, eps).float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def silu_and_multiply(gate, up):
    return F.silu(gate) * up


RIGHT = {
    "varlen_attention": loop_kernel,
    "rms_norm": rms_norm,
    "norm_and_rotate": norm_and_rotate,
    "silu_and_multiply": silu_and_multiply,
}


def transposed_normaliser(query, key, value, call):
    output, normaliser = loop_kernel(query, key, value, call)
    return output, normaliser.flatten().view(normaliser.shape[::-1]).transpose(0, 1)


def never_causal(query, key, value, call):
    return loop_kernel(query, key, value, replace(call, causal=False))


def last_row_forgotten(query, key, value, call):
    output, normaliser = loop_kernel(query, key, value, call)
    return torch.cat((output[:-1], torch.full_like(output[-1:], float("nan")))), normaliser


def refused(*arguments):
    raise RuntimeError("no kernel image is available for execution on the device")


WRONG = [
    ("varlen_attention", transposed_normaliser),
    ("varlen_attention", never_causal),
    ("varlen_attention", last_row_forgotten),
    ("varlen_attention", refused),
    ("rms_norm", lambda x, weight, eps: rms_norm(x, torch.ones_like(weight), eps)),
    ("norm_and_rotate", lambda x, weight, cos, sin, eps: norm_and_rotate(x, weight, cos, -sin, eps)),
    ("norm_and_rotate", lambda x, weight, cos, sin, eps: norm_and_rotate(x, weight, cos, sin, eps)[:, :2]),
    ("silu_and_multiply", lambda gate, up: gate.sigmoid() * up),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_right_parts_may_all_be_used(dtype, caplog):
    assert verify_fast_path(CONFIG, CPU, dtype, RIGHT) == [*RIGHT]
    assert not caplog.records


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "part"), WRONG)
def test_a_wrong_part_is_named_and_left_out_alone(name, part, dtype, caplog):
    with caplog.at_level(logging.WARNING):
        assert verify_fast_path(CONFIG, CPU, dtype, RIGHT | {name: part}) == [other for other in RIGHT if other != name]
    (record,) = caplog.records
    assert record.getMessage().startswith(name)


def test_a_cpu_has_no_fast_parts():
    assert fast_parts(CONFIG, CPU, torch.bfloat16) == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_part_that_this_device_has_may_be_used(dtype):
    device = torch.device("cuda")
    parts = fast_parts(CONFIG, device, dtype)
    assert verify_fast_path(CONFIG, device, dtype, parts) == [*parts]
