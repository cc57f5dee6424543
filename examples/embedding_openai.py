"""The OpenAI client against `quernel serve`: vectors, cosine similarities, and shorter vectors.

quernel serve &
python examples/embedding_openai.py [BASE_URL]
"""

import sys

import numpy as np
from openai import OpenAI

QUERY = "capital of France"
TEXTS = ["Paris is the capital of France.", "Bananas are yellow."]


def main() -> None:
    """Print the similarity of each text to the query."""
    base_url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:1234/v1"
    client = OpenAI(base_url=base_url, api_key="EMPTY")
    for dimensions in (None, 64):
        options = {} if dimensions is None else {"dimensions": dimensions}
        asked = client.embeddings.create(model="default", input=QUERY, extra_body={"input_type": "query"}, **options)
        told = client.embeddings.create(model="default", input=TEXTS, **options)
        vectors = np.array([row.embedding for row in told.data])
        print(f"{vectors.shape[1]} dimensions, {told.usage.total_tokens} tokens")
        for text, similarity in zip(TEXTS, vectors @ np.array(asked.data[0].embedding), strict=True):
            print(f"  {similarity:.3f}  {text}")


if __name__ == "__main__":
    main()
