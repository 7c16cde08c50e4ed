"""Files of a store on disk: blocks of simulations, journals, packs, and the folders that hold them."""
