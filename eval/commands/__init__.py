"""The commands of `mllm-embed-eval`, and the options that they share.

The only place of the evaluator that sees argparse.
"""
