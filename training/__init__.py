"""Training: the loop, the losses, the recipes that turn clips into a model, and the model cards."""
