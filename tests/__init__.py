"""The tests, one folder a room. Helpers of theirs are imported as `tests.ROOM.NAME`."""
