"""The prompt expander's stage: short captions in, detailed captions out."""
