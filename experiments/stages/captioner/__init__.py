"""The captioner's stage: latents in, detailed captions out."""
