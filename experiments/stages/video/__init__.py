"""Stage two: the packed diffusion transformer, from latents and captions."""
