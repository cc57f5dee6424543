"""A pair from nothing, on generated data: from rows to two folders that load like official checkpoints."""

import gzip
import json
import tomllib
from dataclasses import replace
from importlib.resources import files

import pytest
from click.testing import CliRunner

from quernel.cli.main import cli
from quernel.embedder import Embedder
from quernel.errors import SettingsError
from quernel.reranker import Reranker
from quernel.train.pair import Workshop, make_pair
from quernel.train.pair_settings import PairSettings
from quernel.train.smoke import smoke_settings, write_smoke_data
from quernel.train.sources import Row


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    place = tmp_path_factory.mktemp("pair")
    write_smoke_data(place / "data")
    return Workshop(settings=smoke_settings(PairSettings.builtin()), data=place / "data", out=place / "out")


@pytest.fixture(scope="module")
def made(shop):
    return make_pair(shop)


def test_the_embedding_model_loads_and_embeds(made):
    with Embedder(made / "tiny-embedding") as embedder:
        assert embedder.info.dimensions == 256
        assert embedder.embed_queries(["gandor mis"]).shape == (1, 256)


def test_the_reranker_loads_and_finds_the_words_of_the_query(made):
    with Reranker(made / "tiny-reranker") as reranker:
        ranked = reranker.rank("bado kilu", ["meno rasi tuve", "wozy bado kilu pel"])
    assert [hit.index for hit in ranked] == [1, 0]


def test_tensor_names_and_side_files_are_those_of_the_official_folders(made):
    files = {path.relative_to(made).as_posix() for path in made.glob("tiny-*/**/*") if path.is_file()}
    common = {"config.json", "generation_config.json", "model.safetensors", "modules.json", "tokenizer.json"}
    common |= {"tokenizer_config.json", "config_sentence_transformers.json"}
    assert files == {
        *(f"tiny-embedding/{name}" for name in {*common, "1_Pooling/config.json"}),
        *(
            f"tiny-reranker/{name}"
            for name in {*common, "1_LogitScore/config.json", "chat_template.jinja", "sentence_bert_config.json"}
        ),
    }
    header = (made / "tiny-reranker/model.safetensors").read_bytes()
    names = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    assert all(name == "__metadata__" or name.startswith("model.") for name in names)


def test_a_run_goes_on_with_the_stage_that_it_was_in_and_with_those_whose_settings_changed(shop, made):
    def run_again(shop):
        said = []
        make_pair(replace(shop, say=said.append), resume=True)
        return [line.partition(":")[0] for line in said if ": done in" in line]

    with pytest.raises(SettingsError, match="holds a run"):
        make_pair(shop)
    assert run_again(shop) == []
    record = shop.work / "done.json"
    done = json.loads(record.read_text())
    done["reranker"]["done"] = done["export"]["done"] = False
    record.write_text(json.dumps(done))
    assert run_again(shop) == ["reranker", "export"]
    reranker = replace(shop.settings.reranker, strengths={"semantic": 1.0})
    other = replace(shop, settings=replace(shop.settings, reranker=reranker))
    assert run_again(other) == ["start", "negatives", "reranker", "export"]


def test_a_stage_without_what_it_needs_says_so(shop, tmp_path):
    with pytest.raises(SettingsError, match=r"The stage table lacks"):
        make_pair(replace(shop, out=tmp_path / "new"), stages=["table"])


def test_traditional_chinese_is_also_read_in_simplified_characters_and_checked_in_them(tmp_path):
    rows = [
        {"task": "Find", "query": "哪款軟體最好？", "pos": "滑鼠與鍵盤的軟體。", "lang": "zh"},
        {"task": "Find", "query": "這一題不能學", "pos": "考試的答案都在這裡。", "lang": "zh"},
    ]
    (tmp_path / "data").mkdir()
    with gzip.open(tmp_path / "data" / "mrc_zhtw_drcd_test.jsonl.gz", "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "held" / "sts").mkdir(parents=True)
    kept_out = {"split": "test", "sentence1": "考试的答案都在这里。", "sentence2": "x", "score": 1.0}
    (tmp_path / "held" / "sts" / "zh.test.jsonl").write_text(json.dumps(kept_out) + "\n", encoding="utf-8")
    shop = Workshop(
        settings=PairSettings.builtin(), data=tmp_path / "data", out=tmp_path / "out", keep_out=tmp_path / "held"
    )
    make_pair(shop, stages=["simplified"])
    assert list(shop.rows("mrc_zh_drcd")) == [Row(query="哪款软件最好？", positive="鼠标与键盘的软件。", task="Find")]
    assert shop.shares("retrieval").keys() == {"mrc_zh_drcd", "mrc_zhtw_drcd_test"}


def test_the_command_makes_the_shipped_pair_by_name(tmp_path):
    raw = tomllib.loads((files("quernel.train") / "builtin.toml").read_text())
    assert PairSettings.from_dict(raw) == PairSettings.builtin()
    write_smoke_data(tmp_path / "data")
    arguments = ["train", "builtin", "--data", str(tmp_path / "data"), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, [*arguments, "--stage", "polish"])
    assert "no stage 'polish'" in result.output
    result = CliRunner().invoke(cli, [*arguments, "--stage", "export"])
    assert "lacks" in result.output
    result = CliRunner().invoke(cli, ["train", "bultin", "-o", str(tmp_path / "out")])
    assert "or 'builtin'" in result.output


def test_an_unknown_or_missing_setting_is_refused():
    raw = tomllib.loads((files("quernel.train") / "builtin.toml").read_text())
    with pytest.raises(SettingsError, match="holds width"):
        PairSettings.from_dict({**raw, "shape": {**raw["shape"], "width": 3}})
    with pytest.raises(SettingsError, match=r"lacks \[teacher\]"):
        PairSettings.from_dict({name: table for name, table in raw.items() if name != "teacher"})
