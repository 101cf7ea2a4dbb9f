"""What the tests stand on: a model server over real HTTP whose answers, delays and faults are known."""
