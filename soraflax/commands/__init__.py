"""What the command line does, a module per command; `soraflax.cli` parses for them."""
