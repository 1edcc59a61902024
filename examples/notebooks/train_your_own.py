# %% [markdown]
# # Train your own
#
# A notebook in percent form: open it in VS Code or with jupytext, or run it as a
# script. From clips to a model that generates, in the tiny sizes that the tests train:
# minutes, and pictures that are still noise. With `SIZE = "small"`, `COUNT = 4000` this
# is `make demo`.

# %%
import pathlib
from typing import Any

import numpy as np

import soraflax
from data_pipelines import prepare, records
from experiments.configs import autoencoder_small, video_small
from experiments.stages.autoencoder import stage as autoencoder
from experiments.stages.video import stage as video

SIZE, COUNT, OUT = "tiny", 64, pathlib.Path("trained")

# %% [markdown]
# ## A dataset
# Here of the embedded world; `prepare.prepare_folder(FOLDER, dataset)` makes one of
# your clips and captions.

# %%
dataset = OUT / "dataset"
prepare.prepare_world("bodies", dataset, count=COUNT, overwrite=True)
clips = records.open_dataset(dataset, "train")
print(len(clips), "clips; the first:", dict(clips[0].captions))

# %% [markdown]
# ## The autoencoder
# A config is a Python file; any field of it can be changed before the run.

# %%
config: Any = autoencoder_small.get_config(SIZE)
config.data.path = str(dataset)
autoencoder.run(config, OUT / "autoencoder")

# %% [markdown]
# ## The transformer
# Clips are encoded once, packed into rows, and denoised under random masks of what is
# given.

# %%
config = video_small.get_config(SIZE)
config.data.path = str(dataset)
config.autoencoder = str(OUT / "autoencoder")
result = video.run(config, OUT / "video")
print(result)

# %% [markdown]
# ## A video
# `OUT/video/model` is all that generation needs.

# %%
model = soraflax.load(OUT / "video")
made = model.generate(
    "a large red circle moves right on a white background",
    size=(64, 64),
    frames=5,
    config=soraflax.SamplingConfig(steps=4, guidance=2.0),
)
print(made, "mean", np.round(made.frames.mean(), 1))
made
