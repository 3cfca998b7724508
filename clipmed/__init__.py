"""clipmed: from medical-imaging archives to a published CLIP-style model."""
