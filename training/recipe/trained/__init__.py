"""What a recipe trains of a model: its LoRA layers and projector, a token learner, thoughts before vectors, lexical
vectors."""
