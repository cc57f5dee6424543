import pytest
import torch

from quernel.errors import SettingsError
from quernel.model.dtypes import resolve_device, resolve_dtype

CPU = torch.device("cpu")


@pytest.fixture
def capabilities(monkeypatch):
    present: dict[str, bool] = {}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: present)
    return present


def test_auto_is_the_cpu_where_there_is_no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    assert resolve_device("cpu") == CPU
    assert resolve_device("cpu:0") == CPU


@pytest.mark.parametrize("device", ["", "gpu", "cpu:x", "cuda:99", "xla", "meta"])
def test_a_device_that_is_not_here_is_refused(device):
    with pytest.raises(SettingsError) as caught:
        resolve_device(device)
    assert caught.value.param == "device"


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, None])
def test_a_named_type_is_obeyed(stored):
    for name in ("float32", "bfloat16", "float16"):
        assert str(resolve_dtype(name, CPU, stored)) == f"torch.{name}"


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16", "bf16"])
def test_auto_takes_bfloat16_for_half_files_where_the_processor_computes_it(capabilities, stored, feature):
    assert resolve_dtype("auto", CPU, stored) is torch.float32
    capabilities[feature] = True
    assert resolve_dtype("auto", CPU, stored) is torch.bfloat16


@pytest.mark.parametrize("stored", [torch.float32, None])
def test_auto_leaves_float32_files_exact(capabilities, stored):
    capabilities["avx512_bf16"] = True
    assert resolve_dtype("auto", CPU, stored) is torch.float32


@pytest.mark.parametrize("dtype", ["", "fp16", "float64", "int4"])
def test_an_unknown_type_is_refused(dtype):
    with pytest.raises(SettingsError, match="bfloat16"):
        resolve_dtype(dtype, CPU, None)
