"""A request that succeeds for each route that takes one, with a text of the caller's wherever one can stand."""


def body_of(path: str, text: str) -> dict:
    """The body of a request to that route.

    Args:
        path: The route.
        text: Stands wherever a user's text can.
    """
    bodies = {
        "/v1/embeddings": {"input": [text, f"{text} more"], "instruction": f"Find {text}"},
        "/embeddings": {"input": text},
        "/v1/rerank": {
            "query": text,
            "documents": [f"{text} one", {"text": text}],
            "instruction": text,
            "return_documents": True,
        },
        "/v2/embed": {"texts": [text], "input_type": "search_query", "embedding_types": ["float", "int8"]},
        "/v1/embed": {"texts": [text], "input_type": "classification"},
        "/v2/rerank": {"query": text, "documents": [text, "other"]},
        "/rerank": {"query": text, "texts": [text], "return_text": True},
        "/embed": {"inputs": [text]},
        "/": {"inputs": [text]},
        "/similarity": {"inputs": {"source_sentence": text, "sentences": [text]}},
        "/tokenize": {"inputs": [text]},
        "/decode": {"ids": [[1, 2, 3]]},
        "/score": {"queries": text, "documents": [text]},
        "/v1/score": {"text_1": text, "text_2": [text, "other"]},
        "/pooling": {"input": [text]},
        "/v1/models/load": {"model": f"quernel/{text}", "instruction": text},
        "/v1/models/unload": {"model_id": text},
        "/v1/models/reload": {"model_id": text},
        "/v1/models/status": {"model_id": text},
    }
    return bodies[path]
