"""The commands of `mllm-embed-train`, one a file.

The only place of the trainer that sees argparse.
"""
