"""mistral.rs's example of Qwen3 Embedding in one process, with another import.

    python examples/qwen3_embedding.py [MODEL]

MODEL is the built-in model, or for example Qwen/Qwen3-Embedding-0.6B.
"""

import sys

from quernel.mistralrs import EmbeddingArchitecture, EmbeddingRequest, Runner, Which


def main() -> None:
    """Embed two texts and print how many vectors came of it, and how long they are."""
    runner = Runner(
        which=Which.Embedding(
            model_id=sys.argv[1] if len(sys.argv) > 1 else "quernel/tiny-embedding",
            arch=EmbeddingArchitecture.Qwen3Embedding,
        )
    )
    request = EmbeddingRequest(
        input=["Graphene conductivity", "Explain superconductors in simple terms."],
        truncate_sequence=True,
    )
    embeddings = runner.send_embedding_request(request)
    print(len(embeddings), len(embeddings[0]))


if __name__ == "__main__":
    main()
