"""Embedders, one module each; the module's name is what a job writes after `embed: {use: …`."""
