"""`soraflax info`: what a checkpoint holds."""

import argparse
import json

from soraflax.pretrained import io as model_io


def run(args: argparse.Namespace) -> None:
    """Print the facts as JSON."""
    directory = model_io.find_model(args.checkpoint)
    params, config = model_io.load_model(directory)
    count = sum(leaf.size for leaf in model_io.flatten(params).values())
    facts = {
        "directory": str(directory),
        "parameters": count,
        "digest": model_io.model_digest(directory),
        "config": config,
    }
    print(json.dumps(facts, indent=2))
