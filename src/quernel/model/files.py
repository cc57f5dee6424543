"""Where a model is: a folder, a GGUF file, a built-in folder, or the hub's cache. It opens no file of the model."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from quernel.errors import DownloadError, ModelLoadError, SettingsError, UnsupportedModelError

BUILTIN = {
    name: f"quernel/{folder}"
    for folder in ("tiny-embedding", "tiny-reranker")
    for name in (folder, f"quernel/{folder}")
}
"""What the models inside the package may be called, and the name that each goes by."""

SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
    "modules.json",
    "[0-9]_*/config.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
)
"""The files of a hub repository that say what the model is. They are fetched first."""

WEIGHT_FILES = ("*.safetensors",)
"""Those that take long."""

LEFT_OUT = ("*/*.safetensors",)
"""Those that `WEIGHT_FILES` would match (a `*` there crosses folders), but that are weights of something else."""

GGUF_SUFFIX = ".gguf"

HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>\S+))?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A model's files on this machine.

    Attributes:
        folder: Where they are.
        name: What the model is called: the hub id, the built-in name, or the folder or file as it was given.
        revision: The commit of the files, if they are the hub's.
        file: The one in the folder that is all of the model, where it is a GGUF file.
    """

    folder: Path
    name: str
    revision: str | None
    file: Path | None = None

    @property
    def source(self) -> Path:
        """What the model is read from: a folder, or a GGUF file."""
        return self.file or self.folder


def locate(
    model: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    offline: bool = False,
    check: Callable[[Path], object] = lambda folder: None,
) -> ModelFiles:
    """The files of `model`, downloaded first if need be.

    A built-in name means the built-in model even where a folder has that name (write `./tiny-embedding` for the
    folder), so that the default does not depend on the working directory. Otherwise a folder comes before the hub.

    Args:
        model: A folder, a GGUF file, a built-in name, or a hub id, `owner/name` or `owner/name@revision`.
        revision: Branch, tag or commit on the hub.
        cache_dir: Where the hub's files are kept; by default where `huggingface_hub` keeps them.
        token: Access token of the hub; by default the one that `huggingface_hub` finds.
        offline: Take the hub's files from the cache, and do not ask the network.
        check: Called with the folder when the hub's small files are in it, before the weights are fetched; what it
            raises saves the download of a model that cannot be used.

    Raises:
        DownloadError: The hub could not give the files, or they are not in the cache.
        UnsupportedModelError: A single file was named that is no GGUF file.
        ModelLoadError: `model` is neither a folder, a GGUF file nor a possible hub id.
        SettingsError: Two different revisions were asked for.
    """
    name = str(model)
    if name in BUILTIN:
        return _builtin(BUILTIN[name])
    path = Path(model).expanduser()
    if name and path.is_dir():  # the path of an empty name is the working directory
        _refuse_folder_of_gguf(path)
        return ModelFiles(folder=path, name=path.resolve().name if isinstance(model, Path) else name, revision=None)
    if path.suffix == GGUF_SUFFIX:
        if not path.is_file():
            raise ModelLoadError(
                f"There is no file {name!r}.",
                param="model",
                hint="Download it first, as with `hf download OWNER/NAME FILE.gguf`.",
            )
        shown = path.name if isinstance(model, Path) else name
        return ModelFiles(folder=path.parent, name=shown, revision=None, file=path)
    if path.is_file():
        raise UnsupportedModelError(
            f"{name} is a file, not a model's folder.", param="model", hint=f"Use its folder: {path.parent}."
        )
    parsed = HUB_ID.fullmatch(name)
    if isinstance(model, Path) or parsed is None or name.startswith("."):
        raise ModelLoadError(
            f"There is no folder {name!r}, and it is no hub id.",
            param="model",
            hint=f"Use an existing folder, a hub id such as 'Qwen/Qwen3-Embedding-0.6B', or {_builtin_names()}.",
        )
    if revision is not None and parsed["revision"] not in (None, revision):
        raise SettingsError(
            f"model asks for revision {parsed['revision']!r} and revision for {revision!r}.",
            param="revision",
            hint="Give it once.",
        )
    return _from_hub(
        parsed["id"], revision or parsed["revision"], cache_dir=cache_dir, token=token, offline=offline, check=check
    )


def _refuse_folder_of_gguf(folder: Path) -> None:
    found = sorted(file.name for file in folder.glob(f"*{GGUF_SUFFIX}"))
    if found and not (folder / "config.json").exists():
        raise ModelLoadError(
            f"{folder} holds GGUF files ({', '.join(found)}), each of which is a model.",
            param="model",
            hint=f"Name the file: {folder / found[0]}.",
        )


def _builtin(name: str) -> ModelFiles:
    folder = Path(str(resources.files("quernel"))) / "builtin" / name.removeprefix("quernel/")
    if not (folder / "config.json").is_file():
        raise ModelLoadError(
            f"The built-in model {name} is not in this installation.", param="model", hint="Install quernel again."
        )
    return ModelFiles(folder=folder, name=name, revision=None)


def _builtin_names() -> str:
    return " or ".join(map(repr, dict.fromkeys(BUILTIN.values())))


def _from_hub(
    hub_id: str,
    revision: str | None,
    *,
    cache_dir: str | Path | None,
    token: str | None,
    offline: bool,
    check: Callable[[Path], object],
) -> ModelFiles:
    """The hub's files; from the cache where the network is down or not wanted. Translates the hub's errors."""
    import huggingface_hub as hub  # here, because it takes a quarter of a second that `--help` does not have
    from huggingface_hub import errors as hub_errors

    wanted = hub_id if revision is None else f"{hub_id}@{revision}"

    def fetch(patterns: tuple[str, ...], revision: str | None) -> Path:
        return Path(
            hub.snapshot_download(
                hub_id,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=offline,
                allow_patterns=list(patterns),
                ignore_patterns=list(LEFT_OUT),
            )
        )

    try:
        folder = fetch(SMALL_FILES, revision)
        check(folder)
        fetch(WEIGHT_FILES, folder.name)  # by the commit, which a push in between cannot change
    except ModelLoadError:
        raise
    except hub_errors.GatedRepoError as error:
        raise DownloadError(
            f"The hub does not give {wanted} to everyone.",
            param="model",
            hint="Accept its terms on its page, then give a token (`hf auth login`, HF_TOKEN or the token setting).",
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise DownloadError(
            f"{hub_id} has no revision {revision!r}.",
            param="revision",
            hint="Use a branch, tag or commit of its page, or leave it out.",
        ) from error
    except hub_errors.RepositoryNotFoundError as error:
        raise DownloadError(
            f"The hub has no model {hub_id!r}, or does not show it to you.",
            param="model",
            hint="Check the spelling; for a private model give a token (`hf auth login` or HF_TOKEN); "
            "there is no folder of that name either.",
        ) from error
    except hub_errors.HFValidationError as error:
        raise ModelLoadError(f"{hub_id!r} is no hub id: {error}", param="model") from error
    except hub_errors.LocalEntryNotFoundError as error:
        reason = "and the network is not to be used" if offline else "and the hub cannot be reached"
        raise DownloadError(
            f"{wanted} is not (completely) in the cache {reason}.",
            param="model",
            hint="Download it once with a network, or point to the cache or a folder that has it.",
        ) from error
    except hub_errors.HfHubHTTPError as error:
        raise DownloadError(f"The hub refused {wanted}: {error}", param="model", hint="Try again later.") from error
    except Exception as error:  # what the HTTP library raises differs between versions of huggingface_hub
        raise DownloadError(
            f"{wanted} could not be downloaded: {type(error).__name__}: {error}.",
            param="model",
            hint="Check network, proxy and disk space; with the files in the cache, set offline.",
        ) from error
    return ModelFiles(folder=folder, name=hub_id, revision=folder.name)
