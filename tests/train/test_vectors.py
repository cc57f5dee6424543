"""Vectors that a teacher has given already."""

import numpy as np
import pytest

from quernel.errors import SettingsError
from quernel.train.vectors import KnownVectors, write_vectors
from quernel.types import InputType


def test_texts_are_found_and_others_are_not(tmp_path):
    texts = [f"text {number}" for number in range(200)] + ["\ud800 broken", ""]
    vectors = np.random.default_rng(0).standard_normal((len(texts), 8)).astype(np.float32)
    write_vectors(tmp_path / "v.npz", texts, vectors)
    assert [path.name for path in tmp_path.iterdir()] == ["v.npz"]
    known = KnownVectors(tmp_path / "v.npz")
    assert len(known) == len(texts)
    order = np.random.default_rng(1).permutation(len(texts))
    found = known([texts[number] for number in order], InputType.QUERY, "any")
    np.testing.assert_allclose(found, vectors[order], atol=2e-3)
    assert found.dtype == np.float32
    mixed = known(["text 3", "never seen", "zzz"], InputType.DOCUMENT, None)
    assert np.isfinite(mixed).all(axis=1).tolist() == [True, False, False]


def test_other_files_are_named(tmp_path):
    (tmp_path / "v.npz").write_bytes(b"no vectors")
    with pytest.raises(SettingsError, match=r"v\.npz holds no vectors"):
        KnownVectors(tmp_path / "v.npz")
    with pytest.raises(SettingsError, match="holds no vectors"):
        KnownVectors(tmp_path / "absent.npz")
