"""Opening models and tokenizers, and turning messages into their text: the only places that do."""
