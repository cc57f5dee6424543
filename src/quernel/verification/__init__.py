"""Whether a model computes here what it computes elsewhere: published values, and the reference implementation.

`golden` holds what others published, `checks` compares, `reference` runs transformers on this machine. The models
under test are seen through the two protocols of `types` only; torch is imported by `reference` alone, and late.
"""
