"""How draws are made from what was learned: one way, one file; rounds around one observation."""
