"""The stages: one file each, found by its name. A stage never imports a stage."""
