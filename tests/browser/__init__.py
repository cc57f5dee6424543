"""The storefront in Chromium."""
