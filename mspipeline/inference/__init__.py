"""From a network's outputs on slices or windows to a volume on the scan's grid.

May import `training.checkpoint`, and all that lies below `training`.
"""
