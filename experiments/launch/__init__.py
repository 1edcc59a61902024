"""How a cluster runs a stage: manifests of schedulers, and what fills them in."""
