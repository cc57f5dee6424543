"""Many providers behind one API: routing, accounts, limits, a ledger, and the AI SDK's gateway protocol."""
