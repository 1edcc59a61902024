# %% [markdown]
# # A tour of the library
#
# A notebook in percent form: open it in VS Code or with jupytext, or run it as a
# script. It needs a trained model, such as the one that `make demo` leaves in
# `demo/video`.

# %%
import jax
import numpy as np

import soraflax

MODEL = "demo/video"
STEPS = 25

model = soraflax.load(MODEL)
config = soraflax.SamplingConfig(steps=STEPS, guidance=2.0)
model

# %% [markdown]
# ## A video from text
# The last line of a cell shows it.

# %%
text = "a large red circle moves right on a white background"
video = model.generate(text, size=(64, 64), frames=17, config=config)
video

# %% [markdown]
# It knows how it was made, and so does the file that it is saved to.

# %%
print(video.frames.shape, video.frames.dtype, video.fps)
print({key: video.metadata[key] for key in ("task", "prompt", "seed")})
path = video.save("tour.mp4")

# %% [markdown]
# ## Given pixels
# Every task says which pixels are given; they come back bit for bit.

# %%
moving = model.animate(video.frames[0], text, frames=17, config=config)
assert (moving.frames[0] == video.frames[0]).all()
moving

# %%
longer = model.extend(video, text, config=config)
assert (longer.frames[: len(video)] == video.frames).all()
longer

# %%
blue = "a large blue circle moves right on a white background"
model.edit(video, blue, strength=0.7, config=config)

# %% [markdown]
# What a task hands on is small: a video, and a mask of what is kept.

# %%
first = video.frames[0]
given = soraflax.tasks.animate(model.grid, first, frames=17, fps=video.fps)
print("frames to generate:", given.frames, "- size:", given.size)

# %% [markdown]
# ## Several jobs in shared rows
# Their pixels are those that each has alone.

# %%
tall = soraflax.tasks.generate(model.grid, size=(64, 96), frames=9, fps=model.fps)
still = soraflax.tasks.image(model.grid, size=(96, 64))
jobs = [soraflax.Job(tall, text, seed=1), soraflax.Job(still, blue, seed=2)]
videos = model.run(jobs, config)
alone = model.run(jobs[:1], config)
assert (videos[0].frames == alone[0].frames).all()
videos

# %% [markdown]
# ## Watching, and stopping early

# %%
deviations = []


def watch(step: soraflax.Step) -> bool:
    """Notes how much the estimate varies; stops halfway."""
    deviations.append(float(np.std(step.latents()[0])))
    return step.done >= STEPS // 2


early = model.generate(text, size=(64, 64), frames=9, config=config, callback=watch)
print([round(value, 2) for value in deviations])
early

# %% [markdown]
# ## The parts: latent, segment, packed row, prediction
# The autoencoder makes a latent of the video; its patches are a segment; segments share
# a row; the transformer predicts one patch for every token.

# %%
parts = model.generator.model  # the trained transformer and its autoencoder
frames = video.frames.astype(np.float32) / 127.5 - 1
latent = np.asarray(parts.autoencoder.encode(frames[None]))[0]  # [t, h, w, z]
words = parts.tokenizer.encode(text, max_length=parts.config.text_length)
segment = soraflax.Segment.from_latent(
    parts.config.statistics.normalize(latent).astype(np.float32),
    np.asarray(words, np.int32),
    patch=parts.config.transformer.patch,
)
twice = [[segment, segment]]  # a batch of one row, which holds the clip two times
row = soraflax.assemble(twice, soraflax.RowShape.fitting(twice, align=16))
print("video", video.frames.shape, "latent", latent.shape)
print("segment ids", np.unique(row.segments, return_counts=True))

# %%
transformer = soraflax.DiT(parts.config.transformer)
prediction = np.asarray(
    transformer.apply({"params": jax.device_put(parts.params)}, row)
)
first, second = (prediction[row.segments == number] for number in (1, 2))
difference = first - second
print(prediction.shape, "the two copies differ by", float(np.abs(difference).max()))
