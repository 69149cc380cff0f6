"""The front door, `MLLMEmbedder`, and how its work is planned.

Nothing is computed or tokenised twice, and inputs that begin alike share the computation of what they share.
"""
