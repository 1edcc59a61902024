"""Stage three: a trained video model on other clips, by adapters or as a whole."""
