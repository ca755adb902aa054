"""How much each layer matters: one score per layer, and the damage that removing it really does."""
