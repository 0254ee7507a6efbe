"""What decides a step's update beside the gradient: schedules of the learning rate, clipping.

May import: NumPy.
"""
