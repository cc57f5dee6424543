"""The storefront: pages over the gateway's own API, which they ask as any client does."""
