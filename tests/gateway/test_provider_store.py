"""Providers and prices: the file's are the file's, and a price is never changed."""

import threading

import pytest
from tests.support.books import NOW, rows_of

from quernel.errors import ConflictError, NotFoundError, SettingsError
from quernel.gateway import schema
from quernel.gateway.marks import read_mark
from quernel.gateway.money import Price
from quernel.gateway.provider_store import (
    API,
    FILE,
    add_price,
    keep_only,
    list_prices,
    load_providers,
    remove_provider,
    save_provider,
    switch_provider,
)

MODEL = "Qwen/Qwen3-Embedding-4B"
DAY_MS = 86_400_000


def table_of(slug="acme", *, price="0.02", **more):
    models = [{"model": MODEL, "prices": [{"usd_per_million_tokens": price}], "options": {"a": [1, None]}}]
    return {"slug": slug, "format": "openai", "base_url": "https://a.example/v1", "models": models, **more}


def do(database, operation, *arguments, **options):
    return database.write_now(lambda connection: operation(connection, *arguments, **options))


def save(database, table=None, *, source=FILE):
    return do(database, save_provider, table or table_of(), source=source, now=NOW)


def loaded(database):
    return {provider.slug: provider for provider in database.read_now(load_providers)}


def revision(database):
    return database.read_now(read_mark)


def prices_of(database, slug="acme"):
    return database.read_now(lambda connection: list_prices(connection, slug))


def test_a_saved_provider_is_loaded_with_its_prices(database):
    saved = save(database)
    provider = loaded(database)["acme"]
    assert (provider.slug, provider.base_url, provider.enabled) == ("acme", "https://a.example/v1", True)
    (offer,) = provider.models
    assert offer.options == {"a": [1, None]}
    (price,) = offer.prices
    assert price.id
    assert price == Price(token=20_000, id=price.id)
    assert saved.models[0].prices == (Price(token=20_000),)


def test_a_start_that_changes_nothing_tells_nobody(database):
    save(database)
    before = revision(database), rows_of(database, schema.prices)
    save(database)
    assert (revision(database), rows_of(database, schema.prices)) == before
    save(database, table_of(region="eu"))
    assert revision(database) == before[0] + 1
    assert loaded(database)["acme"].region == "eu"


def test_no_price_is_ever_changed(database):
    save(database)
    with pytest.raises(ConflictError, match="another price"):
        save(database, table_of(price="0.03"))
    with pytest.raises(ConflictError, match="another price"):
        do(database, add_price, "acme", MODEL, Price(token=1), now=NOW)
    assert [price.token for price in prices_of(database)[MODEL.lower()]] == [20_000]


def test_a_new_price_holds_from_its_day_on(database):
    save(database)
    before = revision(database)
    added = do(database, add_price, "acme", MODEL.upper(), Price(token=5, valid_from=NOW + DAY_MS), now=NOW)
    assert added.id
    again = do(database, add_price, "acme", MODEL, Price(token=5, valid_from=NOW + DAY_MS), now=NOW + 1)
    assert again == added
    assert revision(database) == before + 1
    (offer,) = loaded(database)["acme"].models
    assert [offer.price(moment).token for moment in (0, NOW, NOW + DAY_MS)] == [20_000, 20_000, 5]
    save(database)
    assert len(loaded(database)["acme"].models[0].prices) == 2, "a start keeps prices that were added since"


def test_a_price_is_for_what_is_offered(database):
    save(database)
    for slug, model in (("none", MODEL), ("acme", "other/model")):
        with pytest.raises(NotFoundError):
            do(database, add_price, slug, model, Price(token=1), now=NOW)


def test_prices_stay_when_their_provider_goes_since_usage_names_them(database):
    save(database, source=API)
    before = prices_of(database)
    do(database, remove_provider, "acme")
    assert loaded(database) == {}
    assert prices_of(database) == before
    save(database, source=API)
    assert loaded(database)["acme"].models[0].prices == before[MODEL.lower()]


def test_providers_of_the_file_are_changed_there_and_nowhere_else(database):
    save(database)
    for operation in (
        lambda: save(database, table_of(region="eu"), source=API),
        lambda: do(database, remove_provider, "acme"),
    ):
        with pytest.raises(ConflictError, match="configuration file"):
            operation()
    assert loaded(database)["acme"].region is None


def test_what_the_file_no_longer_has_goes_and_what_the_api_has_stays(database):
    for slug, source in (("a", FILE), ("b", FILE), ("c", API)):
        save(database, table_of(slug), source=source)
    before = revision(database)
    assert do(database, keep_only, ["a"]) == ["b"]
    assert sorted(loaded(database)) == ["a", "c"]
    assert do(database, keep_only, ["a"]) == []
    assert revision(database) == before + 1
    assert do(database, keep_only, []) == ["a"]
    assert sorted(loaded(database)) == ["c"]


def test_the_file_takes_over_what_the_api_made(database):
    save(database, source=API)
    save(database, source=FILE)
    with pytest.raises(ConflictError):
        do(database, remove_provider, "acme")


def test_a_provider_that_is_switched_off_comes_back_with_the_next_start_of_its_file(database):
    save(database)
    before = revision(database)
    do(database, switch_provider, "acme", enabled=False)
    assert not loaded(database)["acme"].enabled
    assert revision(database) == before + 1
    save(database)
    assert loaded(database)["acme"].enabled
    with pytest.raises(NotFoundError, match="no provider"):
        do(database, switch_provider, "none", enabled=False)
    with pytest.raises(NotFoundError, match="no provider"):
        do(database, remove_provider, "none")


def test_the_files_providers_come_first_and_the_others_after_them_by_name(database):
    for slug, source in (("b", API), ("z", FILE), ("a", API)):
        save(database, table_of(slug), source=source)
    assert list(loaded(database)) == ["z", "a", "b"]


def test_a_table_that_describes_none_is_refused_and_changes_nothing(database):
    with pytest.raises(SettingsError):
        save(database, {**table_of(), "base_ur": "x"})
    assert rows_of(database, schema.prices) == []


def test_gateways_that_start_at_once_write_one_provider(database):
    barrier, faults = threading.Barrier(4, timeout=20), []

    def start():
        barrier.wait()
        try:
            save(database)
        except Exception as error:  # noqa: BLE001
            faults.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(rows_of(database, schema.providers)) == len(rows_of(database, schema.prices)) == 1
