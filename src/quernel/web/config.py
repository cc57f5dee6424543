"""Settings of the storefront."""

from dataclasses import dataclass

from quernel.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class WebConfig:
    """Whether the gateway has pages, and what they call it."""

    pages: bool = setting(True, "Show pages: the models, a playground and a console. The API is there either way.")
    site_name: str = setting("Quernel", "What pages call this gateway.")
    tagline: str = setting(
        "Text to vectors, documents in order, on machines you choose.", "One line below the name on the first page."
    )
    terms_url: str | None = setting(None, "Address of the terms of use, linked at the foot of every page.")
    contact: str | None = setting(None, "Address for questions, https: or mailto:, linked at the foot of every page.")
