"""Whether the books agree, for operators."""

from starlette.responses import Response

from quernel.web.console.desk import Desk, page


async def show_books(desk: Desk) -> Response:
    """The numbers in accounts next to what their entries and holds come to."""
    return desk.show("books.html", found=await desk.get("/v1/reconcile"))


ROUTES = (page("/console/books", show_books),)
