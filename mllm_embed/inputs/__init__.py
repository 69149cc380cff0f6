"""From a query or a document to a batch: pictures are read, prompts are filled, words become tokens.

Every picture comes through `images.load_image`, every prompt from a `prompts.PromptSet`.
"""
