"""What the stages that train share: their configuration (light), their rows, the trainer's run, and
the model card.
"""
