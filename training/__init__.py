"""Training: the loop, the losses, the recipes that lead from clips to a model, and the cards of models."""
