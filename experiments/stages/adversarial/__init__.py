"""Stage one, continued: the autoencoder against a discriminator."""
