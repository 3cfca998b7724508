"""Sources into spools: PMC figure archives, labelled image datasets, phantoms."""
