"""What the training stages share: configuration (light), rows, the trainer's run, model cards."""
