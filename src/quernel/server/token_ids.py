"""Token ids as input: whose are they?

LangChain sends ids of OpenAI's cl100k tokenizer to any server that speaks OpenAI's dialect, unless it is told not to.
All of them are ids of Qwen3's vocabulary too, where they stand for other text, so a server that believes them answers
with vectors of nonsense and says nothing. So ids must show whose they are: an id above cl100k's last, or the model's
end token at the end of every text, which its own tokenizer puts there. Hugging Face's tokenizers of the family do.

What does not work is to ask whether the model's tokenizer would divide their text in the same way: of cl100k's ids for
real texts it would for half at 16 tokens, and still for one in seven at 50.

Source: `langchain_openai.embeddings.OpenAIEmbeddings` (`check_embedding_ctx_length`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Literal, TypeAlias

from quernel.errors import ForeignTokenIdsError, SettingsError
from quernel.types import EmbeddingModel, EmbeddingRequest, TokenizingModel

TokenIdPolicy: TypeAlias = Literal["check", "accept", "refuse", "cl100k"]

LAST_CL100K_ID = 100_276

LANGCHAIN_HINT = (
    "LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False) sends text. If the ids are this model's, close each "
    "text with its end token, or have the server started with --token-ids accept; if they are cl100k's, with "
    "--token-ids cl100k."
)


def read_token_ids(request: EmbeddingRequest, model: EmbeddingModel, policy: TokenIdPolicy) -> EmbeddingRequest:
    """The request, with its ids believed or turned into text as `policy` says.

    Raises:
        ForeignTokenIdsError: They are not to be believed.
    """
    rows = [row for row in request.inputs if not isinstance(row, str)]
    if not rows or policy == "accept":
        return request
    if policy == "refuse":
        raise ForeignTokenIdsError(
            "This server takes no token ids.",
            param="input",
            hint="Send texts. LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False).",
        )
    if policy == "cl100k":
        decode = cl100k_decoder()
        return replace(request, inputs=[text if isinstance(text, str) else decode(text) for text in request.inputs])
    if not _are_shown_to_be_ours(rows, model):
        raise ForeignTokenIdsError(
            "input holds token ids that may be OpenAI's (cl100k), under which they are another text.",
            param="input",
            hint=LANGCHAIN_HINT,
        )
    return request


def _are_shown_to_be_ours(rows: Sequence[Sequence[int]], model: EmbeddingModel) -> bool:
    if any(max(row, default=0) > LAST_CL100K_ID for row in rows) or not isinstance(model, TokenizingModel):
        return True
    ((end,),) = model.tokenize([""])
    return all(row[-1] == end.id for row in rows if row)


@cache
def cl100k_decoder() -> Callable[[Sequence[int]], str]:
    """What turns ids of cl100k_base into text.

    Raises:
        SettingsError: `tiktoken` or its vocabulary is missing.
    """
    try:
        import tiktoken

        encoding = tiktoken.get_encoding("cl100k_base")
    except ImportError as error:
        raise SettingsError(
            "--token-ids cl100k needs tiktoken.", param="token_ids", hint="pip install 'quernel[tiktoken]'."
        ) from error
    except Exception as error:  # whatever its download raises
        raise SettingsError(
            f"tiktoken cannot get its vocabulary cl100k_base ({type(error).__name__}).",
            param="token_ids",
            hint="It downloads it once; offline, set TIKTOKEN_CACHE_DIR to a folder that has it.",
        ) from error

    def decode(ids: Sequence[int]) -> str:
        try:
            return encoding.decode(list(ids), errors="strict")
        except (KeyError, ValueError, OverflowError) as error:
            raise ForeignTokenIdsError(
                "input holds token ids that are not cl100k's.",
                param="input",
                hint="This server was started with --token-ids cl100k; send texts, or ids of cl100k_base.",
            ) from error

    return decode
