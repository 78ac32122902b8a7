"""What train.py is made of: tasks, flags, optimisation, processes, logs."""
