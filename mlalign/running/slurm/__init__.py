"""How a step becomes a process: one module per launcher."""
