"""The stages of training: each wires data, model and loss to `soraflax.train.loop`.

A stage is a package of `config` (the schema of its run), `job` (parameters and loss as
a `loop.TrainJob`) and `stage` (its `run`); `data` reads the training data,
`evaluation` measures, `export` writes the model. All share `run_config` and `runtime`.
"""
