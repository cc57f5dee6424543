"""Divide the judged queries of a collection in halves: one to train on, one that is held back.

    python examples/halve.py path/to/collection halves/

The new folder has the same documents and queries, `qrels/train.tsv` and `qrels/test.tsv`. Which query goes where
depends on the ids alone, so that the halves are the same wherever this runs.
"""

import argparse
import hashlib
import shutil
from pathlib import Path


def halve(collection: Path, target: Path) -> dict[str, int]:
    """Write the halves; how many queries each has.

    Args:
        collection: In BEIR layout; all its judgements are divided anew.
        target: A folder that is made.
    """
    (target / "qrels").mkdir(parents=True)
    for name in ("corpus.jsonl", "queries.jsonl"):
        shutil.copy(collection / name, target / name)
    header, lines = "query-id\tcorpus-id\tscore", dict.fromkeys(())
    for file in sorted((collection / "qrels").glob("*.tsv")):
        header, *judged = file.read_text(encoding="utf-8").splitlines()
        lines.update(dict.fromkeys(judged))
    queries = dict.fromkeys(line.partition("\t")[0] for line in lines)
    order = sorted(queries, key=lambda query: hashlib.sha256(query.encode()).digest())
    halves = {"train": set(order[::2]), "test": set(order[1::2])}
    for name, chosen in halves.items():
        kept = [line for line in lines if line.partition("\t")[0] in chosen]
        (target / "qrels" / f"{name}.tsv").write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")
    return {name: len(chosen) for name, chosen in halves.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    for half, count in halve(options.collection, options.target).items():
        print(f"{half}: {count} queries")
