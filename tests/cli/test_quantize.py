"""`quernel quantize`."""

from quernel import Embedder
from quernel.types import EmbeddingRequest
from tests.support.checkpoints import make_checkpoint


def test_the_folder_that_it_writes_is_a_model(tmp_path, run):
    folder = make_checkpoint(tmp_path / "model", layers=1)
    done = run("quantize", str(folder), str(tmp_path / "int8"))
    assert done.exit_code == 0, done.stderr
    assert "MB" in done.stderr
    with Embedder(tmp_path / "int8") as embedder:
        assert embedder.embed_sync(EmbeddingRequest(inputs=["a"])).vectors.shape == (1, 64)


def test_a_folder_that_exists_is_left_alone(tmp_path, run):
    folder = make_checkpoint(tmp_path / "model", layers=1)
    (tmp_path / "int8").mkdir()
    (tmp_path / "int8" / "mine").touch()
    done = run("quantize", str(folder), str(tmp_path / "int8"))
    assert done.exit_code == 2
    assert "exists" in done.stderr
    assert [file.name for file in (tmp_path / "int8").iterdir()] == ["mine"]
