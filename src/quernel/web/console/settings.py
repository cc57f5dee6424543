"""An account's settings: its name, what providers must promise, and its own keys to them."""

from starlette.responses import Response

from quernel.web.api import ApiError
from quernel.web.console.desk import Desk, page, segment
from quernel.web.console.fields import is_ticked
from quernel.web.console.providers import offered


async def show_settings(desk: Desk) -> Response:
    """The settings."""
    return await _show(desk)


async def change_settings(desk: Desk) -> Response:
    """The settings, changed."""
    form = await desk.form()
    rules = {name: is_ticked(form, name) for name in ("zdr", "no_training", "capture")}
    try:
        await desk.ask("PATCH", "/v1/account", query=desk.of, body={"name": form.get("name", "").strip(), **rules})
    except ApiError as error:
        return await _show(desk, problem=error)
    return desk.go("/console/settings", "changed")


async def store_credential(desk: Desk) -> Response:
    """The account's own key to a provider, stored."""
    form = await desk.form()
    path = f"/v1/credentials/{segment(form.get('provider', ''))}"
    try:
        await desk.ask("PUT", path, query=desk.of, body={"key": form.get("key", "").strip()})
    except ApiError as error:
        return await _show(desk, problem=error)
    return desk.go("/console/settings", "stored")


async def drop_credential(desk: Desk) -> Response:
    """The account's own key to a provider, forgotten."""
    path = f"/v1/credentials/{segment((await desk.form()).get('provider', ''))}"
    try:
        await desk.ask("DELETE", path, query=desk.of)
    except ApiError as error:
        return await _show(desk, problem=error)
    return desk.go("/console/settings", "dropped")


async def _show(desk: Desk, *, problem: ApiError | None = None) -> Response:
    found = await desk.get("/v1/account", **desk.of)
    credentials = (await desk.get("/v1/credentials", **desk.of))["data"]
    providers = {one["provider"]: one["provider_name"] for _, one in await offered(desk) if one["byok"]}
    return desk.show(
        "settings.html",
        problem=problem,
        found=found,
        credentials=credentials,
        providers=dict(sorted(providers.items())),
    )


ROUTES = (
    page("/console/settings", show_settings),
    page("/console/settings", change_settings, method="POST"),
    page("/console/settings/credentials", store_credential, method="POST"),
    page("/console/settings/credentials/drop", drop_credential, method="POST"),
)
