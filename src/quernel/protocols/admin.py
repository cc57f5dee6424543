"""Loading and unloading models while the server runs: `/v1/models/load`, and mistral.rs's `/unload /reload /status`.

mistral.rs names the model in `model_id`; `model` is taken too. `/v1/models/load` takes the keys of a `[[models]]` table
of the settings file, as JSON.

Source: `mistralrs-server-core/src/models.rs` of https://github.com/EricLBuehler/mistral.rs.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from quernel.errors import InvalidRequestError
from quernel.protocols.body import decode_request_body, encode_body
from quernel.protocols.fields import decode_alias
from quernel.protocols.openai import ListedModel, ModelStatus


class LoadBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A model to load, as a `[[models]]` table of the settings file says it."""

    model: Annotated[
        str | None, Meta(description="Hub id, folder, file or built-in name.", examples=["Qwen/Qwen3-Embedding-0.6B"])
    ] = None
    model_id: Annotated[str | None, Meta(description="Another name of `model`.")] = None
    kind: Annotated[str | None, Meta(description="`embedding` or `reranker`, where its files do not say.")] = None
    name: Annotated[str | None, Meta(description="The name to serve it under; by default its own.")] = None
    aliases: Annotated[list[str] | None, Meta(description="More names.")] = None
    instruction: Annotated[str | None, Meta(description="Before queries, instead of the model's own default.")] = None
    prompt_name: Annotated[str | None, Meta(description="The prompt of texts of which nothing is said.")] = None
    dimensions: Annotated[int | None, Meta(description="Length of the vectors where a request does not say.")] = None
    device: Annotated[str | None, Meta(description="Where to compute.")] = None
    dtype: Annotated[str | None, Meta(description="Type to compute in.")] = None
    max_tokens: Annotated[int | None, Meta(description="Longest input in tokens.")] = None
    revision: Annotated[str | None, Meta(description="Branch, tag or commit on the hub.")] = None
    offline: Annotated[bool | None, Meta(description="Never ask the hub.")] = None


class ModelBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A model of this server."""

    model_id: Annotated[
        str | None, Meta(description="A name of `/v1/models`.", examples=["quernel/tiny-embedding"])
    ] = None
    model: Annotated[str | None, Meta(description="Another name of `model_id`.")] = None


class ModelStatusReply(Struct, kw_only=True):
    """Whether a model takes requests."""

    model_id: str
    status: ModelStatus
    error: str | None = None


def decode_load_request(body: bytes) -> Mapping[str, Any]:
    """The keys that a client gives, as a table.

    Raises:
        InvalidRequestError: Not JSON, an unknown field, a wrong type, no model.
    """
    wire = decode_request_body(body, LoadBody)
    table = {name: value for name, value in msgspec.structs.asdict(wire).items() if value is not None}
    table["model"] = _name(model=wire.model, model_id=wire.model_id)
    table.pop("model_id", None)
    return table


def decode_model_request(body: bytes) -> str:
    """The name of the model that a client means.

    Raises:
        InvalidRequestError: Not JSON, an unknown field, a wrong type, no model.
    """
    wire = decode_request_body(body, ModelBody)
    return _name(model_id=wire.model_id, model=wire.model)


def _name(**spellings: str | None) -> str:
    name = decode_alias(**spellings)
    if not name:
        field = next(iter(spellings))
        raise InvalidRequestError(f"{field} is missing.", param=field)
    return name


def encode_status(model: ListedModel) -> bytes:
    """The reply that says whether a model takes requests."""
    return encode_body(ModelStatusReply(model_id=model.name, status=model.status, error=model.error))
