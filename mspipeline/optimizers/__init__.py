"""What decides a step's update beside the gradient: schedules of the learning rate. Imports nothing of the suite."""
