"""Run folders and files of others: a trained run exported, and a run made of an ONNX file or of published weights.

May import: NumPy; `backends`, `channels`, `config`, `errors`, `files`, `interchange`, `labels`, `models`, `network`,
`recipes`, `runs`, `training.checkpoint`.
"""
