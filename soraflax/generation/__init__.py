"""From a job to a video; read in this order.

tasks          ways of prompting: which pixels are kept            -> Conditioning
conditioning   given pixels, `Job`; the two passes                 -> Canvas
canvas         a latent, and what of it is known                   -> Segment
windows        long canvases in windows, large ones in tiles       -> Segment
batching       segments in rows of one capacity                    -> Packed
sampling       rows denoised, step by step (`diffusion.solver`)
caching        steps that are skipped
generator      all of it: jobs in, videos out
progress       who looks on, and may stop it
prompts        any text made one that a model can read

model, jobs, resizing, provenance   the front door, `soraflax.load`
"""
