"""The reference: transformers, run as the model cards show, one text at a time and without padding.

It shares nothing with Quernel but the strings of the prompts: the tokenizer, the network and the reading of the result
are those of transformers. It is slow, and meant to be.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from quernel.errors import SettingsError
from quernel.prompts.templates import ANSWERS, CARD_TEMPLATE
from quernel.prompts.tokenizer import END_TOKEN
from quernel.types import Vectors


def require_transformers() -> ModuleType:
    """The transformers library.

    Raises:
        SettingsError: It is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise SettingsError(
            "The reference is transformers, which is not installed.",
            param="transformers",
            hint='pip install "quernel[verify]"',
        ) from error
    return transformers


def reference_name() -> str:
    """What the reference is, with its version.

    Raises:
        SettingsError: It is not installed.
    """
    return f"transformers {require_transformers().__version__}"


def reference_vectors(folder: Path, texts: Sequence[str], *, device: str, dtype: str) -> Vectors:
    """The hidden state of each text's end token after the final norm: float32 `[N, D]`, not normalised.

    Args:
        folder: The model's folder.
        texts: Whole texts, with their prompts.
        device: Where to compute.
        dtype: What to compute in; float32 for int8.

    Raises:
        SettingsError: transformers is not installed.
    """
    rows = []
    with _loaded("AutoModel", folder, device, dtype) as (model, tokenizer):
        end = tokenizer.convert_tokens_to_ids(END_TOKEN)
        for text in texts:
            # Appended here, for some files lack the template that appends it, and others append a second one.
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            if ids[-1:] != [end]:
                ids.append(end)
            rows.append(model(_row(ids, device)).last_hidden_state[0, -1].float().cpu().numpy())
    return np.stack(rows)


def reference_logits(
    folder: Path, query: str, documents: Sequence[str], instruction: str, *, device: str, dtype: str
) -> list[float]:
    """logit(yes) - logit(no) of each document; arguments and errors as `reference_vectors`."""
    template = CARD_TEMPLATE
    shared = template.instruction.format(instruction=instruction) + template.query.format(query=query)
    differences = []
    with _loaded("AutoModelForCausalLM", folder, device, dtype) as (model, tokenizer):

        def encode(text: str) -> list[int]:
            ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
            return ids

        yes, no = (tokenizer.convert_tokens_to_ids(answer) for answer in ANSWERS)
        head, tail = encode(template.head), encode(template.tail)
        for document in documents:
            ids = head + encode(shared + template.document.format(document=document)) + tail
            logits = model(_row(ids, device), logits_to_keep=1).logits[0, -1].float()
            differences.append(float(logits[yes] - logits[no]))
    return differences


def added_tokens(folder: Path) -> tuple[str, ...]:
    """Strings that the reference reads as tokens wherever they stand."""
    return tuple(require_transformers().AutoTokenizer.from_pretrained(folder).get_added_vocab())


@contextmanager
def _loaded(kind: str, folder: Path, device: str, dtype: str) -> Iterator[tuple[Any, Any]]:
    """Model and tokenizer, with gradients off and the library's own talk silenced."""
    transformers = require_transformers()
    import torch

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    option = "dtype" if int(transformers.__version__.partition(".")[0]) >= 5 else "torch_dtype"
    wanted = torch.float32 if dtype == "int8" else getattr(torch, dtype)  # what 8 bits should come near to
    model = getattr(transformers, kind).from_pretrained(folder, **{option: wanted}).to(device).eval()
    with torch.inference_mode():
        yield model, transformers.AutoTokenizer.from_pretrained(folder)


def _row(ids: list[int], device: str) -> Any:
    import torch

    return torch.tensor([ids], device=device)
