"""Wan's published weights, as diffusers lays them out, to our parameters and back.

A directory with `config.json` and safetensors files becomes one of ours, and one of
ours of that form becomes such a directory, tensor for tensor; the folder of a whole
pipeline becomes a video model. Nothing is guessed: a
tensor that is missing, unknown, of another shape or not finite is named.

    autoencoder.py   AutoencoderKLWan of Wan 2.1 and 2.2
    transformer.py   WanTransformer3DModel, one or the two experts of Wan 2.2 A14B
    lora.py          adapters of a transformer, one file
    layouts.py       the names of other layouts, weights in 8 bits
    scheduler.py     the scheduler's configuration
    pipeline.py      a whole pipeline's folder, a video model
    conversion.py    what is in a directory, to ours and back
"""

from soraflax.weights.wan.autoencoder import FAMILIES as FAMILIES
from soraflax.weights.wan.conversion import Model as Model
from soraflax.weights.wan.conversion import convert as convert
from soraflax.weights.wan.conversion import export as export
from soraflax.weights.wan.lora import load_lora as load_lora
from soraflax.weights.wan.lora import save_lora as save_lora
from soraflax.weights.wan.pipeline import Folder as Folder
from soraflax.weights.wan.transformer import load_experts as load_experts
from soraflax.weights.wan.transformer import load_transformer as load_transformer
from soraflax.weights.wan.transformer import save_transformer as save_transformer
