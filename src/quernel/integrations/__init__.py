"""Quernel behind the interfaces of other libraries: change an import, keep the code.

Each module needs its library. All take `base_url` for a server, or load the model into this process.
"""
