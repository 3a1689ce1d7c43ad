"""What a step will need: memory by named tensors, time by operations. Imports nothing heavy."""
