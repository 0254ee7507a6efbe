"""Speed and memory of single parts, each as a ratio to a peer or a physical limit measured in the same run.

`python -m benchmarks.micro.NAME [--json]`. A ratio that misses its bound is a result, not an error: machines are noisy.
"""
