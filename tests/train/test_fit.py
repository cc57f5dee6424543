"""Whole runs: resumed to the bit, merged, with adapters, into folders that others load."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.checkpoints import make_checkpoint

from quernel import Embedder, Reranker
from quernel.errors import SettingsError
from quernel.train.fit import CheckpointStore, fit, schedule
from quernel.train.recipe import Recipe, StageSettings

WORDS = [
    "cat",
    "dog",
    "fish",
    "sun",
    "moon",
    "star",
    "red",
    "blue",
    "tree",
    "house",
    "river",
    "stone",
    "bird",
    "cloud",
    "fire",
    "snow",
]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model of each kind, and data."""
    folder = tmp_path_factory.mktemp("runs")
    make_checkpoint(folder / "embedder", dtype=torch.bfloat16)
    make_checkpoint(folder / "reranker", kind="reranker")
    pairs = [
        {"query": f"where is the {word}", "pos": f"here is a {word}", "neg": [f"here is a {other}"]}
        for word, other in zip(WORDS, WORDS[1:] + WORDS[:1], strict=True)
    ]
    write_rows(folder / "pairs.jsonl", pairs)
    write_rows(folder / "judged.jsonl", [{"sentence1": w, "sentence2": "cat", "score": len(w)} for w in WORDS])
    return folder


def recipe(place, *, start="embedder", stages=None, **more):
    raw = {
        "model": {"start": str(place / start), "max_tokens": 400},
        "data": [{"path": "pairs.jsonl"}],
        "loss": {"temperature": 0.1, "dimensions": {"64": 1.0, "16": 0.3}} if start == "embedder" else {},
        "stages": stages
        if stages is not None
        else [{"steps": 12, "rate": 1e-3, "batch": 4, "save_every": 5, "tokens_at_once": 400}],
        **more,
    }
    return Recipe.from_dict(raw, place)


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def lines(out):
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [3, 7, 12, 14, 19])
def test_a_run_that_was_ended_goes_on_to_the_same_bits(place, tmp_path, at):
    stages = [
        {"steps": 12, "rate": 1e-3, "batch": 4, "save_every": 5},
        {"steps": 8, "rate": 5e-4, "batch": 5, "save_every": 3, "data": ["judged"], "seed": 4},
    ]
    data = [{"path": "pairs.jsonl"}, {"path": "judged.jsonl"}]
    whole = fit(recipe(place, stages=stages, data=data), tmp_path / "whole")
    count = 0

    def kill(step):
        nonlocal count
        count += 1
        if count == at:
            raise Killed

    with pytest.raises(Killed):
        fit(recipe(place, stages=stages, data=data), tmp_path / "parts", on_step=kill)
    resumed = fit(recipe(place, stages=stages, data=data), tmp_path / "parts", resume=True)
    assert same(weights(whole), weights(resumed))
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    assert len(lines(tmp_path / "whole")) == 20
    again = fit(recipe(place, stages=stages, data=data), tmp_path / "parts", resume=True)
    assert same(weights(whole), weights(again))


def test_a_run_survives_kill_9(place, tmp_path):
    toml = f"""
        [model]
        start = "{place / "embedder"}"
        [[data]]
        path = "{place / "pairs.jsonl"}"
        [[stages]]
        steps = 60
        rate = 1e-3
        batch = 8
        save_every = 4
    """
    (tmp_path / "recipe.toml").write_text(toml)

    def command(out, *more):
        return [
            sys.executable,
            "-c",
            "from quernel.cli.main import main; main()",
            "train",
            str(tmp_path / "recipe.toml"),
            "-o",
            str(out),
            "-q",
            *more,
        ]

    out = tmp_path / "killed"
    with subprocess.Popen(command(out, "--threads", "1")) as process:
        deadline = time.monotonic() + 120
        while len(list((out / "checkpoints").glob("*.pt"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    assert not (out / "model").exists(), "it was too fast to be killed"
    subprocess.run(command(out, "--threads", "1", "--resume"), check=True)
    subprocess.run(command(tmp_path / "whole", "--threads", "1"), check=True)
    assert same(weights(out / "model"), weights(tmp_path / "whole/model"))


def test_training_teaches_and_others_load_what_comes_of_it(place, tmp_path):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    stages = [{"steps": 80, "rate": 2e-3, "batch": 16, "save_every": 80}]
    folder = fit(recipe(place, stages=stages), tmp_path / "out")
    found = lines(tmp_path / "out")
    assert found[-1]["loss"] < 0.3 * found[0]["loss"]
    stored = weights(folder)
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert stored.keys() == weights(place / "embedder").keys()
    queries, documents = [f"where is the {word}" for word in WORDS], [f"here is a {word}" for word in WORDS]
    with Embedder(folder, dtype="float32") as model:
        scores = model.embed_queries(queries) @ model.embed_documents(documents).T
        assert (scores.argmax(axis=1) == np.arange(len(WORDS))).mean() > 0.9
        theirs = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
        np.testing.assert_allclose(theirs.encode(queries, prompt_name="query"), model.embed_queries(queries), atol=1e-5)
    assert AutoModel.from_pretrained(folder).config.hidden_size == 64


def test_a_reranker_learns(place, tmp_path):
    stages = [{"steps": 120, "rate": 2e-3, "batch": 8, "save_every": 120}]
    folder = fit(recipe(place, start="reranker", stages=stages, loss={"listwise": 1.0}), tmp_path / "out")
    with Reranker(folder, dtype="float32") as model:
        right = [
            model.rank(f"where is the {word}", [f"here is a {other}", f"here is a {word}"])[0].index == 1
            for word, other in zip(WORDS, WORDS[1:] + WORDS[:1], strict=True)
        ]
    assert sum(right) / len(right) > 0.9


@pytest.mark.filterwarnings("ignore::FutureWarning")  # between peft and transformers
@pytest.mark.parametrize("start", ["embedder", "reranker"])
def test_an_adapter_is_what_peft_reads(place, tmp_path, start):
    peft = pytest.importorskip("peft")
    from transformers import AutoModel, AutoModelForCausalLM

    lora = {"rank": 4, "alpha": 16, "targets": ["q_proj", "v_proj", "down_proj"]}
    folder = fit(recipe(place, start=start, lora=lora), tmp_path / "out")
    base = weights(place / start)
    changed = {name for name, tensor in weights(folder).items() if not torch.equal(tensor, base[name])}
    assert changed
    assert all(name.endswith(("q_proj.weight", "v_proj.weight", "down_proj.weight")) for name in changed)

    cls = AutoModel if start == "embedder" else AutoModelForCausalLM
    model = cls.from_pretrained(place / start, dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(model, tmp_path / "out/adapter").merge_and_unload()
    theirs = dict(adapted.named_parameters())
    for name, tensor in weights(folder).items():
        torch.testing.assert_close(theirs[name].float(), tensor.float(), atol=2e-2, rtol=1e-2)
        if name in changed:
            moved = (theirs[name].float() - base[name].float()).abs().max()
            assert moved > 1e-4


def test_the_last_checkpoints_are_merged(place, tmp_path):
    stage = {"steps": 12, "rate": 5e-3, "batch": 4, "save_every": 4}
    merged = weights(fit(recipe(place, stages=[stage | {"merge": 3}]), tmp_path / "merged"))
    single = weights(fit(recipe(place, stages=[stage]), tmp_path / "single"))
    saved = [one.load()["weights"] for one in CheckpointStore(tmp_path / "merged/checkpoints").all()]
    assert len(saved) == 3
    name = "layers.0.mlp.up_proj.weight"
    mean = torch.stack([one[name] for one in saved]).mean(0)
    torch.testing.assert_close(merged[name].float(), mean.to(torch.bfloat16).float(), atol=1e-2, rtol=1e-2)
    assert not torch.equal(merged[name], single[name])


def test_zeros_may_be_kept(place, tmp_path):
    start, name = tmp_path / "sparse", "layers.0.mlp.up_proj.weight"
    shutil.copytree(place / "embedder", start)
    tensors = weights(start)
    tensors[name][::2] = 0
    save_file(tensors, start / "model.safetensors", metadata={"format": "pt"})
    stage = {"steps": 6, "rate": 5e-3, "batch": 4}
    for kept in (True, False):
        stages = [stage | {"keep_zeros": kept}]
        trained = weights(fit(recipe(place, start=start, stages=stages, loss={}), tmp_path / f"out-{kept}"))[name]
        assert bool((trained[::2] == 0).all()) is kept
        assert not torch.equal(trained[1::2], tensors[name][1::2])


def test_a_stage_may_weigh_sources_anew(place, tmp_path):
    data = [{"path": "pairs.jsonl"}, {"path": "judged.jsonl", "weight": 1e-9}]
    stages = [
        {"steps": 4, "rate": 1e-4, "batch": 4},
        {"steps": 4, "rate": 1e-4, "batch": 4, "weights": {"judged": 1e9}},
    ]
    fit(recipe(place, stages=stages, data=data), tmp_path / "out")
    assert [row["source"] for row in lines(tmp_path / "out")] == ["pairs"] * 4 + ["judged"] * 4


def test_rows_of_evaluation_sets_are_left_out(place, tmp_path):
    (place / "sets").mkdir(exist_ok=True)
    write_rows(place / "sets/corpus.jsonl", [{"_id": "1", "text": "Here is a CAT"}])
    said = []
    fit(recipe(place, keep_out="sets"), tmp_path / "out", say=said.append)
    assert said[0] == "pairs: 14 rows, 2 left out"  # as a positive, and as a negative


def test_schedules():
    stage = StageSettings(steps=100, rate=1.0, warmup=0.1, floor=0.2)
    shares = [schedule(step, stage) for step in range(100)]
    assert shares[0] == pytest.approx(1 / 11)
    assert max(shares) == pytest.approx(1.0)
    assert shares.index(max(shares)) == 10
    assert shares[-1] == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lose": {}}, "holds lose"),
        ({"loss": {"temprature": 1}}, "holds temprature"),
        ({"loss": {"dimensions": {"65": 1}}}, "65, but the model has 64"),
        ({"lora": {"rank": 0}}, r"rank is 0"),
        ({"lora": {"targets": ["x"]}}, "targets holds 'x'"),
        ({"stages": [{"steps": 0, "rate": 1.0}]}, "steps is 0"),
        ({"stages": [{"steps": 1, "rate": 1.0, "data": ["other"]}]}, "names 'other'"),
        ({"stages": [{"steps": 1, "rate": 1.0, "weights": {"other": 2}}]}, "weights names 'other'"),
        ({"stages": [{"steps": 1, "rate": 1.0, "weights": {"pairs": 0}}]}, "weight of pairs is 0"),
        ({"data": [{"path": "pairs.jsonl"}, {"path": "pairs.jsonl"}]}, "one name"),
        ({"data": [{"path": "none.jsonl"}]}, "cannot be read"),
        ({"model": {"start": "quernel/tiny-embedding", "dtype": "int8"}}, "dtype is 'int8'"),
        ({"stages": []}, "lacks .stages."),
        ({"stages": [{"steps": 3, "rate": 1e9}], "loss": {"temperature": 1e-30}}, "The loss is"),
    ],
)
def test_wrong_recipes_are_named(place, tmp_path, changes, message):
    with pytest.raises(SettingsError, match=message):
        fit(recipe(place, **changes), tmp_path / "out")


def test_a_reranker_needs_negatives(place, tmp_path):
    write_rows(place / "bare.jsonl", [{"query": "q", "pos": "p"}])
    with pytest.raises(SettingsError, match="some have none"):
        fit(recipe(place, start="reranker", data=[{"path": "bare.jsonl"}]), tmp_path / "a")
    with pytest.raises(SettingsError, match="documents alone"):
        fit(recipe(place, start="reranker", data=[{"path": "judged.jsonl"}]), tmp_path / "b")


def test_queries_too_long_for_a_reranker_are_left_out(place, tmp_path):
    row = {"query": "where is the cat", "pos": "here", "neg": ["there"]}
    said = []
    write_rows(place / "long.jsonl", [row] * 4 + [{**row, "query": "cat " * 400}])
    stages = [{"steps": 2, "rate": 1e-4, "batch": 5}]
    fit(
        recipe(place, start="reranker", data=[{"path": "long.jsonl"}], stages=stages), tmp_path / "out", say=said.append
    )
    assert said[-1] == "long: 1 left out, whose queries leave no room for a document"

    write_rows(place / "longer.jsonl", [{**row, "query": "cat " * 400}])
    with pytest.raises(SettingsError, match="No query of longer leaves room"):
        fit(recipe(place, start="reranker", data=[{"path": "longer.jsonl"}]), tmp_path / "none")


def test_nothing_is_overwritten(place, tmp_path):
    fit(recipe(place), tmp_path / "out")
    with pytest.raises(SettingsError, match="holds a run"):
        fit(recipe(place), tmp_path / "out")
    with pytest.raises(SettingsError, match="another recipe"):
        fit(recipe(place, loss={"temperature": 0.2}), tmp_path / "out", resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    with pytest.raises(SettingsError, match="something else"):
        fit(recipe(place), tmp_path / "mine")
