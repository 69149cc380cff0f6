"""The commands of `mllm-embed`, one a file; no module outside commands sees argparse.

They import the library when they run: `--help` would wait seconds for torch.
"""
