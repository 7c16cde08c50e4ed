"""Further scores of how strange data are, each learned from fresh simulations, one file each."""
