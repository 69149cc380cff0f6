"""What a model has beside its base: a token learner before the language model, latent attention and projection behind.

Each is saved in a folder of its own beside the model, as JSON and safetensors.
"""
