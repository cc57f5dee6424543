"""Deeper models that begin as the same function: new layers that add nothing until they are trained.

New layers go below the last one, which keeps its job of pooling at the end token. A decoder layer adds to the residual
stream what `o_proj` and `down_proj` write; with both zero it is the identity, exactly. A table of unit vectors is small
beside what a layer soon writes, and a few steps would drown it; so the stream is made larger first, by a power of two
and in all that writes to it. Norms take that out again, but for their eps.

Source: "Net2Net" (arXiv 1511.05641), section 2.4, for the idea; zero-initialised residual branches as
in arXiv 2003.04887.
"""

import math
from dataclasses import replace

import torch

from quernel.model.layers import DecoderLayer
from quernel.model.qwen3 import Qwen3


@torch.no_grad()
def insert_layers(model: Qwen3, num_layers: int, *, seed: int) -> Qwen3:
    """A copy of `model` with `num_layers` identity layers below its last layer; it computes what `model` computes.

    Made for tables of unit vectors, whose coordinates become about 1.

    Their other projections are random at the usual scale, so that the two zero ones receive gradients at once.
    """
    config = replace(model.config, num_hidden_layers=model.config.num_hidden_layers + num_layers)
    grown = Qwen3(config)
    generator = torch.Generator().manual_seed(seed)
    first = model.config.num_hidden_layers - 1
    for index in range(first, first + num_layers):
        for name, parameter in grown.layers[index].named_parameters():
            if "norm" in name:
                continue
            if "o_proj" in name or "down_proj" in name:
                parameter.zero_()
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * config.hidden_size**-0.5)
    old = model.state_dict()
    moved = {
        name.replace(f"layers.{first}.", f"layers.{first + num_layers}."): tensor
        for name, tensor in old.items()
        if name.startswith(f"layers.{first}.")
    }
    kept = {name: tensor for name, tensor in old.items() if not name.startswith(f"layers.{first}.")}
    grown.load_state_dict({**grown.state_dict(), **kept, **moved})
    pooling = grown.layers[-1]
    assert isinstance(pooling, DecoderLayer)
    for weight in (grown.embed_tokens.weight, pooling.self_attn.o_proj.weight, pooling.mlp.down_proj.weight):
        weight.mul_(2.0 ** round(math.log2(config.hidden_size) / 2))
    return grown
