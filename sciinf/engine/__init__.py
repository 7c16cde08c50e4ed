"""How blocks of simulations are run: seeds, retries, worker processes, progress."""
