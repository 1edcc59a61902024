"""The stages of training: each wires data, model and loss to `soraflax.train.loop`."""
