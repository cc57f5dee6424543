"""Gradients of packed training, against padded training through transformers; what batches become."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.support.checkpoints import make_checkpoint
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from quernel.errors import SettingsError
from quernel.train.contrastive import qwen3_contrastive
from quernel.train.drawing import BARE, Form, Prompt
from quernel.train.encode import divide
from quernel.train.examples import Example, JudgedPair, Passage
from quernel.train.fit import open_start
from quernel.train.losses import cosent
from quernel.train.mixture import Batch
from quernel.train.objectives import EmbeddingLoss, EmbeddingObjective, RerankLoss, RerankObjective, Text, paths_of
from quernel.train.recipe import Recipe
from quernel.types import InputType

ROWS = [
    Example(query="what is a cat", positives=("a small animal that purrs",), negatives=("a stone", "the sea is blue")),
    Example(query="sea", positives=("the sea is blue", "water"), negatives=("a stone",), instruction="find water"),
    Example(query="a much longer question about stones and rocks", positives=("a stone",)),
]
INSTRUCT = "Instruct: {}\nQuery:"
DEFAULT = "Given a web search query, retrieve relevant passages that answer the query"


def start(folder, **model):
    recipe = {"model": {"start": str(folder), **model}, "data": [{"path": "x"}], "stages": [{"steps": 1, "rate": 1.0}]}
    opened = open_start(Recipe.from_dict(recipe, folder))
    opened.model.requires_grad_(True)
    return opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("train") / "embedder")


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("train") / "reranker", kind="reranker")


def padded(model, tokenizer, texts):
    """Last hidden states at the end token, as the family's card computes them."""
    batch = tokenizer(texts, padding=True, return_tensors="pt", padding_side="left")
    return model(**batch).last_hidden_state[:, -1]


def compare(own, reference, *, prefix="", atol=1e-5):
    theirs = dict(reference.named_parameters())
    compared = 0
    for name, parameter in own.named_parameters():
        gradient = theirs[prefix + name].grad
        torch.testing.assert_close(parameter.grad, gradient, atol=atol, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
        compared += bool(gradient.abs().max() > 1e-6)
    assert compared > 10


@pytest.mark.parametrize("tokens_at_once", [10_000, 40], ids=["at once", "in parts"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_gradients_are_those_of_padded_training(folder, tokens_at_once, checkpointing):
    opened = start(folder, checkpointing=checkpointing)
    loss = EmbeddingLoss(temperature=0.1, dimensions={"64": 1.0, "16": 0.5})
    objective = EmbeddingObjective(opened.encode, opened.prompts, loss, max_tokens_at_once=tokens_at_once)
    losses, num_tokens = objective([Batch("s", ROWS[:1] + ROWS[2:], 3)])
    assert num_tokens > 50

    reference = AutoModel.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = ROWS[:1] + ROWS[2:]
    queries = [INSTRUCT.format(DEFAULT) + row.query for row in rows]
    documents = [rows[0].positives[0], *rows[0].negatives, rows[1].positives[0]]
    hidden = padded(reference, tokenizer, queries + documents)
    asked, answers = hidden[:2], hidden[2:]
    hard = torch.stack([answers[1:3], answers[1:3]])
    counted = torch.tensor([[True, True], [False, False]])
    same = torch.eye(2, dtype=torch.bool)
    total = torch.zeros(())
    for size, weight in ((64, 1.0), (16, 0.5)):
        parts = [F.normalize(part[..., :size], dim=-1) for part in (asked, answers[[0, 3]], hard)]
        value = qwen3_contrastive(parts[0], parts[1], same, parts[2], counted, temperature=0.1)
        total = total + weight / 1.5 * value
    total.backward()
    assert losses["loss"] == pytest.approx(total.item(), abs=1e-5)
    compare(opened.model, reference)


def test_a_reranker_is_trained_as_its_reference(reranker):
    opened = start(reranker)
    objective = RerankObjective(
        opened.encode, opened.prompts, opened.head, RerankLoss(listwise=0.5), max_tokens_at_once=150
    )
    row = ROWS[0]
    losses, _ = objective([Batch("s", [row], 3)])

    reference = AutoModelForCausalLM.from_pretrained(reranker, dtype=torch.float32)
    prompts = opened.prompts.render(request(row))
    yes, no = opened.prompts.answer_ids()
    logits = []
    for prompt in prompts:
        ids = torch.tensor([[token for run in prompt.path for token in run]])
        scores = reference(ids).logits[0, -1]
        logits.append(scores[yes] - scores[no])
    # The order of the negatives is drawn; neither term depends on it.
    stacked = torch.stack(logits)
    expected = F.binary_cross_entropy_with_logits(stacked, torch.tensor([1.0, 0.0, 0.0]))
    expected = expected + 0.5 * (stacked.logsumexp(0) - stacked[0])
    expected.backward()
    assert losses["loss"] == pytest.approx(expected.item(), abs=1e-5)
    compare(opened.model, reference.model)


def request(row):
    from quernel.types import RerankRequest

    return RerankRequest(query=row.query, documents=[*row.positives, *row.negatives])


def test_judged_pairs_are_ordered(folder):
    opened = start(folder)
    objective = EmbeddingObjective(opened.encode, opened.prompts, EmbeddingLoss(), max_tokens_at_once=1_000)
    rows = [JudgedPair(first="a", second=text, score=score) for text, score in (("a", 1.0), ("b c", 0.2), ("d", 0.4))]
    losses, _ = objective([Batch("s", rows, 0)])
    texts = [text for row in rows for text in (row.first, row.second)]
    vectors = F.normalize(opened.encode(paths_of([Text(text, BARE) for text in texts], opened.prompts)), dim=-1)
    expected = cosent(vectors[0::2], vectors[1::2], torch.tensor([1.0, 0.2, 0.4]), temperature=0.05)
    assert losses["judged"] == pytest.approx(expected.item(), abs=1e-5)


def test_teachers(folder):
    opened = start(folder)
    asked = []

    def teach(texts, input_type, instruction):
        asked.append((tuple(texts), input_type, instruction))
        return F.normalize(torch.ones(len(texts), 64), dim=-1).numpy()

    rows = [
        Example(query="q", positives=("p",), negatives=("n",), instruction="i", scores=(2.0, -1.0)),
        Example(query="r", positives=("s",), negatives=("t",), scores=(0.0, 0.0)),
    ]
    loss = EmbeddingLoss(distillation=0.5, scores=2.0, temperature=1.0)
    objective = EmbeddingObjective(opened.encode, opened.prompts, loss, max_tokens_at_once=1_000, teach=teach)
    losses, _ = objective([Batch("s", rows, 0)])
    assert (("q",), InputType.QUERY, "i") in asked
    assert (("p", "n", "s", "t"), InputType.DOCUMENT, None) in asked
    assert losses["loss"] == pytest.approx(losses["contrast"] + losses["distillation"] + losses["scores"], abs=1e-5)
    vectors = F.normalize(
        opened.encode(paths_of([Text("q", Prompt(asks=True, instruction="i"))], opened.prompts)), dim=-1
    )
    documents = F.normalize(opened.encode(paths_of([Text("p", BARE), Text("n", BARE)], opened.prompts)), dim=-1)
    own = (documents @ vectors[0]).log_softmax(0)
    first = -(torch.tensor([2.0, -1.0]).softmax(0) * own).sum()
    assert losses["scores"] > 2.0 * first.item() / 2 > 0
    with pytest.raises(SettingsError, match="no teacher"):
        EmbeddingObjective(opened.encode, opened.prompts, loss, max_tokens_at_once=1_000)


def test_bfloat16_is_near(folder):
    exact, rough = start(folder), start(folder, dtype="bfloat16")
    found = []
    for opened in (exact, rough):
        objective = EmbeddingObjective(
            opened.encode, opened.prompts, EmbeddingLoss(temperature=0.1), max_tokens_at_once=99
        )
        found.append(objective([Batch("s", ROWS, 3)])[0]["loss"])
        assert opened.model.norm.weight.grad.dtype is torch.float32
    assert found[0] == pytest.approx(found[1], rel=0.05)
    assert found[0] != found[1]


def test_parts_hold_what_fits():
    paths = [((1, 2, 3), (4,)), ((1, 2, 3), (5,)), ((9,) * 50,), ((1, 2, 3), (6,))]
    assert divide(paths, 8) == [[0, 1], [2], [3]]
    assert divide(paths, 1_000) == [[0, 1, 2, 3]]
    assert np.concatenate(divide(paths, 1)).tolist() == [0, 1, 2, 3]


def test_a_step_of_several_sources_is_one_contrast(folder):
    """Rows of one step are negatives of each other, whatever source they come from."""
    opened = start(folder)
    objective = EmbeddingObjective(
        opened.encode, opened.prompts, EmbeddingLoss(temperature=0.1), max_tokens_at_once=1_000
    )
    together = objective([Batch("s", ROWS, 3)])[0]["contrast"]
    rows = [replace(row, positives=row.positives[:1], negatives=()) for row in ROWS]
    apart = objective([Batch("s", rows[:1], 3), Batch("t", rows[1:], 3)])[0]["contrast"]
    assert objective([Batch("s", rows, 3)])[0]["contrast"] == pytest.approx(apart, abs=1e-6)
    assert together != pytest.approx(apart, abs=1e-3)


def test_kinds_of_rows_add_up(folder):
    opened = start(folder)
    loss = EmbeddingLoss(temperature=0.1, judged=0.25, distillation=1.0)
    width = opened.model.config.hidden_size

    def teach(texts, input_type, instruction):
        known = torch.tensor([[1.0 if text == "known" else torch.nan] for text in texts])
        return F.normalize(known.expand(-1, width), dim=-1).numpy()

    objective = EmbeddingObjective(opened.encode, opened.prompts, loss, max_tokens_at_once=1_000, teach=teach)
    judged = [JudgedPair(first="a", second="b", score=1.0), JudgedPair(first="a", second="c", score=0.0)]
    alone, _ = objective([Batch("j", judged, 0)])
    assert set(alone) == {"loss", "judged"}  # the teacher knows none of these
    passages = [Passage(text="known"), Passage(text="unknown")]
    taught, _ = objective([Batch("p", passages, 0)])
    vector = F.normalize(opened.encode(paths_of([Text("known", BARE)], opened.prompts)), dim=-1)[0]
    own_similarity = 10 * (1 - 1) ** 2
    assert taught["distillation"] == pytest.approx(1 - vector.sum().item() * width**-0.5 + own_similarity, abs=1e-5)
    both, _ = objective([Batch("j", judged, 0), Batch("p", passages, 0), Batch("s", ROWS, 1)])
    assert both["judged"] == pytest.approx(alone["judged"], abs=1e-5)
    assert both["loss"] == pytest.approx(both["judged"] + both["distillation"] + both["contrast"], abs=1e-5)


def test_a_translation_learns_what_is_said_of_its_positive(folder):
    opened = start(folder)
    asked = []

    def teach(texts, input_type, instruction):
        asked.append((tuple(texts), input_type))
        return F.normalize(torch.ones(len(texts), opened.model.config.hidden_size), dim=-1).numpy()

    objective = EmbeddingObjective(
        opened.encode, opened.prompts, EmbeddingLoss(distillation=1.0), max_tokens_at_once=1_000, teach=teach
    )
    rows = [Example(query="Katze", positives=("cat",)), Example(query="Hund", positives=("dog",))]
    objective([Batch("s", rows, 0, Form(translation=True))])
    assert asked == [(("cat", "dog", "cat", "dog"), InputType.DOCUMENT)]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's compiler looks at its own tensors
def test_compiled_training_gives_the_same_gradients(folder):
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    found = []
    for compile_ in (False, True):
        opened = start(folder, compile=compile_)
        objective = EmbeddingObjective(
            opened.encode, opened.prompts, EmbeddingLoss(temperature=0.1), max_tokens_at_once=1_000
        )
        objective([Batch("s", ROWS, 3)])
        found.append({name: one.grad for name, one in opened.model.named_parameters() if one.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
