"""Documents in the order of their relevance, from a server, by the SDK.

quernel serve &
python examples/rerank.py [BASE_URL]
"""

import sys

from quernel.client import Client

QUERY = "What is the capital of China?"
DOCUMENTS = [
    "The capital of China is Beijing.",
    "Gravity is a force that attracts two bodies towards each other.",
    "Beijing is a city of more than twenty million people.",
]


def main() -> None:
    """Print the documents, best first, with their scores."""
    with Client(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:1234") as client:
        for ranked in client.rank(QUERY, DOCUMENTS):
            print(f"{ranked.relevance_score:.4f}  {DOCUMENTS[ranked.index]}")


if __name__ == "__main__":
    main()
