"""Stage one: the spacetime autoencoder, from crops of clips."""
