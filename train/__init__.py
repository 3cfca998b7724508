"""The contrastive trainer: recipes, stream to loop, gradient cache, losses, checkpoints, launch."""
