"""Work that several processes share, on one host or on many: which of them may write to a folder.

May import: `errors`.
"""
