from hypothesis import given
from hypothesis import strategies as st

from quernel.engine.prefix_cache import PrefixCache

prefix = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=2).map(tuple), min_size=1, max_size=2).map(tuple)
operations = st.lists(st.tuples(prefix, st.integers(0, 12)), max_size=30)


@given(operations, st.integers(0, 20))
def test_the_bound_holds_and_an_entry_is_always_that_of_its_prefix(operations, max_bytes):
    cache = PrefixCache(max_bytes)
    for path, size in operations:
        cache.put(path, ("entry of", path), size)
        assert cache.num_bytes <= max_bytes
        found = cache.get(path)
        assert found == ("entry of", path) if size <= max_bytes else found in (None, ("entry of", path))


def test_the_least_recently_used_entry_makes_room():
    cache = PrefixCache(10)
    for path in (((1,),), ((2,),)):
        cache.put(path, path, 5)
    assert cache.get(((1,),)) is not None
    cache.put(((3,),), "three", 5)
    assert cache.get(((2,),)) is None
    assert cache.get(((1,),)) is not None
    assert (cache.num_hits, cache.num_misses) == (2, 1)


def test_an_entry_larger_than_the_cache_is_not_kept_and_drops_nothing():
    cache = PrefixCache(10)
    cache.put(((1,),), "small", 5)
    cache.put(((2,),), "large", 11)
    assert len(cache) == 1
    assert cache.get(((1,),)) == "small"
