"""Published embedders as data: how each is asked, pooled and shown pictures, one YAML file a family of models."""
