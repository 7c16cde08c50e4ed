"""What one block of simulations looks like on disk, below the store that holds many."""
