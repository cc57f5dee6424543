"""Files that say to mistral.rs what to serve, as settings of ours: its TOML, and the JSON selector of older versions.

    {"embed-qwen3": {"Embedding": {"model_id": "Qwen/Qwen3-Embedding-0.6B", "arch": "qwen3embedding"}}}

What has a meaning here is taken, what would change the results and cannot be had is refused, and the rest (memory of
its own caches, its log) is named in a note.

Source: `mistralrs-server-core/src/mistralrs_for_server_builder.rs` and `mistralrs-cli/src/config.rs` of
https://github.com/EricLBuehler/mistral.rs.
"""

from collections.abc import Mapping
from typing import Any

from quernel.errors import SettingsError

OWN_KEYS = ("command", "default_model_id", "global", "runtime", "paged_attn")
"""Keys at the top of its TOML that are not ours."""

ARCHITECTURES = ("qwen3embedding", "qwen3_embedding", "qwen3-embedding")

KINDS = ("auto", "embedding")

DTYPES: Mapping[str, str] = {
    "auto": "auto",
    "f32": "float32",
    "float32": "float32",
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "f16": "float16",
    "float16": "float16",
}

IGNORED = "ignored, since it means nothing here"


def is_mistralrs(raw: Mapping[str, Any]) -> bool:
    """Whether the content of a file is one of mistral.rs's."""
    models = raw.get("models")
    tables = models if isinstance(models, list) else []
    return (
        _is_selector(raw)
        or any(key in raw for key in OWN_KEYS)
        or any(isinstance(table, dict) and "model_id" in table for table in tables)
    )


def translate_mistralrs(raw: Mapping[str, Any], *, place: str) -> tuple[dict[str, Any], list[str]]:
    """The same as one of our files, and a line for each thing that was passed over.

    Raises:
        SettingsError: Another kind of model, or an option that would change the results.
    """
    notes: list[str] = []
    if _is_selector(raw):
        return {"models": [_selected(name, entry, f"{place}, {name}", notes) for name, entry in raw.items()]}, notes
    command = raw.get("command", "serve")
    if command != "serve":
        raise SettingsError(f"{place}: command is {command!r}.", param="command", hint="Only 'serve' is offered.")
    settings: dict[str, Any] = {}
    server = dict(raw.get("server", {}))
    settings["server"] = {name: server.pop(name) for name in ("host", "port") if name in server}
    passed_over = {"server": server, **{key: raw[key] for key in OWN_KEYS[2:] if key in raw}}
    for section, table in passed_over.items():
        notes += [f"{place}: {section}.{key} is {IGNORED}." for key in table]
    models = [_table(dict(table), f"{place}, [[models]]", notes) for table in raw.get("models", [])]
    default = raw.get("default_model_id")
    if default is not None:
        if default not in [model["model"] for model in models]:
            raise SettingsError(
                f"{place}: default_model_id is {default!r}, which is none of the models.", param="default_model_id"
            )
        models.sort(key=lambda model: model["model"] != default)
    unknown = {key: value for key, value in raw.items() if key not in (*OWN_KEYS, "server", "models")}
    return {**unknown, **settings, "models": models}, notes


def _is_selector(raw: Mapping[str, Any]) -> bool:
    """Whether each value says what kind of model it is, in words that begin with a capital."""
    return bool(raw) and all(
        isinstance(entry, dict) and any(key[:1].isupper() and isinstance(entry[key], dict) for key in entry)
        for entry in raw.values()
    )


def _selected(name: str, entry: Mapping[str, Any], place: str, notes: list[str]) -> dict[str, Any]:
    (kind, *others) = [key for key in entry if key[:1].isupper()]
    if kind != "Embedding" or others:
        raise SettingsError(
            f"{place} is of kind {kind}.", param=name, hint="Only Embedding is offered, with Qwen3 models."
        )
    notes += [f"{place}: {key} is {IGNORED}." for key in entry if key not in (kind, "alias")]
    table = _table(dict(entry[kind]), place, notes)
    if entry.get("alias") is not None:
        table["name"] = entry["alias"]
    return table | {"aliases": [name]}


def _table(table: dict[str, Any], place: str, notes: list[str]) -> dict[str, Any]:
    """One model in our words."""
    model = table.pop("model_id", None)
    if not isinstance(model, str):
        raise SettingsError(f"{place}: model_id is {model!r}.", param="model_id", hint='Write model_id = "NAME".')
    kind = table.pop("kind", "auto")
    if kind not in KINDS:
        raise SettingsError(f"{place}: kind is {kind!r}.", param="kind", hint=f"One of {', '.join(KINDS)}.")
    arch = table.pop("arch", None)
    if arch is not None and str(arch).lower() not in ARCHITECTURES:
        raise SettingsError(f"{place}: arch is {arch!r}.", param="arch", hint="Only qwen3embedding is offered.")
    dtype = table.pop("dtype", "auto")
    if str(dtype).lower() not in DTYPES:
        raise SettingsError(f"{place}: dtype is {dtype!r}.", param="dtype", hint=f"One of {', '.join(DTYPES)}.")
    found: dict[str, Any] = {"model": model, "dtype": DTYPES[str(dtype).lower()]}
    if kind == "embedding":
        found["kind"] = kind
    device = dict(table.pop("device", {}))
    if device.pop("cpu", False):
        found["device"] = "cpu"
    for theirs, ours in (("hf_cache", "cache_dir"), ("max_seq_len", "max_tokens")):
        if theirs in device:
            found[ours] = device.pop(theirs)
    for name in ("tokenizer", "tokenizer_json"):
        if table.pop(name, None) is not None:
            raise SettingsError(
                f"{place}: {name} is set.", param=name, hint="A model is read with its own tokenizer; leave it out."
            )
    quantization = table.pop("quantization", {})
    if any(value is not None for value in quantization.values()):
        raise SettingsError(
            f"{place}: quantization is set.",
            param="quantization",
            hint="Write int8 weights once with `quernel quantize`, or name a GGUF file.",
        )
    notes += [f"{place}: {key} is {IGNORED}." for key in (*table, *(f"device.{key}" for key in device))]
    return found
