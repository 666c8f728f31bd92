"""From a config and a corpus to checkpoints."""
