"""Further ways to tell how strange data are, each learned from fresh simulations: one file, one way."""
