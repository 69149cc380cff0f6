"""Contrastive training in stages: recipes, rows, batches, losses, and transformers' Trainer."""
