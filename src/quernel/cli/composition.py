"""Where models are opened: from what was asked for on the command line to an `Embedder` or a `Reranker`.

Torch is imported here, inside the functions, when a model is really wanted.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_type_hints

from quernel.cli.settings import FieldType
from quernel.engine.config import EngineConfig
from quernel.errors import SettingsError
from quernel.settings import check_keys, declared_settings, setting

if TYPE_CHECKING:
    from quernel.embedder import Embedder
    from quernel.engine.process import EngineProcess
    from quernel.reranker import Reranker
    from quernel.server.models import ModelSpec

KINDS = ("embedding", "reranker")
"""The values of `quernel.types.ModelKind`, spelled here so that `--help` need not import it (and with it numpy)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """How models are found and loaded."""

    device: str = setting("auto", "Where to compute: auto, cpu, cuda, cuda:1, ...")
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = setting(
        "auto",
        "Type to compute in. auto takes what the device computes well; float32 is the most exact, int8 is for CPUs "
        "with VNNI.",
    )
    max_tokens: int | None = setting(
        None, "Longest input in tokens; less than the model's own bounds the memory of one text."
    )
    revision: str | None = setting(None, "Branch, tag or commit of a model on the hub; pin it to repeat results.")
    cache_dir: str | None = setting(None, "Folder of downloaded models; by default that of huggingface_hub.")
    token: str | None = setting(
        None, "Access token of the hub, for private models. A variable keeps it out of the list of processes."
    )
    offline: bool = setting(False, "Use only what is on this machine; never ask the hub.")


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """One model that was asked for.

    Attributes:
        model: Hub id, folder or built-in name; `None` for the built-in model of the kind.
        kind: `embedding` or `reranker`; `None` to find out from the files.
        load: How to load it.
    """

    model: str | None
    kind: str | None = None
    load: LoadSettings = field(default_factory=LoadSettings)

    @classmethod
    def parse(cls, text: str, load: LoadSettings) -> "ModelChoice":
        """A choice from `MODEL`, `embedding=MODEL` or `reranker=MODEL`."""
        kind, _, model = text.partition("=")
        return cls(model, kind, load) if kind in KINDS else cls(text, None, load)

    @classmethod
    def of(cls, spec: "ModelSpec", load: LoadSettings) -> "ModelChoice":
        """The choice that a model to serve is, with whatever of `[load]` differs for it.

        Raises:
            SettingsError: An unknown option, or a wrong value.
        """
        from quernel.server.specs import SPEC_KEYS

        annotations = get_type_hints(LoadSettings)
        own = [declared.name for declared in declared_settings(LoadSettings)]
        check_keys(spec.options, (*SPEC_KEYS, *own), place=spec.label)
        changes = {
            name: FieldType.of(annotations[name]).from_file(value, f"{spec.label} {name}")
            for name, value in spec.options.items()
        }
        return cls(spec.source, None if spec.kind is None else spec.kind.value, replace(load, **changes))


def open_embedder(
    model: str | None, load: LoadSettings, engine: EngineConfig, process: "EngineProcess | None" = None
) -> "Embedder":
    """The embedding model, loaded; the built-in one where `model` is `None`.

    Raises:
        ModelLoadError: It cannot be found, read or used.
    """
    from quernel.embedder import Embedder

    return Embedder(model, engine=engine, process=process, **asdict(load))


def open_reranker(
    model: str | None, load: LoadSettings, engine: EngineConfig, process: "EngineProcess | None" = None
) -> "Reranker":
    """The reranker, loaded; the built-in one where `model` is `None`.

    Raises:
        ModelLoadError: It cannot be found, read or used.
    """
    from quernel.reranker import Reranker

    return Reranker(model, engine=engine, process=process, **asdict(load))


def open_model(
    choice: ModelChoice, engine: EngineConfig, process: "EngineProcess | None" = None
) -> "Embedder | Reranker":
    """The model of a choice, as what it is; computed in that process, or in this one.

    Raises:
        ModelLoadError: It cannot be found, read or used.
        SettingsError: Its files do not say whether it embeds or reranks, and neither does the choice.
    """
    kind = choice.kind or find_kind(choice)
    open_kind: Callable[..., Embedder | Reranker] = open_reranker if kind == "reranker" else open_embedder
    return open_kind(choice.model, choice.load, engine, process)


def find_kind(choice: ModelChoice) -> str:
    """Whether a model embeds or reranks, as its files say.

    Raises:
        ModelLoadError: The files cannot be found or read.
        SettingsError: They do not say.
    """
    from quernel.model.config import Qwen3Config
    from quernel.model.files import locate
    from quernel.model.gguf import load_raw_config
    from quernel.model.side_files import load_side_files

    assert choice.model is not None, "a built-in model is chosen by its kind"
    load = choice.load
    files = locate(
        choice.model, revision=load.revision, cache_dir=load.cache_dir, token=load.token, offline=load.offline
    )
    raw = load_raw_config(files.source)
    kind = load_side_files(files.source, Qwen3Config.from_dict(raw), raw).kind
    if kind is None:
        raise SettingsError(
            f"The files of {choice.model} do not say whether it is an embedding model or a reranker.",
            param="model",
            hint=f"Say it: -m embedding={choice.model} or -m reranker={choice.model}.",
        )
    return kind.value
