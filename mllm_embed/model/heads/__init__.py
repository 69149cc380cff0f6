"""What stands behind a base model and makes vectors of its states: latent attention before pooling, a projection after.

Each is saved in a folder of its own beside the model, as JSON and safetensors.
"""
