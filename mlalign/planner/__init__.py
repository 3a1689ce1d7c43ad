"""What a step will need: memory by named tensors, and time by operations. Pure arithmetic; imports nothing heavy."""
