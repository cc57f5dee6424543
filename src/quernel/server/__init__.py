"""One machine over HTTP: routes, handlers, and what runs them. It sees only the protocols of `quernel.types`."""
