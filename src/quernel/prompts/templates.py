"""Every string that Quernel puts around a user's text, with its source.

A template is divided where its parts may be encoded one by one: a word ends at each join and the next part begins
with a space or a sign, which the family's pre-tokenizer never joins to what stands before it. Elsewhere it does:
`?` joins the newline after it and `:` the letter.
"""

from dataclasses import dataclass

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""What a query asks for where the caller does not say.

Source: `config_sentence_transformers.json` of Qwen/Qwen3-Embedding-0.6B, revision
97b0c614be4d77ee51c0cef4e5f07c00f9eb65b3, and the model cards of the rerankers."""

QUERY_PROMPT = "Instruct: {instruction}\nQuery:"
"""In front of an embedded query, with nothing between it and the text.

Source: `config_sentence_transformers.json`, the same file and revision."""

SHARED_PROMPT_END = ":"
QUERY_PROMPT_END = "\nQuery:"
"""A prompt with this end may be shared between queries up to its colon, which joins the first letter of the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankTemplate:
    """The parts of a reranking prompt, in their order; user text goes where the braces are.

    Attributes:
        head: Up to the user's turn; encoded with its special tokens.
        instruction: What holds the instruction.
        query: What holds the query.
        document: What holds the document.
        tail: From the end of the user's turn to where the answer is read; encoded with its special tokens.
        default_instruction: Where the caller gives none.
    """

    head: str
    instruction: str
    query: str
    document: str
    tail: str
    default_instruction: str


_SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
_HEAD = f"<|im_start|>system\n{_SYSTEM}<|im_end|>\n<|im_start|>user\n"
_ANSWER = "<|im_start|>assistant\n<think>\n\n</think>\n\n"

CARD_TEMPLATE = RerankTemplate(
    head=_HEAD,
    instruction="<Instruct>: {instruction}\n<Query>:",
    query=" {query}\n<Document>:",
    document=" {document}",
    tail=f"<|im_end|>\n{_ANSWER}",
    default_instruction=DEFAULT_INSTRUCTION,
)
"""The prompt of the model cards, and of everything here unless it says otherwise.

Source: "Transformers Usage" on the card of Qwen/Qwen3-Reranker-0.6B, revision
e61197ed45024b0ed8a2d74b80b4d909f1255473."""

BENCHMARK_TEMPLATE = RerankTemplate(
    head=_HEAD,
    instruction="<Instruct>: {instruction}\n\n<Query>:",
    query=" {query}\n\n<Document>:",
    document=" {document}",
    tail=f"<|im_end|>\n<|im_end|>\n{_ANSWER}",
    default_instruction="Given the user query, retrieval the relevant passages",
)
"""The prompt behind the published reranking tables: empty lines between the fields and the user's turn closed twice.

It exists to reproduce those tables and for nothing else.

Source: the vLLM example on the same card, and the evaluation code of QwenLM/Qwen3-Embedding."""

ANSWERS = ("yes", "no")
"""The two answers whose logits make a score. `Yes` and ` yes` are other tokens."""
