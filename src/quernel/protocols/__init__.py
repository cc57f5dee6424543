"""Wire formats: from bytes to the neutral requests and results of `quernel.types`, and back.

One codec per format, used from both ends: what the server decodes, a client encodes. The only place that spells a wire
field; it knows no model, no socket and no HTTP route.
"""
